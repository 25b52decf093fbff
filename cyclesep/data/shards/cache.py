"""Shards of a bucket on this machine's disk: fetched when first needed, checked, shared by all processes, bounded.

    CYCLESEP_CACHE      folder of the cache; default: `cyclesep/shards` below XDG_CACHE_HOME or ~/.cache, or below the
                        temporary folder where there is no home to write to
    CYCLESEP_CACHE_GIB  its limit in GiB; default: whatever the disk holds, 5 % of which stay free

A file is named after the SHA-256 of its content, which is checked when it comes: shards of another corpus, or of the
same one ingested anew, are other files. All that processes have to agree on lies in the folder and is run_with_error_handling by
flock(2), which the system gives back however a process ends:

    HASH.lmdb              a whole shard; its time of change is when a process last opened it
    .HASH.lmdb.*.partial   what has come so far of one (cyclesep.storage.download)
    HASH.lock              held by the one process that fetches it; says how many bytes it was given room for
    .ledger                held for the moment in which room is counted and made

To make room, the shards that were opened longest ago go. One that is mapped somewhere stays readable there; its space
comes back when that process opens its next shard of a bucket.
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

_KEPT_FREE = 0.05
_WAIT_SECONDS = 0.1
_LEDGER = ".ledger"


@dataclass(frozen=True)
class ShardCache:
    """A folder that holds some of the shards of any number of corpora; safe to use from many processes and threads."""

    folder: Path
    limit_bytes: int | None = None
    """None: what the disk holds, but for 5 %."""

    @classmethod
    def of_this_machine(cls) -> "ShardCache":
        """The cache that the environment describes; raises ConfigError for a limit that is no size."""
        told = os.environ.get(LIMIT_VARIABLE)
        try:
            limit = round(float(told) * 2**30) if told else None
        except (ValueError, OverflowError):
            limit = 0
        if limit is not None and limit <= 0:
            raise ConfigError(f"{LIMIT_VARIABLE}={told}: is no size; give the limit of the cache in GiB, as in 50")
        return cls(cache_folder(), limit)

    @contextmanager
    def local_path(self, uri: str, shard: ShardFile) -> Iterator[Path]:
        """The file of a shard, fetched from the object `uri` if it was not here; not removed while the block lasts.

        Raises StorageError if it cannot be fetched, is not what the manifest says, or if the cache cannot hold it.
        """
        path = self._path_of(shard)
        while (file := self._opened(path)) is None:
            self._fetch(uri, shard)
        with file:
            yield path

    def discard(self, shard: ShardFile) -> None:
        """Forget a file that has turned out damaged."""
        self._path_of(shard).unlink(missing_ok=True)

    def prefetch(self, wanted: Iterable[tuple[str, ShardFile]]) -> None:
        """Fetch the first of the `wanted` (uri, shard) that fit into the cache together, several at once.

        What another process is fetching is left to it, so that several that prefetch the same share the work. Ends at
        the first error without a word: whoever needs the shard is told.
        """
        waiting = iter(self._fitting(wanted))
        guard = threading.Lock()

        def fetch_some() -> None:
            with suppress(StorageError):
                while True:
                    with guard:
                        item = next(waiting, None)
                    if item is None:
                        return
                    self._fetch(*item, wait=False)

        threads = [threading.Thread(target=fetch_some, daemon=True) for _ in range(NUM_PREFETCH_THREADS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def _path_of(self, shard: ShardFile) -> Path:
        return self.folder / f"{shard.sha256}.lmdb"

    def _opened(self, path: Path) -> IO[bytes] | None:
        """The file under a shared lock, which keeps it from being evicted; None if it is not there."""
        try:
            with suppress(FileNotFoundError):
                file = path.open("rb")
                fcntl.flock(file, fcntl.LOCK_SH)
                if os.fstat(file.fileno()).st_nlink:
                    # The use that eviction goes by.
                    os.utime(file.fileno())
                    return file
                file.close()
        except OSError as problem:
            raise self._unusable(problem) from problem
        return None

    def _fetch(self, uri: str, shard: ShardFile, *, wait: bool = True) -> None:
        """Fetch a shard, or see that another process does; with `wait` it is here then."""
        path = self._path_of(shard)
        with self._sole(self.folder / f"{shard.sha256}.lock", wait=wait) as lock:
            if lock is not None and not path.exists():
                self._find_room(lock, shard)
                download(uri, path, sha256=shard.sha256)

    @contextmanager
    def _sole(self, path: Path, *, wait: bool) -> Iterator[IO[str] | None]:
        """Hold the lock file `path`, which exists only while somebody does; None if not to wait and it is held."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            lock = atomic_io.lock_file(path, wait=wait)
        except OSError as problem:
            raise self._unusable(problem) from problem
        if lock is None:
            yield None
            return
        with lock:
            try:
                yield lock
            finally:
                path.unlink(missing_ok=True)

    def _find_room(self, lock: IO[str], shard: ShardFile) -> None:
        """Have room for a shard, waiting for those that are being fetched where they leave none now."""
        try:
            while not self._make_room(lock, shard):
                time.sleep(_WAIT_SECONDS)
        except OSError as problem:
            raise self._unusable(problem) from problem

    def _make_room(self, lock: IO[str], shard: ShardFile) -> bool:
        with (self.folder / _LEDGER).open("a") as ledger:
            fcntl.flock(ledger, fcntl.LOCK_EX)
            promised = {path.stem: num_bytes for path in self.folder.glob("*.lock") if (num_bytes := _promise(path))}
            files = _Files(self.folder)
            removable = [file for file in files.oldest_first if file.sha256 not in {*promised, shard.sha256}]
            limit = self._limit(files.bytes)
            if shard.bytes > limit:
                raise StorageError(self._too_small(shard, limit))
            free = limit - sum(promised.values()) - sum(file.bytes for file in removable)
            for file in removable:
                if free >= shard.bytes:
                    break
                free += file.bytes if _removed(file.path) else 0
            if free < shard.bytes:
                return False
            lock.write(str(shard.bytes))
            lock.flush()
            return True

    def _fitting(self, wanted: Iterable[tuple[str, ShardFile]]) -> list[tuple[str, ShardFile]]:
        room = self._limit(_Files(self.folder).bytes) if self.folder.exists() else self.limit_bytes
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
        return used + disk.free - round(_KEPT_FREE * disk.total)

    def _too_small(self, shard: ShardFile, limit: int) -> str:
        wanted = f"and a shard has {shard.bytes / 2**30:.3g} GiB"
        if self.limit_bytes is not None:
            may = f"the shard cache may hold {limit / 2**30:.3g} GiB"
            return f"{self.folder}: {may} {wanted}; raise {LIMIT_VARIABLE}"
        free = shutil.disk_usage(self.folder).free / 2**30
        return (
            f"{self.folder}: the disk of the shard cache has {free:.3g} GiB free, of which 5 % of the disk stay free, "
            f"{wanted}; free space, set {FOLDER_VARIABLE} to a folder of a larger disk, or {LIMIT_VARIABLE} to what it "
            "may hold of this one"
        )

    def _unusable(self, problem: OSError) -> StorageError:
        told = f"{self.folder}: the shard cache cannot be used ({problem.strerror})"
        return StorageError(f"{told}; set {FOLDER_VARIABLE} to a folder that can be written")


class _File:
    """A shard, or a part of one, in the folder of the cache."""

    def __init__(self, path: Path) -> None:
        status = path.stat()
        self.path = path
        self.sha256 = path.name.removeprefix(".").partition(".")[0]
        self.bytes = status.st_size
        self.used_at = status.st_mtime_ns


class _Files:
    """What lies in the folder of a cache now."""

    def __init__(self, folder: Path) -> None:
        found = []
        for pattern in ("*.lmdb", ".*.lmdb.*.partial"):
            for path in folder.glob(pattern):
                # Another process may be done with it.
                with suppress(FileNotFoundError):
                    found.append(_File(path))
        self.oldest_first = sorted(found, key=lambda file: file.used_at)
        self.bytes = sum(file.bytes for file in found)


def _promise(path: Path) -> int:
    """The bytes for which the holder of a lock file was given room; 0 if nobody holds it."""
    with suppress(FileNotFoundError), path.open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return int(file.read() or 0)
    return 0


def _removed(path: Path) -> bool:
    """Remove a file unless a process is about to open it."""
    with suppress(FileNotFoundError), path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        path.unlink()
    return True
