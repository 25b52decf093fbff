"""Cache of remote shards on the local disk: downloaded on first use, verified, shared by processes, limited in size.

    CYCLESEP_CACHE      folder of the cache; default: `cyclesep/shards` in XDG_CACHE_HOME or ~/.cache, or in the
                        temporary folder if the home folder is not writable
    CYCLESEP_CACHE_GIB  its limit in GiB; default: all free space, except 5 % of the disk

Files are named after the SHA-256 of their content, which is verified after the download, so shards of different corpora
or ingests never collide. Processes coordinate through files in the folder, and locks that the system releases when a
process ends:

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
from queue import Empty, SimpleQueue
from typing import IO, NamedTuple

from filelock import Timeout

from cyclesep.data.shards.manifest import ShardFile
from cyclesep.errors import ConfigError, StorageError
from cyclesep.storage.download_cache import FOLDER_VARIABLE, cache_folder, locked, unusable
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
        while (file := self._open_shared(path)) is None:
            with locked(self._lock_of(shard.sha256)):
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
        waiting: SimpleQueue[tuple[str, ShardFile]] = SimpleQueue()
        for item in self._select_fitting(wanted):
            waiting.put(item)

        def download_some() -> None:
            with suppress(StorageError, Empty):
                while True:
                    uri, shard = waiting.get_nowait()
                    with suppress(Timeout), locked(self._lock_of(shard.sha256), timeout=0):
                        self._download(uri, shard)

        # Not a pool, whose threads would keep the process from ending before the last download.
        threads = [threading.Thread(target=download_some, daemon=True) for _ in range(NUM_PREFETCH_THREADS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def _path_of(self, shard: ShardFile) -> Path:
        return self.folder / f"{shard.sha256}.lmdb"

    def _lock_of(self, sha256: str) -> Path:
        return self.folder / f"{sha256}.lock"

    def _open_shared(self, path: Path) -> IO[bytes] | None:
        """Return the file under a shared lock, which protects it from eviction; None if it does not exist."""
        try:
            file = path.open("rb")
            # Not by filelock, whose shared lock is a database that takes as long as mapping the shard.
            fcntl.flock(file, fcntl.LOCK_SH)
            if os.fstat(file.fileno()).st_nlink:
                # Eviction goes by this time. The system's own is only as precise as its timer interrupt.
                os.utime(file.fileno(), ns=(time.time_ns(), time.time_ns()))
                return file
            file.close()
        except FileNotFoundError:
            pass
        except OSError as problem:
            raise unusable(self.folder, problem) from problem
        return None

    def _download(self, uri: str, shard: ShardFile) -> None:
        """Download a shard, whose lock must be held, if it is not in the cache; wait for its space if necessary."""
        path = self._path_of(shard)
        if path.exists():
            return
        try:
            while not self._try_to_reserve(shard):
                time.sleep(_WAIT_SECONDS)
        except OSError as problem:
            raise unusable(self.folder, problem) from problem
        download(uri, path, sha256=shard.sha256)

    def _try_to_reserve(self, shard: ShardFile) -> bool:
        """Evict shards until there is space for `shard`, and reserve it; return False if too few can be evicted."""
        with locked(self.folder / _LEDGER):
            files = self._files()
            limit = self._limit(sum(file.bytes for file in files))
            if shard.bytes > limit:
                raise StorageError(self._too_small_message(shard, limit))
            reserved = self._reservations(but=shard.sha256)
            removable = [file for file in files if file.sha256 not in {*reserved, shard.sha256}]
            free = limit - sum(reserved.values()) - sum(file.bytes for file in removable)
            for file in removable:
                if free >= shard.bytes:
                    break
                free += file.bytes if _remove_unused(file.path) else 0
            if free < shard.bytes:
                return False
            self._lock_of(shard.sha256).write_text(str(shard.bytes))
            return True

    def _reservations(self, *, but: str) -> dict[str, int]:
        """Return the bytes of each other shard that is being downloaded, by its hash."""
        found = {}
        for path in self.folder.glob("*.lock"):
            if path.stem == but:
                continue
            try:
                # Deletes the lock file of a killed process.
                with locked(path, timeout=0):
                    pass
            except Timeout:
                # Empty before the space is reserved.
                with suppress(FileNotFoundError, ValueError):
                    found[path.stem] = int(path.read_text())
        return found

    def _files(self) -> list["_CachedFile"]:
        """Return the complete and partial shards in the cache, the least recently opened first."""
        found = []
        for pattern in ("*.lmdb", ".*.lmdb.*.partial"):
            for path in self.folder.glob(pattern):
                # Another process may rename or delete it.
                with suppress(FileNotFoundError):
                    status = path.stat()
                    found.append(_CachedFile(status.st_mtime_ns, status.st_size, path))
        return sorted(found)

    def _select_fitting(self, wanted: Iterable[tuple[str, ShardFile]]) -> list[tuple[str, ShardFile]]:
        room = self._limit(sum(file.bytes for file in self._files())) if self.folder.exists() else self.limit_bytes
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


class _CachedFile(NamedTuple):
    """A complete or partial shard in the cache."""

    used_at: int
    bytes: int
    path: Path

    @property
    def sha256(self) -> str:
        return self.path.name.removeprefix(".").partition(".")[0]


def _remove_unused(path: Path) -> bool:
    """Delete a file unless a process is opening it; return whether it was deleted."""
    with suppress(FileNotFoundError), path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        path.unlink()
    return True
