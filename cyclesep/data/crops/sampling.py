"""Random sampling of crops from pools of tracks: valid start positions, active regions, and reading.

The tensor of a crop has one slot per stem: its shape is `(slots, channels, time)`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cyclesep.audio.audio_io import Samples
from cyclesep.data.shards.manifest import TrackRecord
from cyclesep.data.shards.reading import ShardReader


class StartIndex:
    """All valid start positions of crops in a list of tracks, indexed from 0 for uniform sampling with one integer.

    If a track is shorter than the crop, its start positions are 0 and negative: the crop contains the whole track.
    """

    def __init__(self, intervals: Sequence[tuple[int, int, int]]) -> None:
        """Index `intervals` of (index of the track, first start, last start), in samples."""
        table = np.asarray(intervals, dtype=np.int64).reshape(-1, 3)
        self._track, self._first = table[:, 0], table[:, 1]
        self._end = np.cumsum(table[:, 2] - table[:, 1] + 1)

    def __len__(self) -> int:
        return int(self._end[-1]) if len(self._end) else 0

    def __getitem__(self, position: int) -> tuple[int, int]:
        """Return the index of the track and the start sample at `position`."""
        row = int(np.searchsorted(self._end, position, side="right"))
        before = int(self._end[row - 1]) if row else 0
        return int(self._track[row]), int(self._first[row]) + position - before


class StemMix(NamedTuple):
    """Linear combination of a track's stems that fills the slots of a crop: `slots = weights @ stems`."""

    stems: tuple[str, ...]
    weights: NDArray[np.float32] | None = None
    """`(slots, stems)`; None: each slot is one unchanged stem."""

    @property
    def num_slots(self) -> int:
        return len(self.stems) if self.weights is None else len(self.weights)


class CropLocation(NamedTuple):
    """Location of a crop: index of a track in its pool, start in samples, and linear gain."""

    track: int
    start: int
    gain: float


