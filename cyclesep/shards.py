"""Shards: LMDB files of protobuf segments, written whole, and crops of float32 read from anywhere in them.

A crop costs one cast out of the memory map: LMDB finds a record once per process, its PCM16 payload is sliced where it
lies, and nothing is parsed. protos/segment.proto describes the records, manifest.json (cyclesep.manifest) the files.
"""

import hashlib
import os
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import lmdb
import numpy as np

from cyclesep import segments
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
    "verify",
    "write_manifest",
    "write_track",
]

# Files that one process keeps mapped; each costs a file descriptor and address space, no memory of its own.
MAX_OPEN_SHARDS = 256

_REMEDY = "delete the file and run the same ingest again: only this track is redone"


class ShardReader:
    """Random access to the audio of an ingested corpus.

    Making one reads the manifest only. Shards are opened on first use in each process, and a bounded number is kept
    open, so a reader may be pickled, carried over a fork and shared by threads. The first touch of a segment in a
    process checks its record against the manifest and its checksum; later reads slice the memory map.

    Raises ShardError if the folder holds no manifest, or one that is damaged or of another version.
    """

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(os.path.realpath(folder))
        self.manifest: ShardManifest = read_manifest(self.folder)

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
        for n in sorted(range(len(requests)), key=lambda n: (requests[n][0].track_id, requests[n][1])):
            track, start = requests[n]
            self.read_into(out[n], track, stems, start)

    def read_into(self, out: Samples, track: TrackRecord, stems: Sequence[str], start: int) -> None:
        """Fill `out`, float32 `(stems, channels, time)`, with the crop of `track` that begins at sample `start`.

        Raises ShardError for a stem that the track lacks, and for damage, naming shard, track and segment: nothing
        damaged is served. Raises IndexError for a crop that leaves the track.
        """
        rows = _rows(track, stems)
        num_samples = out.shape[-1]
        if start < 0 or start + num_samples > track.num_samples:
            raise IndexError(
                f"crop {start}:{start + num_samples} of {track.track_id!r}, which has {track.num_samples} samples"
            )
        filled = 0
        while filled < num_samples:
            index, offset = divmod(start + filled, track.segment_samples)
            shard = _shard_of(track, index)
            opened = _open_shards.borrow(f"{self.folder}/{shard.name}", track, shard)
            try:
                pcm = opened.segment(index)
                taken = min(num_samples - filled, pcm.shape[2] - offset)
                for place, row in enumerate(rows):
                    out[place, :, filled : filled + taken] = pcm[row, :, offset : offset + taken]
            finally:
                _open_shards.give_back(opened)
            filled += taken
        # A cast, then a product in cache: two thirds of the time of numpy's product of mixed types.
        np.multiply(out, np.float32(track.gain / PCM16_SCALE), out=out)


def verify(folder: Path | str, *, num_threads: int = 2) -> ShardManifest:
    """Check every byte of a corpus: sizes, SHA-256, LMDB's tree, each record's fields and checksum, counts.

    Gives back the manifest, or raises ShardError that names what is damaged.
    """
    reader = ShardReader(folder)
    places = [(reader.folder, track, shard) for track in reader.manifest.tracks for shard in track.shards]
    with ThreadPoolExecutor(num_threads) as pool:
        problems = [problem for problem in pool.map(_damage, places) if problem is not None]
    problems += [gap for track in reader.manifest.tracks for gap in _gaps(track)]
    if problems:
        rest = f" (and {len(problems) - 3} more)" if len(problems) > 3 else ""
        raise ShardError("; ".join(problems[:3]) + rest)
    return reader.manifest


