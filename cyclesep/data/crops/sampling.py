"""Pools of tracks to draw crops from: which starts a crop may have, which contain a target, what is read there."""

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


class Starts:
    """All positions at which a crop may start in a list of tracks, numbered from 0, so that one number draws uniformly.

    A track shorter than the crop lies at any place inside it: its starts are 0 and negative.
    """

    def __init__(self, intervals: Sequence[tuple[int, int, int]]) -> None:
        """`intervals` holds (index of the track, first start, last start)."""
        table = np.asarray(intervals, dtype=np.int64).reshape(-1, 3)
        self._track, self._first = table[:, 0], table[:, 1]
        self._end = np.cumsum(table[:, 2] - table[:, 1] + 1)

    def __len__(self) -> int:
        return int(self._end[-1]) if len(self._end) else 0

    def __getitem__(self, number: int) -> tuple[int, int]:
        """The index of the track and the start there of position `number`."""
        row = int(np.searchsorted(self._end, number, side="right"))
        before = int(self._end[row - 1]) if row else 0
        return int(self._track[row]), int(self._first[row]) + number - before


class Recipe(NamedTuple):
    """How the slots of a crop are made from the stems of a track: `slots = weights @ stems`."""

    stems: tuple[str, ...]
    weights: NDArray[np.float32] | None = None
    """`(slots, stems)`; none: each slot is one stem as it was recorded."""

    @property
    def slots(self) -> int:
        return len(self.stems) if self.weights is None else len(self.weights)


class Draw(NamedTuple):
    """Where one crop lies: a track of a pool, the start in samples, a linear gain."""

    track: int
    start: int
    gain: float


