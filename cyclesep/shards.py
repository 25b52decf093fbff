"""Shards: LMDB files of protobuf segments, written whole, and crops of float32 read from anywhere in them.

A crop costs one cast out of the memory map: LMDB finds a record once per process, its PCM16 payload is sliced where it
lies, and nothing is parsed. protos/segment.proto describes the records, manifest.json (cyclesep.manifest) the files.
"""

import os
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import lmdb
import numpy as np

from cyclesep import segments, storage
from cyclesep.audio import PCM16_SCALE, Samples
from cyclesep.errors import ShardError
from cyclesep.manifest import (
    MIXTURE,
    SILENCE_DB,
    ShardFile,
    ShardManifest,
    TrackRecord,
    make_manifest,
    read_manifest,
    write_manifest,
)
from cyclesep.shard_cache import ShardCache
from cyclesep.shard_writing import index_crc32, write_track

__all__ = [
    "MAX_OPEN_SHARDS",
    "MIXTURE",
    "SILENCE_DB",
    "ShardFile",
    "ShardManifest",
    "ShardReader",
    "TrackRecord",
    "make_manifest",
    "read_manifest",
    "write_manifest",
    "write_track",
]

# Files that one process keeps mapped; each costs a file descriptor and address space, no memory of its own.
MAX_OPEN_SHARDS = 256

_REMEDY = "delete the file and run the same ingest again: only this track is redone"
_CACHE_REMEDY = "delete this file of the shard cache: it is fetched again"


class ShardReader:
    """Random access to the audio of an ingested corpus.

    Making one reads the manifest only. Shards are opened on first use in each process, and a bounded number is kept
    open, so a reader may be pickled, carried over a fork and shared by threads. The first touch of a segment in a
    process checks its record against the manifest and its checksum; later reads slice the memory map.

    `folder` may be `s3://bucket/prefix`: shards then come into this machine's cache (cyclesep.shard_cache) when they
    are first needed, or into `cache` if it is given, and are mapped from there.

    Raises ShardError if the folder holds no manifest, or one that is damaged or of another version, StorageError if a
    bucket cannot be read.
    """

    def __init__(self, folder: Path | str, *, cache: ShardCache | None = None) -> None:
        self.is_remote = storage.is_remote(folder)
        self.folder = storage.absolute(folder) if self.is_remote else os.path.realpath(folder)
        self.manifest: ShardManifest = read_manifest(self.folder)
        self._cache = cache
        self._selections: dict[tuple[str, tuple[str, ...]], _Selection] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_selections": {}}

    def at_hand(self, shard: ShardFile) -> AbstractContextManager[Path]:
        """The file of a shard on this machine, there for the length of the block, and as long as it is mapped."""
        if not self.is_remote:
            return nullcontext(Path(self.folder, shard.name))
        _open_shards.close_removed()
        return self._cache_here().at_hand(storage.join(self.folder, shard.name), shard)

    def prefetch(self, tracks: Sequence[TrackRecord]) -> None:
        """Begin to fetch the shards of `tracks`, as many as the cache can hold, in the background.

        Processes of one machine that ask for the same share the work. Does nothing where shards are local.
        """
        if self.is_remote:
            wanted = [(storage.join(self.folder, shard.name), shard) for track in tracks for shard in track.shards]
            cache = self._cache_here()
            threading.Thread(target=cache.prefetch, args=(wanted,), name="prefetch", daemon=True).start()

    def read(self, track: TrackRecord, stems: Sequence[str], start: int, num_samples: int) -> Samples:
        """One crop as float32 `(stems, channels, num_samples)`; see `read_into`."""
        out = np.empty((len(stems), track.channels, num_samples), dtype=np.float32)
        self.read_into(out, track, stems, start)
        return out

    def read_batch(self, out: Samples, requests: Sequence[tuple[TrackRecord, int]], stems: Sequence[str]) -> None:
        """Fill `out`, float32 `(batch, stems, channels, time)`, with the crop of each (track, start) in `requests`.

        Reads go track by track in the order of time, whatever the order of the requests: neighbours share pages.
        """
        if len(requests) != len(out):
            raise ValueError(f"{len(requests)} requests for a buffer of {len(out)} crops")
        places = [(track.track_id, start) for track, start in requests]
        for n in sorted(range(len(requests)), key=places.__getitem__):
            track, start = requests[n]
            self.read_into(out[n], track, stems, start)

    def read_into(self, out: Samples, track: TrackRecord, stems: Sequence[str], start: int) -> None:
        """Fill `out`, float32 `(stems, channels, time)`, with the crop of `track` that begins at sample `start`.

        Raises ShardError for a stem that the track lacks, and for damage, naming shard, track and segment: nothing
        damaged is served. Raises IndexError for a crop that leaves the track.
        """
        selection = self._selection(track, tuple(stems))
        num_samples = out.shape[-1]
        if start < 0 or start + num_samples > track.num_samples:
            raise IndexError(
                f"crop {start}:{start + num_samples} of {track.track_id!r}, which has {track.num_samples} samples"
            )
        index, offset = divmod(start, track.segment_samples)
        filled = 0
        while filled < num_samples:
            taken = min(num_samples - filled, track.segment_samples - offset)
            opened = self._borrow(track, selection.place_of(index))
            try:
                pcm = opened.segment(index)
                for places, rows in selection.runs:
                    out[places, :, filled : filled + taken] = pcm[rows, :, offset : offset + taken]
            finally:
                _open_shards.give_back(opened)
            filled += taken
            index, offset = index + 1, 0
        # A cast, then a product in cache: two thirds of the time of numpy's product of mixed types.
        np.multiply(out, selection.scale, out=out)

    def _selection(self, track: TrackRecord, stems: tuple[str, ...]) -> "_Selection":
        selection = self._selections.get((track.track_id, stems))
        if selection is None or selection.track is not track:
            selection = self._selections[track.track_id, stems] = _Selection(track, stems)
        return selection

    def _borrow(self, track: TrackRecord, place: "_Place") -> "_OpenShard":
        opened = _open_shards.borrow_open(place.path, place.shard)
        return opened if opened is not None else self._borrow_first(track, place)

    def _borrow_first(self, track: TrackRecord, place: "_Place") -> "_OpenShard":
        remedy = _CACHE_REMEDY if self.is_remote else _REMEDY
        try:
            with self.at_hand(place.shard) as path:
                place.path = str(path)
                return _open_shards.borrow(place.path, track, place.shard, remedy)
        except ShardError:
            if not self.is_remote:
                raise
        # The disk of the cache has spoilt a file; what lies in the bucket may be all right.
        self._cache_here().discard(place.shard)
        with self.at_hand(place.shard) as path:
            return _open_shards.borrow(str(path), track, place.shard, remedy)

    def _cache_here(self) -> ShardCache:
        # Not kept: a reader may be sent to another machine, whose cache lies elsewhere.
        return self._cache or ShardCache.of_this_machine()


