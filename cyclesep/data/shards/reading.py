"""Shards: LMDB files of protobuf segments, written whole, and crops of float32 read from anywhere in them.

A crop costs one cast out of the memory map: LMDB finds a record once per process, its PCM16 payload is sliced where it
lies, and nothing is parsed. protos/segment.proto describes the records, cyclesep.data.shards.manifest the files.
"""

import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np

from cyclesep.audio.audio_io import PCM16_SCALE, Samples
from cyclesep.data.shards.cache import ShardCache
from cyclesep.data.shards.manifest import ShardFile, ShardManifest, TrackRecord, read_manifest
from cyclesep.data.shards.mmap_cache import OpenShard, open_shards
from cyclesep.errors import ShardError
from cyclesep.storage.uri import absolute_uri, is_remote, join_uri

_REMEDY = "delete the file and run the same ingest again: only this track is redone"
_CACHE_REMEDY = "delete this file of the shard cache: it is fetched again"


# A batch of at most so many bytes is still in cache when its last crop is read, and is scaled by one product.
_SCALED_AT_ONCE_BYTES = 4 * 2**20


class ShardReader:
    """Random access to the audio of an ingested corpus.

    Making one reads the manifest only. Shards are opened on first use in each process, and a bounded number is kept
    open, so a reader may be pickled, carried over a fork and shared by threads. The first touch of a segment in a
    process checks its record against the manifest and its checksum; later reads slice the memory map.

    `folder` may be `s3://bucket/prefix`: shards then come into this machine's cache (cyclesep.data.shards.cache) when they
    are first needed, or into `cache` if it is given, and are mapped from there. Who has the `manifest` already, of all
    tracks or of those that are to be read, gives it: that of a large corpus takes longer to read than a track.

    Raises ShardError if the folder holds no manifest, or one that is damaged or of another version, StorageError if a
    bucket cannot be read.
    """

    def __init__(
        self, folder: Path | str, *, cache: ShardCache | None = None, manifest: ShardManifest | None = None
    ) -> None:
        self.is_remote = is_remote(folder)
        self.folder = absolute_uri(folder) if self.is_remote else os.path.realpath(folder)
        self.manifest: ShardManifest = manifest or read_manifest(self.folder)
        self._cache = cache
        self._selections: dict[tuple[str, tuple[str, ...]], _Selection] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_selections": {}}

    def local_path(self, shard: ShardFile) -> AbstractContextManager[Path]:
        """The file of a shard on this machine, there for the length of the block, and as long as it is mapped."""
        if not self.is_remote:
            return nullcontext(Path(self.folder, shard.name))
        open_shards.close_removed()
        return self._cache_here().local_path(join_uri(self.folder, shard.name), shard)

    def prefetch(self, tracks: Sequence[TrackRecord]) -> None:
        """Begin to fetch the shards of `tracks`, as many as the cache can hold, in the background.

        Processes of one machine that ask for the same share the work. Does nothing where shards are local.
        """
        if self.is_remote:
            wanted = [(join_uri(self.folder, shard.name), shard) for track in tracks for shard in track.shards]
            cache = self._cache_here()
            threading.Thread(target=cache.prefetch, args=(wanted,), name="prefetch", daemon=True).start()

    def read(self, track: TrackRecord, stems: Sequence[str], start: int, num_samples: int) -> Samples:
        """One crop as float32 `(stems, channels, num_samples)`; see `read_into`."""
        out = np.empty((len(stems), track.channels, num_samples), dtype=np.float32)
        self.read_into(out, track, stems, start)
        return out

    def read_batch(self, out: Samples, requests: Sequence[tuple[TrackRecord, int]], stems: Sequence[str]) -> None:
        """Fill `out`, float32 `(batch, stems, channels, time)`, with the crop of each (track, start) in `requests`.

        Crops are read in the order of the requests; sorted requests share pages, which helps where a disk is slow.
        """
        if len(requests) != len(out):
            raise ValueError(f"{len(requests)} requests for a buffer of {len(out)} crops")
        stems = tuple(stems)
        selections = [self._selection(track, stems) for track, _ in requests]
        at_once = out.nbytes <= _SCALED_AT_ONCE_BYTES and len({selection.gain for selection in selections}) == 1
        for crop, selection, (_, start) in zip(out, selections, requests, strict=True):
            self._cast_into(crop, selection, start)
            if not at_once:
                np.multiply(crop, selection.scale, out=crop)
        if at_once:
            np.multiply(out, selections[0].scale, out=out)

    def read_into(self, out: Samples, track: TrackRecord, stems: Sequence[str], start: int) -> None:
        """Fill `out`, float32 `(stems, channels, time)`, with the crop of `track` that begins at sample `start`.

        Raises ShardError for a stem that the track lacks, and for damage, naming shard, track and segment: nothing
        damaged is served. Raises IndexError for a crop that leaves the track.
        """
        selection = self._selection(track, tuple(stems))
        self._cast_into(out, selection, start)
        # A cast, then a product in cache: two thirds of the time of numpy's product of mixed types.
        np.multiply(out, selection.scale, out=out)

    def _cast_into(self, out: Samples, selection: "_Selection", start: int) -> None:
        """Fill `out` with PCM16 values as they are, not yet scaled."""
        track = selection.track
        num_samples = out.shape[-1]
        if start < 0 or start + num_samples > track.num_samples:
            raise IndexError(
                f"crop {start}:{start + num_samples} of {track.track_id!r}, which has {track.num_samples} samples"
            )
        index, offset = divmod(start, track.segment_samples)
        filled = 0
        while filled < num_samples:
            taken = min(num_samples - filled, track.segment_samples - offset)
            place = selection.place_of(index)
            opened = open_shards.borrow_open(place.path, place.shard) or self._borrow_first(track, place)
            try:
                pcm = opened.segment(index)
                for places, rows in selection.runs:
                    out[places, :, filled : filled + taken] = pcm[rows, :, offset : offset + taken]
            finally:
                open_shards.give_back(opened)
            filled += taken
            index, offset = index + 1, 0

    def _selection(self, track: TrackRecord, stems: tuple[str, ...]) -> "_Selection":
        selection = self._selections.get((track.track_id, stems))
        if selection is None or selection.track is not track:
            selection = self._selections[track.track_id, stems] = _Selection(track, stems)
        return selection

    def _borrow_first(self, track: TrackRecord, place: "_Place") -> OpenShard:
        remedy = _CACHE_REMEDY if self.is_remote else _REMEDY
        try:
            with self.local_path(place.shard) as path:
                place.path = str(path)
                return open_shards.borrow(place.path, track, place.shard, remedy)
        except ShardError:
            if not self.is_remote:
                raise
        # The disk of the cache has spoilt a file; what lies in the bucket may be all right.
        self._cache_here().discard(place.shard)
        with self.local_path(place.shard) as path:
            return open_shards.borrow(str(path), track, place.shard, remedy)

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
        self.gain = track.gain
        self.scale = np.float32(track.gain / PCM16_SCALE)
        self._places = tuple(_Place(shard) for shard in track.shards)

    def place_of(self, index: int) -> _Place:
        """The shard that holds segment `index`."""
        for place in self._places:
            if index < place.end_segment:
                return place
        raise ShardError(f"track {self.track.track_id!r}: no shard holds segment {index}; ingest the corpus again")


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