@dataclass(frozen=True, kw_only=True)
class Pool:
    """Tracks that one part of a crop is drawn from, and what is read there."""

    tracks: tuple[TrackRecord, ...]
    recipes: tuple[Recipe, ...]
    starts: Starts
    targets: tuple[str, ...] = ()
    """Stems that a crop may have to contain."""
    active_threshold_db: float = 0.0
    """A second contains a stem that is at least this loud."""
    active: tuple[Starts, ...] = ()
    """The starts of crops that contain a target, for each target that is active anywhere."""
    gains: tuple[float, ...] = ()
    """Linear, per track; none: 1."""
    spread_db: float = 0.0

    @property
    def slots(self) -> int:
        return self.recipes[0].slots

    @property
    def silent_targets(self) -> list[str]:
        """Targets whose loudness is known, and nowhere enough."""
        known = {stem for track in self.tracks for stem in track.loudness_db}
        active = {
            target
            for target in self.targets
            for track in self.tracks
            if _active_seconds(track, target, self.active_threshold_db)
        }
        return [target for target in self.targets if target in known - active]

    def longer(self, num_samples: int) -> "Pool | None":
        """The same for crops of `num_samples`, of the tracks that hold as many.

        None if there are none, or none any more that contain one of the targets.
        """
        holding = [(index, track) for index, track in enumerate(self.tracks) if track.num_samples >= num_samples]
        starts = Starts([(index, *_bounds(track, num_samples)) for index, track in holding])
        active = _active_starts(holding, self.targets, num_samples, self.active_threshold_db)
        if not len(starts) or len(active) < len(self.active):
            return None
        return replace(self, starts=starts, active=active)

    def draw(self, rng: np.random.Generator, p_active: float) -> Draw:
        """Draw uniformly over all starts or, with probability `p_active`, over those that contain a target."""
        starts = self.starts
        if self.active and rng.random() < p_active:
            starts = self.active[int(rng.integers(len(self.active)))]
        return self._at(
            starts, int(rng.integers(len(starts))), spread_db=float(rng.uniform(-1.0, 1.0)) * self.spread_db
        )

    def spaced(self, index: int, number: int) -> Draw:
        """Crop `index` of `number` evenly spaced ones, taken from the active starts of each target in turn."""
        starts = self.active[index % len(self.active)] if self.active else self.starts
        return self._at(starts, (2 * index + 1) * len(starts) // (2 * number))

    def _at(self, starts: Starts, number: int, *, spread_db: float = 0.0) -> Draw:
        track, start = starts[number]
        return Draw(track, start, (self.gains[track] if self.gains else 1.0) * 10.0 ** (spread_db / 20.0))

    def read_into(self, out: Samples, reader: ShardReader, draw: Draw) -> None:
        """Fill `out`, float32 `(slots, channels, time)`, with one crop; zeros where the track is shorter."""
        track, recipe = self.tracks[draw.track], self.recipes[draw.track]
        first, before = max(draw.start, 0), max(-draw.start, 0)
        end = min(out.shape[-1], before + track.num_samples - first)
        out[..., :before] = 0.0
        out[..., end:] = 0.0
        inside = out[..., before:end]
        if recipe.weights is None:
            reader.read_into(inside, track, recipe.stems, first)
        else:
            inside[:] = np.tensordot(recipe.weights, reader.read(track, recipe.stems, first, end - before), axes=1)
        if draw.gain != 1.0:
            inside *= np.float32(draw.gain)


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Which slots of the pools, one pool after the other, add up to the mixture and which are the targets."""

    pools: tuple[Pool, ...]
    mixture: slice
    target: slice
    paired: bool

    @property
    def slots(self) -> int:
        return sum(pool.slots for pool in self.pools)

    @property
    def num_targets(self) -> int:
        return len(range(self.slots)[self.target])

    def longer(self, num_samples: int) -> "Layout | None":
        """The same for crops of `num_samples` that lie inside their tracks; None if the tracks are too short."""
        pools = [pool.longer(num_samples) for pool in self.pools]
        whole = tuple(pool for pool in pools if pool is not None)
        return replace(self, pools=whole) if len(whole) == len(pools) else None

    def draw(self, rng: np.random.Generator, p_active: float) -> list[Draw]:
        """Where a crop lies: one draw from each pool."""
        return [pool.draw(rng, p_active) for pool in self.pools]

    def read(self, reader: ShardReader, draws: Sequence[Sequence[Draw]], num_samples: int) -> Tensor:
        """The crops at `draws[crop][pool]`: float32 `(crops, slots, channels, num_samples)`."""
        stems = np.empty((len(draws), self.slots, reader.manifest.channels, num_samples), dtype=np.float32)
        first = 0
        for index, pool in enumerate(self.pools):
            # In the order of the files: neighbours share pages of the memory map.
            for crop in sorted(range(len(draws)), key=lambda crop: draws[crop][index]):
                pool.read_into(stems[crop, first : first + pool.slots], reader, draws[crop][index])
            first += pool.slots
        return torch.from_numpy(stems)


def make_pool(
    tracks: Sequence[TrackRecord],
    recipes: Sequence[Recipe],
    *,
    num_samples: int,
    targets: Sequence[str],
    active_threshold_db: float,
    level_db: float | None = None,
    spread_db: float = 0.0,
) -> Pool:
    """A pool for crops of `num_samples`, knowing which of them contain each of `targets` where a loudness is stored.

    With `level_db` every recording is brought to that mean level, and each draw varies it by up to `spread_db`.
    """
    numbered = list(enumerate(tracks))
    return Pool(
        tracks=tuple(tracks),
        recipes=tuple(recipes),
        starts=Starts([(index, *_bounds(track, num_samples)) for index, track in numbered]),
        targets=tuple(targets),
        active_threshold_db=active_threshold_db,
        active=_active_starts(numbered, targets, num_samples, active_threshold_db),
        gains=tuple(_gain(track, level_db) for track in tracks) if level_db is not None else (),
        spread_db=spread_db,
    )


def _bounds(track: TrackRecord, num_samples: int) -> tuple[int, int]:
    """First and last start of a crop; both not above 0 where the track is the shorter one."""
    spare = track.num_samples - num_samples
    return min(0, spare), max(0, spare)


def _active_starts(
    tracks: Sequence[tuple[int, TrackRecord]], targets: Sequence[str], num_samples: int, active_threshold_db: float
) -> tuple[Starts, ...]:
    """For each target that is active anywhere the starts from which a crop contains it."""
    every = [
        Starts(
            [
                (index, *run)
                for index, track in tracks
                for run in _active_runs(track, stem, num_samples, active_threshold_db)
            ]
        )
        for stem in targets
    ]
    return tuple(starts for starts in every if len(starts))


def _active_runs(track: TrackRecord, stem: str, num_samples: int, active_threshold_db: float) -> list[tuple[int, int]]:
    """First and last starts from which a crop overlaps an active second by at least half of the shorter of the two.

    The last second of a track may be a shorter one.
    """
    runs: list[tuple[int, int]] = []
    lowest, highest = _bounds(track, num_samples)
    for begin, end in _active_seconds(track, stem, active_threshold_db):
        first, last = lowest, highest
        if lowest == 0:
            first = max(first, begin + _overlap(track, begin, num_samples) - num_samples)
            last = min(last, end - _overlap(track, end - 1, num_samples))
        if runs and first <= runs[-1][1]:
            first = runs.pop()[0]
        runs.append((first, last))
    return runs


def _overlap(track: TrackRecord, sample: int, num_samples: int) -> int:
    """Half of the second that `sample` lies in, or of the crop if that is shorter."""
    second = sample - sample % track.sample_rate
    return max(1, min(track.sample_rate, track.num_samples - second, num_samples) // 2)


def _active_seconds(track: TrackRecord, stem: str, active_threshold_db: float) -> list[tuple[int, int]]:
    """Runs of seconds in which a stem is loud enough, as (first sample, one past the last)."""
    active = np.asarray(track.loudness_db.get(stem, ()), dtype=float) >= active_threshold_db
    edges = np.flatnonzero(np.diff(np.concatenate(([False], active, [False])))) * track.sample_rate
    ends = np.minimum(edges[1::2], track.num_samples)
    return list(zip(edges[::2].tolist(), ends.tolist(), strict=True))


def _gain(track: TrackRecord, level_db: float) -> float:
    powers = [10.0 ** (value / 10.0) for seconds in track.loudness_db.values() for value in seconds]
    mean = float(np.mean(powers)) if powers else 0.0
    return 10.0 ** (level_db / 20.0) / mean**0.5 if mean > 0.0 else 1.0
