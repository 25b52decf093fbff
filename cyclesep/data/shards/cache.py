"""Cache of remote shards on the local disk: downloaded on first use, verified, shared by processes, limited in size.

    CYCLESEP_CACHE      folder of the cache; default: `cyclesep/shards` in XDG_CACHE_HOME or ~/.cache, or in the
                        temporary folder if the home folder is not writable
    CYCLESEP_CACHE_GIB  its limit in GiB; default: all free space, except 5 % of the disk

Files are named after the SHA-256 of their content, which is verified after the download, so shards of different corpora
or ingests never collide. Processes coordinate through files in the folder and flock(2), which the system releases when
a process ends:

    HASH.lmdb              a complete shard; its modification time is that of the last opening
    .HASH.lmdb.*.partial   an incomplete download (cyclesep.storage.s3_transfers)
    HASH.lock              locked by the process that downloads the shard; contains the bytes reserved for it
    .ledger                locked while space is counted and freed

The least recently opened shards are evicted first. An evicted shard stays readable where it is mapped; its space is
freed when that process opens its next remote shard.
"""

import fcntl
import os
import shutil
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from cyclesep.data.shards.manifest import ShardFile
from cyclesep.errors import ConfigError, StorageError
from cyclesep.storage import atomic_io
from cyclesep.storage.download_cache import FOLDER_VARIABLE, cache_folder
from cyclesep.storage.s3_transfers import download

LIMIT_VARIABLE = "CYCLESEP_CACHE_GIB"
NUM_PREFETCH_THREADS = 8

_FREE_FRACTION = 0.05
_WAIT_SECONDS = 0.1
_LEDGER = ".ledger"