@dataclass(frozen=True, kw_only=True)
class TrackPool:
    """Tracks from which some of the slots of a crop are sampled."""

    tracks: tuple[TrackRecord, ...]
    stem_mixes: tuple[StemMix, ...]
    """One per track, all with the same number of slots."""
    starts: StartIndex
    targets: tuple[str, ...] = ()
    """Stems whose activity is tracked."""
    active_threshold_db: float = 0.0
    """RMS level from which a second of a stem is active, in dB re full scale."""
    active_starts: tuple[StartIndex, ...] = ()
    """Starts of the crops that contain a target, for each target that is active in at least one track."""
    gains: tuple[float, ...] = ()
    """Linear gain per track; empty: 1."""
    max_offset_db: float = 0.0
    """Maximum random level change of a crop, up or down."""

    @property
    def num_slots(self) -> int:
        return self.stem_mixes[0].num_slots

    @property
    def silent_targets(self) -> list[str]:
        """Targets whose loudness is known and below the threshold in all tracks."""
        known = {stem for track in self.tracks for stem in track.loudness_db}
        active = {
            target
            for target in self.targets
            for track in self.tracks
            if _active_ranges(track, target, self.active_threshold_db)
        }
        return [target for target in self.targets if target in known - active]

    def with_crop_length(self, num_samples: int) -> "TrackPool | None":
        """Return this pool for crops of `num_samples`, limited to tracks of at least that length.

        Returns None if no track is long enough, or if a target is no longer active in any of the tracks.
        """
        usable = [(index, track) for index, track in enumerate(self.tracks) if track.num_samples >= num_samples]
        starts = StartIndex([(index, *_start_range(track, num_samples)) for index, track in usable])
        active_starts = _active_starts(usable, self.targets, num_samples, self.active_threshold_db)
        if not len(starts) or len(active_starts) < len(self.active_starts):
            return None
        return replace(self, starts=starts, active_starts=active_starts)

    def draw(self, rng: np.random.Generator, p_active: float) -> CropLocation:
        """Draw a crop uniformly from all starts or, with probability `p_active`, from those that contain a target."""
        starts = self.starts
        if self.active_starts and rng.random() < p_active:
            starts = self.active_starts[int(rng.integers(len(self.active_starts)))]
        position = int(rng.integers(len(starts)))
        return self._location(starts, position, offset_db=float(rng.uniform(-1.0, 1.0)) * self.max_offset_db)

    def evenly_spaced(self, index: int, count: int) -> CropLocation:
        """Return crop `index` of `count` evenly spaced crops; targets take turns in providing the active starts."""
        starts = self.active_starts[index % len(self.active_starts)] if self.active_starts else self.starts
        return self._location(starts, (2 * index + 1) * len(starts) // (2 * count))

    def _location(self, starts: StartIndex, position: int, *, offset_db: float = 0.0) -> CropLocation:
        track, start = starts[position]
        return CropLocation(track, start, (self.gains[track] if self.gains else 1.0) * 10.0 ** (offset_db / 20.0))

    def read_into(self, out: Samples, reader: ShardReader, location: CropLocation) -> None:
        """Fill `out`, float32 `(slots, channels, time)`, with one crop, padded with zeros if the track is shorter."""
        track, stem_mix = self.tracks[location.track], self.stem_mixes[location.track]
        first, padding = max(location.start, 0), max(-location.start, 0)
        end = min(out.shape[-1], padding + track.num_samples - first)
        out[..., :padding] = 0.0
        out[..., end:] = 0.0
        inside = out[..., padding:end]
        if stem_mix.weights is None:
            reader.read_into(inside, track, stem_mix.stems, first)
        else:
            stems = reader.read(track, stem_mix.stems, first, end - padding)
            inside[:] = np.tensordot(stem_mix.weights, stems, axes=1)
        if location.gain != 1.0:
            inside *= np.float32(location.gain)


@dataclass(frozen=True, kw_only=True)
class CropSampler:
    """Pools that each provide some slots of a crop, and the slots that form its mixture and its targets."""

    pools: tuple[TrackPool, ...]
    """The slots of a crop are those of the first pool, then those of the second, and so on."""
    mixture_slots: slice
    """Slots whose sum is the mixture."""
    target_slots: slice
    paired: bool
    """Whether the targets are aligned with the mixture."""

    @property
    def num_slots(self) -> int:
        return sum(pool.num_slots for pool in self.pools)

    @property
    def num_targets(self) -> int:
        return len(range(self.num_slots)[self.target_slots])

    def with_crop_length(self, num_samples: int) -> "CropSampler | None":
        """Return this sampler for crops of `num_samples` that lie within their tracks.

        Returns None if the tracks of a pool are too short.
        """
        resized = [pool.with_crop_length(num_samples) for pool in self.pools]
        pools = tuple(pool for pool in resized if pool is not None)
        return replace(self, pools=pools) if len(pools) == len(resized) else None

    def draw(self, rng: np.random.Generator, p_active: float) -> list[CropLocation]:
        """Draw one location from each pool."""
        return [pool.draw(rng, p_active) for pool in self.pools]

    def read(self, reader: ShardReader, locations: Sequence[Sequence[CropLocation]], num_samples: int) -> Tensor:
        """Return the crops at `locations[crop][pool]` as float32 `(crops, slots, channels, num_samples)`."""
        stems = np.empty((len(locations), self.num_slots, reader.manifest.channels, num_samples), dtype=np.float32)
        first = 0
        for index, pool in enumerate(self.pools):
            # Adjacent crops share pages of the memory map, so read in file order.
            for crop in sorted(range(len(locations)), key=lambda crop: locations[crop][index]):
                pool.read_into(stems[crop, first : first + pool.num_slots], reader, locations[crop][index])
            first += pool.num_slots
        return torch.from_numpy(stems)


def make_pool(
    tracks: Sequence[TrackRecord],
    stem_mixes: Sequence[StemMix],
    *,
    num_samples: int,
    targets: Sequence[str],
    active_threshold_db: float,
    level_db: float | None = None,
    max_offset_db: float = 0.0,
) -> TrackPool:
    """Make a pool for crops of `num_samples`, with the active starts of each of `targets` from the stored loudness.

    With `level_db`, every track is scaled to that mean level, and each crop is offset by up to `max_offset_db`.
    """
    indexed = list(enumerate(tracks))
    return TrackPool(
        tracks=tuple(tracks),
        stem_mixes=tuple(stem_mixes),
        starts=StartIndex([(index, *_start_range(track, num_samples)) for index, track in indexed]),
        targets=tuple(targets),
        active_threshold_db=active_threshold_db,
        active_starts=_active_starts(indexed, targets, num_samples, active_threshold_db),
        gains=tuple(_gain_to_level(track, level_db) for track in tracks) if level_db is not None else (),
        max_offset_db=max_offset_db,
    )


def _start_range(track: TrackRecord, num_samples: int) -> tuple[int, int]:
    """Return the first and last start of a crop; both are at most 0 if the track is shorter than the crop."""
    spare = track.num_samples - num_samples
    return min(0, spare), max(0, spare)


def _active_starts(
    tracks: Sequence[tuple[int, TrackRecord]], targets: Sequence[str], num_samples: int, active_threshold_db: float
) -> tuple[StartIndex, ...]:
    """Return the starts of crops that contain a target, for each target that is active in at least one track."""
    indexes = [
        StartIndex(
            [
                (index, *start_range)
                for index, track in tracks
                for start_range in _active_start_ranges(track, stem, num_samples, active_threshold_db)
            ]
        )
        for stem in targets
    ]
    return tuple(index for index in indexes if len(index))


def _active_start_ranges(
    track: TrackRecord, stem: str, num_samples: int, active_threshold_db: float
) -> list[tuple[int, int]]:
    """Return ranges (first, last) of starts of the crops that contain a stem.

    Such a crop overlaps an active second by at least half of the crop or of the second, whichever is shorter. The last
    second of a track may be incomplete.
    """
    ranges: list[tuple[int, int]] = []
    lowest, highest = _start_range(track, num_samples)
    for begin, end in _active_ranges(track, stem, active_threshold_db):
        first, last = lowest, highest
        if lowest == 0:
            first = max(first, begin + _min_overlap(track, begin, num_samples) - num_samples)
            last = min(last, end - _min_overlap(track, end - 1, num_samples))
        if ranges and first <= ranges[-1][1]:
            first = ranges.pop()[0]
        ranges.append((first, last))
    return ranges


def _min_overlap(track: TrackRecord, sample: int, num_samples: int) -> int:
    """Return half the length of the second that contains `sample`, or of the crop if that is shorter."""
    second = sample - sample % track.sample_rate
    return max(1, min(track.sample_rate, track.num_samples - second, num_samples) // 2)


def _active_ranges(track: TrackRecord, stem: str, active_threshold_db: float) -> list[tuple[int, int]]:
    """Return ranges (first sample, last sample + 1) of consecutive active seconds of a stem."""
    active = np.asarray(track.loudness_db.get(stem, ()), dtype=float) >= active_threshold_db
    edges = np.flatnonzero(np.diff(np.concatenate(([False], active, [False])))) * track.sample_rate
    ends = np.minimum(edges[1::2], track.num_samples)
    return list(zip(edges[::2].tolist(), ends.tolist(), strict=True))


def _gain_to_level(track: TrackRecord, level_db: float) -> float:
    """Return the linear gain that brings the mean power of a track to `level_db`; 1 if its power is 0 or unknown."""
    powers = [10.0 ** (value / 10.0) for seconds in track.loudness_db.values() for value in seconds]
    mean = float(np.mean(powers)) if powers else 0.0
    return 10.0 ** (level_db / 20.0) / mean**0.5 if mean > 0.0 else 1.0
