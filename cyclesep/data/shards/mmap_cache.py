"""Shard files mapped into this process: opened once, checked at the first touch, a bounded number of them at a time."""

import os
import threading
from collections import OrderedDict
from pathlib import Path

import lmdb

from cyclesep.data.shards import segments
from cyclesep.data.shards.manifest import ShardFile, TrackRecord
from cyclesep.data.shards.writing import index_crc32
from cyclesep.errors import ShardError

# Files that one process keeps mapped; each costs a file descriptor and address space, no memory of its own.
MAX_OPEN_SHARDS = 256


class OpenShard:
    """One LMDB file mapped into this process, with the one read transaction that lives as long as the map."""

    def __init__(self, path: str, track: TrackRecord, shard: ShardFile, verified: set[int], remedy: str) -> None:
        self.path = path
        self._remedy = remedy
        self.sha256 = shard.sha256
        self.num_borrowers = 0
        self._name = f"{path}: shard of track {track.track_id!r}"
        self._track = track
        self._verified = verified
        self._views: dict[int, segments.Pcm16] = {}
        # Before LMDB sees the file: it trusts its tree, and on a damaged one it may crash.
        _check_index(Path(path), track, shard, remedy)
        try:
            self._environment = lmdb.open(
                path, readonly=True, subdir=False, lock=False, readahead=False, meminit=False, max_readers=1
            )
            self._transaction = self._environment.begin(buffers=True)
        except lmdb.Error as problem:
            raise ShardError(
                f"{self._name} cannot be opened ({problem}) although it is whole; raise the limits of open files and "
                "address space (ulimit -n, -v), and do not read one file under two names (hard links) in one process"
            ) from problem

    def close(self) -> None:
        """Unmap the file; no view of it may be in use."""
        self._views.clear()
        self._transaction.abort()
        self._environment.close()

    def segment(self, index: int) -> segments.Pcm16:
        """The payload `(stems, channels, time)` of a segment where it lies in the map; not to outlive this object."""
        view = self._views.get(index)
        if view is None:
            view = self._views[index] = self._first_touch(index)
        return view

    def check(self, index: int) -> None:
        """Raise ShardError if the record of a segment is not what was written."""
        fault = segments.find_fault(self._track, index, self._record(index))
        if fault is not None:
            raise ShardError(f"{self._name}, segment {index}: {fault}; {self._remedy}")

    def _first_touch(self, index: int) -> segments.Pcm16:
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
            raise ShardError(f"{self._name}, segment {index}: there is no such record; {self._remedy}")
        return record


class OpenShards:
    """The files that this process has mapped, the least recently used closed first.

    There is one for all readers of a process, because LMDB must not open one file twice in one process.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.forget()

    def forget(self) -> None:
        """Start anew, as a forked child has to: an LMDB environment must not be used across a fork."""
        self._lock = threading.Lock()
        self._open: OrderedDict[str, OpenShard] = OrderedDict()
        # Outlives the maps, so that a file opened again is not checked again.
        self._verified: dict[tuple[str, str], set[int]] = {}

    def __len__(self) -> int:
        return len(self._open)

    def borrow(self, path: str, track: TrackRecord, shard: ShardFile, remedy: str) -> OpenShard:
        """The open file at `path`, opened and its index checked if it was not; it stays open until given back."""
        with self._lock:
            opened = self._open.get(path)
            if opened is not None and opened.sha256 != shard.sha256:
                self._close(opened)
                opened = None
            if opened is None:
                self._make_room()
                verified = self._verified.setdefault((path, shard.sha256), set())
                opened = self._open[path] = OpenShard(path, track, shard, verified, remedy)
            self._open.move_to_end(path)
            opened.num_borrowers += 1
            return opened

    def borrow_open(self, path: str, shard: ShardFile) -> OpenShard | None:
        """The file at `path` if it is open and holds what `shard` says; as with `borrow`, give it back."""
        with self._lock:
            opened = self._open.get(path)
            if opened is None or opened.sha256 != shard.sha256:
                return None
            self._open.move_to_end(path)
            opened.num_borrowers += 1
            return opened

    def give_back(self, opened: OpenShard) -> None:
        """End a `borrow` or a `borrow_open`."""
        with self._lock:
            opened.num_borrowers -= 1

    def close_removed(self) -> None:
        """Unmap idle files that the cache has evicted, so that the disk gets their space back."""
        with self._lock:
            for opened in list(self._open.values()):
                if not opened.num_borrowers and not Path(opened.path).exists():
                    self._close(opened)

    def close_idle(self) -> None:
        """Unmap all files that nobody reads from."""
        with self._lock:
            for opened in list(self._open.values()):
                if not opened.num_borrowers:
                    self._close(opened)

    def _make_room(self) -> None:
        idle = [opened for opened in self._open.values() if not opened.num_borrowers]
        for opened in idle[: max(0, len(self._open) - self.limit + 1)]:
            self._close(opened)

    def _close(self, opened: OpenShard) -> None:
        if opened.num_borrowers:
            raise ShardError(f"{opened.path}: was ingested anew while it is read; start the program again")
        del self._open[opened.path]
        opened.close()


open_shards = OpenShards(MAX_OPEN_SHARDS)


def keep_open(max_shards: int) -> None:
    """Change how many files this process keeps mapped, for all its readers."""
    open_shards.limit = max_shards


def close_idle() -> None:
    """Unmap what nobody in this process reads from: the pages it has read count as memory of the process."""
    open_shards.close_idle()


os.register_at_fork(after_in_child=open_shards.forget)


def _check_index(path: Path, track: TrackRecord, shard: ShardFile, remedy: str) -> None:
    name = f"{path}: shard of track {track.track_id!r}"
    try:
        size = path.stat().st_size
        if size != shard.bytes:
            raise ShardError(f"{name} has {size} bytes, the manifest says {shard.bytes}; {remedy}")
        if index_crc32(path, shard.records) != shard.index_crc32:
            raise ShardError(f"{name}: its index is damaged; {remedy}")
    except OSError as problem:
        raise ShardError(f"{name} cannot be read ({problem.strerror}); {remedy}") from problem
