"""Shards: LMDB files of protobuf segments, written whole, and crops of float32 read from anywhere in them.

A crop costs one cast out of the memory map: LMDB finds the record once per process, the PCM16 payload is sliced where it
lies, and nothing is parsed. The format is described in protos/segment.proto; manifest.json (cyclesep.manifest) names all.
"""

import hashlib
import os
import threading
import zlib
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

import lmdb
import numpy as np
from google.protobuf.message import DecodeError
from numpy.typing import NDArray

from cyclesep.audio import PCM16_SCALE, Samples
from cyclesep.errors import ShardError
from cyclesep.manifest import ShardFile, ShardManifest, TrackRecord, read_manifest
from cyclesep.segment_pb2 import Segment

# Files that one process keeps mapped; each costs a file descriptor and address space, no memory of its own.
MAX_OPEN_SHARDS = 256

_PCM16 = np.dtype("<i2")
_RECORD_ALIGNMENT = 16


class ShardReader:
    """Random access to the audio of an ingested corpus.

    Making one reads the manifest only. Shards are opened on first use in each process and a bounded number is kept open,
    so that a reader may be pickled, forked and shared by threads. The first touch of a segment in a process checks its
    record against the manifest and its checksum; later reads slice the memory map.

    Raises ShardError if the folder holds no manifest or one that is damaged or of another version.
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

        The files are read in the order in which they lie on disk, whatever the order of the requests.
        """
        if len(requests) != len(out):
            raise ValueError(f"{len(requests)} requests for a buffer of {len(out)} crops")
        in_file_order = sorted(range(len(requests)), key=lambda n: (requests[n][0].track_id, requests[n][1]))
        for n in in_file_order:
            track, start = requests[n]
            self.read_into(out[n], track, stems, start)

    def read_into(self, out: Samples, track: TrackRecord, stems: Sequence[str], start: int) -> None:
        """Fill `out`, float32 `(stems, channels, time)`, with the crop of `track` that begins at sample `start`.

        Raises ShardError for a stem that the track lacks and for damage, naming shard, track and segment; nothing
        damaged is ever served. Raises IndexError for a crop that leaves the track.
        """
        rows = _rows(track, stems)
        num_samples = out.shape[-1]
        if start < 0 or start + num_samples > track.num_samples:
            raise IndexError(f"crop {start}:{start + num_samples} of {track.track_id!r}, which has {track.num_samples}")
        filled = 0
        while filled < num_samples:
            index, offset = divmod(start + filled, track.segment_samples)
            shard = _shard_of(track, index)
            # The local name keeps the map alive while it is read, even if another thread evicts the file.
            opened = _open_shards.get(f"{self.folder}/{shard.name}", track, shard)
            pcm = opened.segment(index)
            taken = min(num_samples - filled, pcm.shape[2] - offset)
            for place, row in enumerate(rows):
                out[place, :, filled : filled + taken] = pcm[row, :, offset : offset + taken]
            filled += taken
        # A cast and a multiplication in cache take two thirds of the time of numpy's mixed-type multiplication.
        np.multiply(out, np.float32(track.gain / PCM16_SCALE), out=out)


def verify(folder: Path | str, *, num_threads: int = 2) -> ShardManifest:
    """Check every byte of a corpus: sizes, SHA-256, LMDB's tree, each record's fields and checksum, counts.

    Gives back the manifest, or raises ShardError that lists what is damaged.
    """
    reader = ShardReader(folder)
    shards = [(reader.folder, track, shard) for track in reader.manifest.tracks for shard in track.shards]
    with ThreadPoolExecutor(num_threads) as pool:
        problems = [problem for problem in pool.map(_damage, shards) if problem]
    problems += [_gap for track in reader.manifest.tracks for _gap in _gaps(track)]
    if problems:
        rest = f" (and {len(problems) - 3} more)" if len(problems) > 3 else ""
        raise ShardError("; ".join(problems[:3]) + rest)
    return reader.manifest


def pcm_bytes(track: TrackRecord, index: int) -> int:
    """Size of the payload of segment `index`."""
    return len(track.stems) * track.channels * track.segment_length(index) * _PCM16.itemsize


