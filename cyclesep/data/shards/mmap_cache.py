"""Memory maps of shards in this process: limited in number, each opened once, records checked at the first access."""

import os
import threading
from collections import OrderedDict
from pathlib import Path

import lmdb

from cyclesep.data.shards import segments
from cyclesep.data.shards.manifest import ShardFile, TrackRecord
from cyclesep.data.shards.writing import index_crc32
from cyclesep.errors import ShardError

# Maximum number of files mapped in one process; each takes a file descriptor and address space, but no memory.
MAX_MAPPED_SHARDS = 256


class MappedShard:
    """One memory-mapped LMDB file, with a read transaction that lasts as long as the map."""

    def __init__(self, path: str, track: TrackRecord, shard: ShardFile, verified: set[int], remedy: str) -> None:
        self.path = path
        self._remedy = remedy
        self.sha256 = shard.sha256
        self.num_users = 0
        self._name = f"{path}: shard of track {track.track_id!r}"
        self._track = track
        self._verified = verified
        self._views: dict[int, segments.Pcm16] = {}
        # Before LMDB opens the file, because it may crash on a damaged tree.
        _check_index(Path(path), track, shard, remedy)
        try:
            self._environment = lmdb.open(
                path, readonly=True, subdir=False, lock=False, readahead=False, meminit=False, max_readers=1
            )
            self._transaction = self._environment.begin(buffers=True)
        except lmdb.Error as problem:
            raise ShardError(
                f"{self._name} is intact but cannot be opened ({problem}); raise the limits of open files and "
                "address space (ulimit -n, -v), and do not read one file under two names (hard links) in one process"
            ) from problem

    def close(self) -> None:
        """Unmap the file; no view of it may be in use."""
        self._views.clear()
        self._transaction.abort()
        self._environment.close()

    def segment(self, index: int) -> segments.Pcm16:
        """Return a view of the payload `(stems, channels, time)` of a segment, valid until `close`."""
        view = self._views.get(index)
        if view is None:
            view = self._views[index] = self._first_access(index)
        return view

    def check(self, index: int) -> None:
        """Raise ShardError if the record of a segment is damaged."""
        fault = segments.find_fault(self._track, index, self._record(index))
        if fault is not None:
            raise ShardError(f"{self._name}, segment {index}: {fault}; {self._remedy}")

    def _first_access(self, index: int) -> segments.Pcm16:
        if index not in self._verified:
            self.check(index)
            self._verified.add(index)
        return segments.samples(self._track, index, self._record(index))

    def _record(self, index: int) -> memoryview:
        try:
            record = self._transaction.get(segments.key(index))
        except lmdb.Error as problem:
            raise ShardError(f"{self._name}, segment {index}: {problem}; {self._remedy}") from problem
        if record is None:
            raise ShardError(f"{self._name}, segment {index}: record not found; {self._remedy}")
        return record


class MmapCache:
    """The shards that this process has mapped; the least recently used is closed first.

    All readers of a process share one, because LMDB must not open a file twice in one process.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.reset()

    def reset(self) -> None:
        """Drop all maps without closing them, in a forked child: LMDB environments must not be used across a fork."""
        self._lock = threading.Lock()
        self._mapped: OrderedDict[str, MappedShard] = OrderedDict()
        # Kept after a file is closed, so that its records are not checked again.
        self._verified: dict[tuple[str, str], set[int]] = {}

    def __len__(self) -> int:
        return len(self._mapped)

    def acquire(self, path: str, track: TrackRecord, shard: ShardFile, remedy: str) -> MappedShard:
        """Return the file at `path`; map it and check its index if necessary. It stays mapped until `release`."""
        with self._lock:
            mapped = self._mapped.get(path)
            if mapped is not None and mapped.sha256 != shard.sha256:
                self._close(mapped)
                mapped = None
            if mapped is None:
                self._make_room()
                verified = self._verified.setdefault((path, shard.sha256), set())
                mapped = self._mapped[path] = MappedShard(path, track, shard, verified, remedy)
            self._mapped.move_to_end(path)
            mapped.num_users += 1
            return mapped

    def acquire_mapped(self, path: str, shard: ShardFile) -> MappedShard | None:
        """Return the file at `path` if it is mapped and is that of `shard`, else None; call `release` afterwards."""
        with self._lock:
            mapped = self._mapped.get(path)
            if mapped is None or mapped.sha256 != shard.sha256:
                return None
            self._mapped.move_to_end(path)
            mapped.num_users += 1
            return mapped

    def release(self, mapped: MappedShard) -> None:
        """End an `acquire` or `acquire_mapped`."""
        with self._lock:
            mapped.num_users -= 1

    def close_removed(self) -> None:
        """Unmap idle files that were deleted, which frees their disk space."""
        with self._lock:
            for mapped in list(self._mapped.values()):
                if not mapped.num_users and not Path(mapped.path).exists():
                    self._close(mapped)

    def close_idle(self) -> None:
        """Unmap all idle files."""
        with self._lock:
            for mapped in list(self._mapped.values()):
                if not mapped.num_users:
                    self._close(mapped)

    def _make_room(self) -> None:
        idle = [mapped for mapped in self._mapped.values() if not mapped.num_users]
        for mapped in idle[: max(0, len(self._mapped) - self.limit + 1)]:
            self._close(mapped)

    def _close(self, mapped: MappedShard) -> None:
        if mapped.num_users:
            raise ShardError(f"{mapped.path}: was replaced by another ingest while in use; restart the program")
        del self._mapped[mapped.path]
        mapped.close()


mapped_shards = MmapCache(MAX_MAPPED_SHARDS)


def close_idle() -> None:
    """Unmap all idle shards of this process, because pages that were read count as its memory."""
    mapped_shards.close_idle()


os.register_at_fork(after_in_child=mapped_shards.reset)


def _check_index(path: Path, track: TrackRecord, shard: ShardFile, remedy: str) -> None:
    name = f"{path}: shard of track {track.track_id!r}"
    try:
        size = path.stat().st_size
        if size != shard.bytes:
            raise ShardError(f"{name} has {size} bytes, the manifest declares {shard.bytes}; {remedy}")
        if index_crc32(path, shard.records) != shard.index_crc32:
            raise ShardError(f"{name}: its index is damaged; {remedy}")
    except OSError as problem:
        raise ShardError(f"{name} cannot be read ({problem.strerror}); {remedy}") from problem