class _Place:
    """One shard of a track, and the path at which it was opened last."""

    __slots__ = ("end_segment", "path", "shard")

    def __init__(self, shard: ShardFile) -> None:
        self.shard = shard
        self.end_segment = shard.first_segment + shard.num_segments
        self.path = ""


class _Selection:
    """Some stems of a track, with all that can be worked out before the start of a crop is known."""

    def __init__(self, track: TrackRecord, stems: tuple[str, ...]) -> None:
        """Raises ShardError for a stem that the track lacks."""
        self.track = track
        self.runs = tuple(_runs(_rows(track, stems)))
        self.scale = np.float32(track.gain / PCM16_SCALE)
        self._places = tuple(_Place(shard) for shard in track.shards)

    def place_of(self, index: int) -> _Place:
        """The shard that holds segment `index`."""
        for place in self._places:
            if index < place.end_segment:
                return place
        raise ShardError(f"track {self.track.track_id!r}: no shard holds segment {index}; ingest the corpus again")


class _OpenShard:
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


class _OpenShards:
    """The files that this process has mapped, the least recently used closed first.

    There is one for all readers of a process, because LMDB must not open one file twice in one process.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.forget()

    def forget(self) -> None:
        """Start anew, as a forked child has to: an LMDB environment must not be used across a fork."""
        self._lock = threading.Lock()
        self._open: OrderedDict[str, _OpenShard] = OrderedDict()
        # Outlives the maps, so that a file opened again is not checked again.
        self._verified: dict[tuple[str, str], set[int]] = {}

    def __len__(self) -> int:
        return len(self._open)

    def borrow(self, path: str, track: TrackRecord, shard: ShardFile, remedy: str = _REMEDY) -> _OpenShard:
        """The open file at `path`, opened and its index checked if it was not; it stays open until given back."""
        with self._lock:
            opened = self._open.get(path)
            if opened is not None and opened.sha256 != shard.sha256:
                self._close(opened)
                opened = None
            if opened is None:
                self._make_room()
                verified = self._verified.setdefault((path, shard.sha256), set())
                opened = self._open[path] = _OpenShard(path, track, shard, verified, remedy)
            self._open.move_to_end(path)
            opened.num_borrowers += 1
            return opened

    def borrow_open(self, path: str, shard: ShardFile) -> _OpenShard | None:
        """The file at `path` if it is open and holds what `shard` says; as with `borrow`, give it back."""
        with self._lock:
            opened = self._open.get(path)
            if opened is None or opened.sha256 != shard.sha256:
                return None
            self._open.move_to_end(path)
            opened.num_borrowers += 1
            return opened

    def give_back(self, opened: _OpenShard) -> None:
        """End a `borrow` or a `borrow_open`."""
        with self._lock:
            opened.num_borrowers -= 1

    def close_removed(self) -> None:
        """Unmap idle files that the cache has evicted, so that the disk gets their space back."""
        with self._lock:
            for opened in list(self._open.values()):
                if not opened.num_borrowers and not Path(opened.path).exists():
                    self._close(opened)

    def _make_room(self) -> None:
        idle = [opened for opened in self._open.values() if not opened.num_borrowers]
        for opened in idle[: max(0, len(self._open) - self.limit + 1)]:
            self._close(opened)

    def _close(self, opened: _OpenShard) -> None:
        if opened.num_borrowers:
            raise ShardError(f"{opened.path}: was ingested anew while it is read; start the program again")
        del self._open[opened.path]
        opened.close()


_open_shards = _OpenShards(MAX_OPEN_SHARDS)


def keep_open(max_shards: int) -> None:
    """Change how many files this process keeps mapped, for all its readers."""
    _open_shards.limit = max_shards


os.register_at_fork(after_in_child=_open_shards.forget)


def _rows(track: TrackRecord, stems: Sequence[str]) -> list[int]:
    try:
        return [track.stems.index(stem) for stem in stems]
    except ValueError:
        missing = next(stem for stem in stems if stem not in track.stems)
        raise ShardError(
            f"track {track.track_id!r} holds no stem {missing!r}, only {', '.join(track.stems)}; "
            "name stems that every track of the split has"
        ) from None


def _runs(rows: Sequence[int]) -> Iterator[tuple[slice, slice]]:
    """Where stems go and where they lie, neighbours together: numpy then copies them in one go."""
    first = 0
    for end in range(1, len(rows) + 1):
        if end == len(rows) or rows[end] != rows[end - 1] + 1:
            yield slice(first, end), slice(rows[first], rows[end - 1] + 1)
            first = end


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