def segment_header(track: TrackRecord, index: int) -> Segment:
    """The fields of segment `index` that follow from its track: all but checksum, padding and payload."""
    return Segment(
        track_id=track.track_id,
        index=index,
        start=index * track.segment_samples,
        sample_rate=track.sample_rate,
        channels=track.channels,
        num_samples=track.segment_length(index),
        stems=track.stems,
        gain=track.gain,
    )


def pcm_tag(num_bytes: int) -> bytes:
    """The protobuf tag and length that stand before a payload of `num_bytes`, which ends the record."""
    tag = bytearray([Segment.PCM_FIELD_NUMBER << 3 | 2])
    while num_bytes > 0x7F:
        tag.append(num_bytes & 0x7F | 0x80)
        num_bytes >>= 7
    tag.append(num_bytes)
    return bytes(tag)


def index_crc32(path: Path, records: Sequence[tuple[int, int]]) -> int:
    """CRC-32 of what lies between the records of a shard: LMDB's tree, without which no record is found."""
    checksum = 0
    with path.open("rb", buffering=0) as file:
        position = 0
        for offset, length in [*sorted(records), (os.fstat(file.fileno()).st_size, 0)]:
            checksum = zlib.crc32(os.pread(file.fileno(), offset - position, position), checksum)
            position = offset + length
    return checksum


def segment_key(index: int) -> bytes:
    """The LMDB key of a segment: keys sort in the order of time."""
    return index.to_bytes(4, "big")


class _OpenShard:
    """One LMDB file mapped into this process, with the one read transaction that lives as long as the map."""

    def __init__(self, path: str, track: TrackRecord, shard: ShardFile, verified: set[int]) -> None:
        self._name = f"{path}: shard of track {track.track_id!r}"
        self._track = track
        self._shard = shard
        self._verified = verified
        self._segments: dict[int, NDArray[np.int16]] = {}
        # Before LMDB sees the file: it trusts its tree and would crash, or worse, on a damaged one.
        self._check_index(Path(path))
        try:
            self._environment = lmdb.open(
                path, readonly=True, subdir=False, lock=False, readahead=False, meminit=False, max_readers=1
            )
            self._transaction = self._environment.begin(buffers=True)
        except lmdb.Error as problem:
            raise ShardError(f"{self._name} cannot be opened ({problem}); ingest the corpus again") from problem

    def __del__(self) -> None:
        for opened in (getattr(self, "_transaction", None), getattr(self, "_environment", None)):
            if opened is not None:
                opened.abort() if isinstance(opened, lmdb.Transaction) else opened.close()

    def segment(self, index: int) -> NDArray[np.int16]:
        """The payload `(stems, channels, time)` of a segment where it lies in the map; not to outlive this object."""
        view = self._segments.get(index)
        if view is None:
            view = self._segments[index] = self._find(index)
        return view

    def _find(self, index: int) -> NDArray[np.int16]:
        try:
            record = self._transaction.get(segment_key(index))
        except lmdb.Error as problem:
            raise self._damaged(index, str(problem)) from problem
        size = pcm_bytes(self._track, index)
        if record is None or len(record) < size:
            raise self._damaged(index, "the record is missing or short")
        if index not in self._verified:
            self._check_record(index, record, len(record) - size)
            self._verified.add(index)
        shape = (len(self._track.stems), self._track.channels, self._track.segment_length(index))
        return np.frombuffer(record, dtype=_PCM16, offset=len(record) - size).reshape(shape)

    def _check_record(self, index: int, record: Any, pcm_start: int) -> None:
        tag = pcm_tag(len(record) - pcm_start)
        try:
            header = Segment.FromString(bytes(record[: pcm_start - len(tag)]))
        except DecodeError as problem:
            raise self._damaged(index, "its header is not protobuf") from problem
        stored_crc32 = header.crc32
        header.ClearField("crc32")
        header.ClearField("padding")
        if header != segment_header(self._track, index) or record[pcm_start - len(tag) : pcm_start] != tag:
            raise self._damaged(index, "its header is not the manifest's")
        if zlib.crc32(record[pcm_start:]) != stored_crc32:
            raise self._damaged(index, "its checksum does not match")

    def _check_index(self, path: Path) -> None:
        remedy = "delete the file and run the same ingest again: only this track is redone"
        try:
            size = path.stat().st_size
            if size != self._shard.bytes:
                raise ShardError(f"{self._name} has {size} bytes, the manifest says {self._shard.bytes}; {remedy}")
            if index_crc32(path, self._shard.records) != self._shard.index_crc32:
                raise ShardError(f"{self._name}, its index is damaged; {remedy}")
        except OSError as problem:
            raise ShardError(f"{self._name} cannot be read ({problem.strerror}); {remedy}") from problem

    def _damaged(self, index: int, what: str) -> ShardError:
        return ShardError(
            f"{self._name}, segment {index}: {what}; "
            "delete the file and run the same ingest again: only this track is redone"
        )


