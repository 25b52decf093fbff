"""Random access to crops of shards.

Reading a crop costs one cast from the memory map: LMDB looks up a record once per process, and its PCM16 payload is
sliced in place without parsing. protos/segment.proto describes the records, cyclesep.data.shards.manifest the files.
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
from cyclesep.data.shards.mmap_cache import MappedShard, mapped_shards
from cyclesep.errors import ShardError
from cyclesep.storage.uri import absolute_uri, is_remote, join_uri

_REMEDY = "delete the file and run the same ingest again; it converts only this track"
_CACHE_REMEDY = "delete this file of the shard cache; it will be downloaded again"

# A batch up to this size is still in the CPU cache when its last crop is read, and is scaled by one product.
_SCALED_AT_ONCE_BYTES = 4 * 2**20


class ShardReader:
    """Random access to the audio of an ingested corpus.

    The constructor reads only the manifest. Each process opens shards on first use and keeps a limited number open, so
    readers can be pickled, inherited by a fork and shared by threads. The first access to a segment in a process checks
    its record against the manifest and its checksum; later reads slice the memory map.

    With `s3://bucket/prefix` as `folder`, shards are downloaded on first use to `cache` (default: the cache of this
    machine, see cyclesep.data.shards.cache) and mapped from there. Pass the `manifest`, of all tracks or of those to be
    read, if it is already known: that of a large corpus takes longer to read than a track.

    Raises ShardError if the manifest is missing, damaged or has another version, StorageError if the bucket cannot be
    read.
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
        """Return the local file of a shard; it exists during the block, and as long as it is mapped."""
        if not self.is_remote:
            return nullcontext(Path(self.folder, shard.name))
        mapped_shards.close_removed()
        return self._local_cache().local_path(join_uri(self.folder, shard.name), shard)

    def prefetch(self, tracks: Sequence[TrackRecord]) -> None:
        """Start to download the shards of `tracks` in the background, as many as fit into the cache.

        Processes of one machine that prefetch the same shards share the work. Does nothing for local shards.
        """
        if self.is_remote:
            wanted = [(join_uri(self.folder, shard.name), shard) for track in tracks for shard in track.shards]
            cache = self._local_cache()
            threading.Thread(target=cache.prefetch, args=(wanted,), name="prefetch", daemon=True).start()

    def read(self, track: TrackRecord, stems: Sequence[str], start: int, num_samples: int) -> Samples:
        """Return a crop as float32 `(stems, channels, num_samples)`; see `read_into`."""
        out = np.empty((len(stems), track.channels, num_samples), dtype=np.float32)
        self.read_into(out, track, stems, start)
        return out

    def read_batch(self, out: Samples, requests: Sequence[tuple[TrackRecord, int]], stems: Sequence[str]) -> None:
        """Fill `out`, float32 `(batch, stems, channels, time)`, with the crop of each (track, start) in `requests`.

        Crops are read in the order of the requests; sorted requests share pages, which is faster on slow disks.
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
        """Fill `out`, float32 `(stems, channels, time)`, with the crop of `track` that starts at sample `start`.

        Raises ShardError for an unknown stem and for damage, with shard, track and segment; damaged audio is never
        returned. Raises IndexError for a crop that is not within the track.
        """
        selection = self._selection(track, tuple(stems))
        self._cast_into(out, selection, start)
        # A cast and a product in the CPU cache take two thirds of the time of numpy's product of mixed types.
        np.multiply(out, selection.scale, out=out)

    def _cast_into(self, out: Samples, selection: "_Selection", start: int) -> None:
        """Fill `out` with unscaled PCM16 values."""
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
            location = selection.location_of(index)
            mapped = mapped_shards.acquire_mapped(location.path, location.shard) or self._map(track, location)
            try:
                pcm = mapped.segment(index)
                for targets, rows in selection.runs:
                    out[targets, :, filled : filled + taken] = pcm[rows, :, offset : offset + taken]
            finally:
                mapped_shards.release(mapped)
            filled += taken
            index, offset = index + 1, 0

    def _selection(self, track: TrackRecord, stems: tuple[str, ...]) -> "_Selection":
        selection = self._selections.get((track.track_id, stems))
        if selection is None or selection.track is not track:
            selection = self._selections[track.track_id, stems] = _Selection(track, stems)
        return selection

    def _map(self, track: TrackRecord, location: "_ShardLocation") -> MappedShard:
        remedy = _CACHE_REMEDY if self.is_remote else _REMEDY
        try:
            with self.local_path(location.shard) as path:
                location.path = str(path)
                return mapped_shards.acquire(location.path, track, location.shard, remedy)
        except ShardError:
            if not self.is_remote:
                raise
        # The cached copy is damaged; the object in the bucket may be intact.
        self._local_cache().discard(location.shard)
        with self.local_path(location.shard) as path:
            return mapped_shards.acquire(str(path), track, location.shard, remedy)

    def _local_cache(self) -> ShardCache:
        # Not stored, because a reader may be sent to a machine with another cache folder.
        return self._cache or ShardCache.from_environment()


class _ShardLocation:
    """One shard of a track, and the path where it was last opened."""

    __slots__ = ("end_segment", "path", "shard")

    def __init__(self, shard: ShardFile) -> None:
        self.shard = shard
        self.end_segment = shard.first_segment + shard.num_segments
        self.path = ""


class _Selection:
    """Stems of a track, with everything that does not depend on the start of a crop."""

    def __init__(self, track: TrackRecord, stems: tuple[str, ...]) -> None:
        """Raise ShardError for an unknown stem."""
        self.track = track
        self.runs = tuple(_runs(_rows(track, stems)))
        self.gain = track.gain
        self.scale = np.float32(track.gain / PCM16_SCALE)
        self._locations = tuple(_ShardLocation(shard) for shard in track.shards)

    def location_of(self, index: int) -> _ShardLocation:
        """Return the shard with segment `index`."""
        for location in self._locations:
            if index < location.end_segment:
                return location
        raise ShardError(f"track {self.track.track_id!r}: no shard contains segment {index}; ingest the corpus again")


def _rows(track: TrackRecord, stems: Sequence[str]) -> list[int]:
    try:
        return [track.stems.index(stem) for stem in stems]
    except ValueError:
        missing = next(stem for stem in stems if stem not in track.stems)
        raise ShardError(
            f"track {track.track_id!r} has no stem {missing!r}, only {', '.join(track.stems)}; "
            "choose stems that every track of the split has"
        ) from None


def _runs(rows: Sequence[int]) -> Iterator[tuple[slice, slice]]:
    """Yield target and source slices of consecutive stems, which numpy copies in one operation."""
    first = 0
    for end in range(1, len(rows) + 1):
        if end == len(rows) or rows[end] != rows[end - 1] + 1:
            yield slice(first, end), slice(rows[first], rows[end - 1] + 1)
            first = end