class _OpenShard:
    """One LMDB file mapped into this process, with the one read transaction that lives as long as the map."""

    def __init__(self, path: str, track: TrackRecord, shard: ShardFile, verified: set[int]) -> None:
        self.path = path
        self.sha256 = shard.sha256
        self.num_borrowers = 0
        self._name = f"{path}: shard of track {track.track_id!r}"
        self._track = track
        self._verified = verified
        self._views: dict[int, segments.Pcm16] = {}
        # Before LMDB sees the file: it trusts its tree, and on a damaged one it may crash.
        _check_index(Path(path), track, shard)
        try:
            self._environment = lmdb.open(
                path, readonly=True, subdir=False, lock=False, readahead=False, meminit=False, max_readers=1
            )
            self._transaction = self._environment.begin(buffers=True)
        except lmdb.Error as problem:
            raise ShardError(f"{self._name} cannot be opened ({problem}); {_REMEDY}") from problem

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
            raise ShardError(f"{self._name}, segment {index}: {fault}; {_REMEDY}")

    def _first_touch(self, index: int) -> segments.Pcm16:
        if index not in self._verified:
            self.check(index)
            self._verified.add(index)
        return segments.samples(self._track, index, self._record(index))

    def _record(self, index: int) -> memoryview:
        try:
            record = self._transaction.get(segments.key(index))
        except lmdb.Error as problem:
            raise ShardError(f"{self._name}, segment {index}: {problem}; {_REMEDY}") from problem
        if record is None:
            raise ShardError(f"{self._name}, segment {index}: there is no such record; {_REMEDY}")
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

    def borrow(self, path: str, track: TrackRecord, shard: ShardFile) -> _OpenShard:
        """The open file at `path`, opened and its index checked if it was not; it stays open until given back."""
        with self._lock:
            opened = self._open.get(path)
            if opened is not None and opened.sha256 != shard.sha256:
                self._close(opened)
                opened = None
            if opened is None:
                self._make_room()
                verified = self._verified.setdefault((path, shard.sha256), set())
                opened = self._open[path] = _OpenShard(path, track, shard, verified)
            self._open.move_to_end(path)
            opened.num_borrowers += 1
            return opened

    def give_back(self, opened: _OpenShard) -> None:
        """End a `borrow`."""
        with self._lock:
            opened.num_borrowers -= 1

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


def _shard_of(track: TrackRecord, index: int) -> ShardFile:
    for shard in track.shards:
        if index < shard.first_segment + shard.num_segments:
            return shard
    raise ShardError(f"track {track.track_id!r}: no shard holds segment {index}; ingest the corpus again")


def _check_index(path: Path, track: TrackRecord, shard: ShardFile) -> None:
    name = f"{path}: shard of track {track.track_id!r}"
    try:
        size = path.stat().st_size
        if size != shard.bytes:
            raise ShardError(f"{name} has {size} bytes, the manifest says {shard.bytes}; {_REMEDY}")
        if index_crc32(path, shard.records) != shard.index_crc32:
            raise ShardError(f"{name}: its index is damaged; {_REMEDY}")
    except OSError as problem:
        raise ShardError(f"{name} cannot be read ({problem.strerror}); {_REMEDY}") from problem


def _damage(place: tuple[Path, TrackRecord, ShardFile]) -> str | None:
    """What is wrong with one shard, in one sentence, or None."""
    folder, track, shard = place
    path = folder / shard.name
    try:
        _check_index(path, track, shard)
        opened = _open_shards.borrow(str(path), track, shard)
        try:
            for index in range(shard.first_segment, shard.first_segment + shard.num_segments):
                opened.check(index)
        finally:
            _open_shards.give_back(opened)
        with path.open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != shard.sha256:
                return f"{path}: shard of track {track.track_id!r}: its SHA-256 does not match; {_REMEDY}"
    except ShardError as problem:
        return str(problem)
    return None


def _gaps(track: TrackRecord) -> Iterator[str]:
    expected = 0
    for shard in track.shards:
        if shard.first_segment != expected:
            yield f"track {track.track_id!r}: {shard.name} begins at segment {shard.first_segment}, not {expected}"
        expected = shard.first_segment + shard.num_segments
    if expected != track.num_segments:
        yield f"track {track.track_id!r}: its shards hold {expected} segments of {track.num_segments}"