class _OpenShards:
    """The files that this process has mapped, the least recently used closed first.

    There is one for all readers of a process, because LMDB must not open one file twice in one process.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.forget()

    def forget(self) -> None:
        """Start anew, as a forked child has to: an LMDB environment must not be carried across a fork."""
        self._lock = threading.Lock()
        self._recent: OrderedDict[str, _OpenShard] = OrderedDict()
        self._alive: WeakValueDictionary[str, _OpenShard] = WeakValueDictionary()
        # Outlives the files, so that reopening one does not check its segments again.
        self._verified: dict[tuple[str, str], set[int]] = {}

    def get(self, path: str, track: TrackRecord, shard: ShardFile) -> _OpenShard:
        """The open file at `path`, opened and checked if it was not."""
        with self._lock:
            opened = self._recent.get(path)
            if opened is not None and opened._shard is shard:
                self._recent.move_to_end(path)
                return opened
            return self._open(path, track, shard)

    def _open(self, path: str, track: TrackRecord, shard: ShardFile) -> _OpenShard:
        opened = self._recent.pop(path, None) or self._alive.get(path)
        if opened is None or opened._shard != shard:
            opened = None
            while len(self._recent) >= self.limit:
                self._recent.popitem(last=False)
            verified = self._verified.setdefault((path, shard.sha256), set())
            opened = _OpenShard(path, track, shard, verified)
        self._recent[path] = self._alive[path] = opened
        return opened

    def __len__(self) -> int:
        return len(self._recent)


_open_shards = _OpenShards(MAX_OPEN_SHARDS)
os.register_at_fork(after_in_child=_open_shards.forget)


def _rows(track: TrackRecord, stems: Sequence[str]) -> list[int]:
    try:
        return [track.stems.index(stem) for stem in stems]
    except ValueError:
        missing = next(stem for stem in stems if stem not in track.stems)
        raise ShardError(
            f"track {track.track_id!r} holds no stem {missing!r}, only {', '.join(track.stems)}; "
            "choose targets that every track of the corpus has"
        ) from None


def _shard_of(track: TrackRecord, index: int) -> ShardFile:
    for shard in track.shards:
        if index < shard.first_segment + shard.num_segments:
            return shard
    raise ShardError(f"track {track.track_id!r}: no shard holds segment {index}; ingest the corpus again")


def _damage(place: tuple[Path, TrackRecord, ShardFile]) -> str | None:
    """What is wrong with one shard, in one sentence, or None."""
    folder, track, shard = place
    path = folder / shard.name
    try:
        opened = _OpenShards(1).get(str(path), track, shard)
        for index in range(shard.first_segment, shard.first_segment + shard.num_segments):
            opened.segment(index)
        with path.open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != shard.sha256:
                return f"{path}: shard of track {track.track_id!r}: its SHA-256 does not match; ingest the track again"
    except ShardError as problem:
        return str(problem)
    return None


def _gaps(track: TrackRecord) -> Iterator[str]:
    expected = 0
    for shard in track.shards:
        if shard.first_segment != expected:
            yield f"track {track.track_id!r}: shard {shard.name} begins at segment {shard.first_segment}, not {expected}"
        expected = shard.first_segment + shard.num_segments
    if expected != track.num_segments:
        yield f"track {track.track_id!r}: its shards hold {expected} segments of {track.num_segments}"
