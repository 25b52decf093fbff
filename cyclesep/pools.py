"""Pools of tracks to draw crops from: which starts a crop may have, which contain a target, what is read there."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cyclesep.audio import Samples
from cyclesep.manifest import TrackRecord
from cyclesep.shards import ShardReader


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
    active: tuple[Starts, ...] = ()
    """For each target the starts of crops that contain it; empty where no track's loudness tells."""
    gains: tuple[float, ...] = ()
    """Linear, per track; none: 1."""
    spread_db: float = 0.0

    @property
    def slots(self) -> int:
        return self.recipes[0].slots

    def draw(self, rng: np.random.Generator, active_share: float) -> Draw:
        """Draw uniformly over all starts or, with probability `active_share`, over those that contain a target."""
        starts = self.starts
        if self.active and rng.random() < active_share:
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


def make_pool(
    tracks: Sequence[TrackRecord],
    recipes: Sequence[Recipe],
    *,
    num_samples: int,
    targets: Sequence[str],
    active_db: float,
    level_db: float | None = None,
    spread_db: float = 0.0,
) -> Pool:
    """A pool for crops of `num_samples`, knowing which of them contain each of `targets` where a loudness is stored.

    With `level_db` every recording is brought to that mean level, and each draw varies it by up to `spread_db`.
    """
    active = [Starts(_active_intervals(tracks, stem, num_samples, active_db)) for stem in targets]
    return Pool(
        tracks=tuple(tracks),
        recipes=tuple(recipes),
        starts=Starts([(index, *_bounds(track, num_samples)) for index, track in enumerate(tracks)]),
        active=tuple(starts for starts in active if len(starts)),
        gains=tuple(_gain(track, level_db) for track in tracks) if level_db is not None else (),
        spread_db=spread_db,
    )


def _bounds(track: TrackRecord, num_samples: int) -> tuple[int, int]:
    """First and last start of a crop; both not above 0 where the track is the shorter one."""
    spare = track.num_samples - num_samples
    return min(0, spare), max(0, spare)


def _active_intervals(
    tracks: Sequence[TrackRecord], stem: str, num_samples: int, active_db: float
) -> list[tuple[int, int, int]]:
    """Intervals of starts from which a crop overlaps an active second by at least half of the shorter of the two."""
    intervals: list[tuple[int, int, int]] = []
    for index, track in enumerate(tracks):
        rate, (lowest, highest) = track.sample_rate, _bounds(track, num_samples)
        overlap = max(1, min(rate, num_samples) // 2)
        for begin, end in _runs(np.asarray(track.loudness_db.get(stem, ()), dtype=float) >= active_db):
            first = int(np.clip(begin * rate + overlap - num_samples, lowest, highest))
            last = int(np.clip(end * rate - overlap, lowest, highest))
            if intervals and intervals[-1][0] == index and first <= intervals[-1][2]:
                first = intervals.pop()[1]
            intervals.append((index, first, last))
    return intervals


def _runs(active: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """Runs of true values as (first, one past the last)."""
    edges = np.flatnonzero(np.diff(np.concatenate(([False], active, [False]))))
    return list(zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True))


def _gain(track: TrackRecord, level_db: float) -> float:
    powers = [10.0 ** (value / 10.0) for seconds in track.loudness_db.values() for value in seconds]
    mean = float(np.mean(powers)) if powers else 0.0
    return 10.0 ** (level_db / 20.0) / mean**0.5 if mean > 0.0 else 1.0