@dataclass(frozen=True)
class ShardCache:
    """A folder with shards of any number of corpora; safe for concurrent use by processes and threads."""

    folder: Path
    limit_bytes: int | None = None
    """None: all free space, except 5 % of the disk."""

    @classmethod
    def from_environment(cls) -> "ShardCache":
        """Return the cache configured by environment variables; raise ConfigError for an invalid limit."""
        value = os.environ.get(LIMIT_VARIABLE)
        try:
            limit = round(float(value) * 2**30) if value else None
        except (ValueError, OverflowError):
            limit = 0
        if limit is not None and limit <= 0:
            raise ConfigError(
                f"{LIMIT_VARIABLE}={value}: invalid value; set the limit of the cache in GiB, for example 50"
            )
        return cls(cache_folder(), limit)

    @contextmanager
    def local_path(self, uri: str, shard: ShardFile) -> Iterator[Path]:
        """Yield the file of a shard, downloaded from the object `uri` if necessary; it is not evicted during the block.

        Raises StorageError if it cannot be downloaded, does not match the manifest, or does not fit into the cache.
        """
        path = self._path_of(shard)
        while (file := self._open_locked(path)) is None:
            self._download(uri, shard)
        with file:
            yield path

    def discard(self, shard: ShardFile) -> None:
        """Delete a damaged file."""
        self._path_of(shard).unlink(missing_ok=True)

    def prefetch(self, wanted: Iterable[tuple[str, ShardFile]]) -> None:
        """Download in parallel as many of the first `wanted` (uri, shard) as fit into the cache together.

        Skips shards that another process is downloading, so processes that prefetch the same shards share the work.
        Stops silently at the first error: reading the shard raises it.
        """
        waiting = iter(self._select_fitting(wanted))
        guard = threading.Lock()

        def download_some() -> None:
            with suppress(StorageError):
                while True:
                    with guard:
                        item = next(waiting, None)
                    if item is None:
                        return
                    self._download(*item, wait=False)

        threads = [threading.Thread(target=download_some, daemon=True) for _ in range(NUM_PREFETCH_THREADS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def _path_of(self, shard: ShardFile) -> Path:
        return self.folder / f"{shard.sha256}.lmdb"

    def _open_locked(self, path: Path) -> IO[bytes] | None:
        """Return the file under a shared lock, which protects it from eviction; None if it does not exist."""
        try:
            with suppress(FileNotFoundError):
                file = path.open("rb")
                fcntl.flock(file, fcntl.LOCK_SH)
                if os.fstat(file.fileno()).st_nlink:
                    # Eviction goes by this time.
                    os.utime(file.fileno())
                    return file
                file.close()
        except OSError as problem:
            raise self._unusable_error(problem) from problem
        return None

    def _download(self, uri: str, shard: ShardFile, *, wait: bool = True) -> None:
        """Download a shard unless another process does; with `wait`, return when the download has ended."""
        path = self._path_of(shard)
        with self._exclusive(self.folder / f"{shard.sha256}.lock", wait=wait) as lock:
            if lock is not None and not path.exists():
                self._reserve_space(lock, shard)
                download(uri, path, sha256=shard.sha256)

    @contextmanager
    def _exclusive(self, path: Path, *, wait: bool) -> Iterator[IO[str] | None]:
        """Lock the file `path` and delete it afterwards; yield None without `wait` if another process has locked it."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            lock = atomic_io.lock_file(path, wait=wait)
        except OSError as problem:
            raise self._unusable_error(problem) from problem
        if lock is None:
            yield None
            return
        with lock:
            try:
                yield lock
            finally:
                path.unlink(missing_ok=True)

    def _reserve_space(self, lock: IO[str], shard: ShardFile) -> None:
        """Reserve space for a shard; wait for running downloads if they take up all space."""
        try:
            while not self._try_to_reserve(lock, shard):
                time.sleep(_WAIT_SECONDS)
        except OSError as problem:
            raise self._unusable_error(problem) from problem

    def _try_to_reserve(self, lock: IO[str], shard: ShardFile) -> bool:
        with (self.folder / _LEDGER).open("a") as ledger:
            fcntl.flock(ledger, fcntl.LOCK_EX)
            reserved = {path.stem: num_bytes for path in self.folder.glob("*.lock") if (num_bytes := _reserved(path))}
            files = _CachedFiles(self.folder)
            removable = [file for file in files.oldest_first if file.sha256 not in {*reserved, shard.sha256}]
            limit = self._limit(files.bytes)
            if shard.bytes > limit:
                raise StorageError(self._too_small_message(shard, limit))
            free = limit - sum(reserved.values()) - sum(file.bytes for file in removable)
            for file in removable:
                if free >= shard.bytes:
                    break
                free += file.bytes if _remove_unused(file.path) else 0
            if free < shard.bytes:
                return False
            lock.write(str(shard.bytes))
            lock.flush()
            return True

    def _select_fitting(self, wanted: Iterable[tuple[str, ShardFile]]) -> list[tuple[str, ShardFile]]:
        room = self._limit(_CachedFiles(self.folder).bytes) if self.folder.exists() else self.limit_bytes
        fitting = []
        for uri, shard in wanted:
            if room is not None:
                room -= shard.bytes
                if room < 0:
                    break
            fitting.append((uri, shard))
        return [(uri, shard) for uri, shard in fitting if not self._path_of(shard).exists()]

    def _limit(self, used: int) -> int:
        if self.limit_bytes is not None:
            return self.limit_bytes
        disk = shutil.disk_usage(self.folder)
        return used + disk.free - round(_FREE_FRACTION * disk.total)

    def _too_small_message(self, shard: ShardFile, limit: int) -> str:
        required = f"a shard needs {shard.bytes / 2**30:.3g} GiB"
        if self.limit_bytes is not None:
            limited = f"the shard cache is limited to {limit / 2**30:.3g} GiB"
            return f"{self.folder}: {limited}, but {required}; raise {LIMIT_VARIABLE}"
        free = shutil.disk_usage(self.folder).free / 2**30
        return (
            f"{self.folder}: the disk of the shard cache has {free:.3g} GiB free and 5 % of it are kept free, but "
            f"{required}; free space, set {FOLDER_VARIABLE} to a folder on a larger disk, or set {LIMIT_VARIABLE}"
        )

    def _unusable_error(self, problem: OSError) -> StorageError:
        return StorageError(
            f"{self.folder}: the shard cache cannot be used ({problem.strerror}); "
            f"set {FOLDER_VARIABLE} to a writable folder"
        )


class _CachedFile:
    """A complete or partial shard in the cache."""

    def __init__(self, path: Path) -> None:
        status = path.stat()
        self.path = path
        self.sha256 = path.name.removeprefix(".").partition(".")[0]
        self.bytes = status.st_size
        self.used_at = status.st_mtime_ns


class _CachedFiles:
    """The current files of a cache."""

    def __init__(self, folder: Path) -> None:
        found = []
        for pattern in ("*.lmdb", ".*.lmdb.*.partial"):
            for path in folder.glob(pattern):
                # Another process may rename or delete it.
                with suppress(FileNotFoundError):
                    found.append(_CachedFile(path))
        self.oldest_first = sorted(found, key=lambda file: file.used_at)
        self.bytes = sum(file.bytes for file in found)


def _reserved(path: Path) -> int:
    """Return the bytes reserved by the process that holds a lock file; 0 if it is not locked."""
    with suppress(FileNotFoundError), path.open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return int(file.read() or 0)
    return 0


def _remove_unused(path: Path) -> bool:
    """Delete a file unless a process is opening it; return whether it was deleted."""
    with suppress(FileNotFoundError), path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        path.unlink()
    return True
