"""Crops: what training draws from shards. The n-th crop of a run is a pure function of `(seed, n)`.

Global batch k holds the crops `k * batch_size ... (k + 1) * batch_size - 1`, and rank r of w takes every w-th of them
from the r-th on. Random crops have no epochs, so that resuming needs one number, and a step sees the same crops on 1, 2
or 8 workers.
"""

import hashlib
import itertools
from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from cyclesep import augment
from cyclesep.augment import AugmentConfig, Share
from cyclesep.errors import ConfigError
from cyclesep.manifest import MIXTURE, TrackRecord
from cyclesep.pools import Draw, Pool, Recipe, make_pool
from cyclesep.shards import ShardReader

ACCOMPANIMENT = "accompaniment"
REST = "rest"

# Stems whose sum misses more of the mixture than this are not all of it: what they leave over becomes one more stem.
_COMPLETE_DB = -10.0

# Crops whose stems are read and augmented together: few enough to stay in the processor's cache.
_TOGETHER = 4

# Recordings that never played together are brought to this mean level before they are composed.
_COMPOSED_LEVEL_DB = -20.0


@dataclass(frozen=True, kw_only=True)
class CropConfig:
    """What a batch of crops holds and how the crops are drawn."""

    crop_seconds: PositiveFloat = 2.0
    """Length of a crop."""

    batch_size: PositiveInt = 16
    """Crops in one step over all workers; each worker takes an equal share."""

    pairing: Literal["paired", "unpaired"] = "paired"
    """Whether targets are aligned with the mixtures, or come from other tracks than the mixtures do."""

    mixture: Literal["sum", "recorded"] = "sum"
    """Paired mixtures: the sum of all stems, or as recorded (what the stems leave over is then one more stem)."""

    active_share: Share = 0.0
    """Share of crops that must contain the target, by the loudness per second in the manifest."""

    active_db: float = -50.0
    """A second contains a stem that is at least this loud (dB of full scale, RMS)."""

    mixture_pool_share: Share = 0.5
    """Unpaired: share of the tracks that could give both which give mixtures; the others give targets."""

    level_ratio_db: NonNegativeFloat = 6.0
    """Unpaired without mixtures: a target is up to this much louder or softer than the accompaniment below it."""

    augment: AugmentConfig = field(default_factory=AugmentConfig)
    """How the stems of a crop are varied."""


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Crops on their way into a step; tensors are float32."""

    mixture: Tensor
    """`(batch, channels, time)`: mixtures, to be separated."""
    target: Tensor
    """`(batch, targets, channels, time)`: target recordings, aligned with `mixture` if and only if `paired`."""
    paired: bool

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> "Batch":
        """The same batch on another device."""
        return Batch(
            mixture=self.mixture.to(device, non_blocking=non_blocking),
            target=self.target.to(device, non_blocking=non_blocking),
            paired=self.paired,
        )

    def pin_memory(self) -> "Batch":
        """The same batch in page-locked memory; a DataLoader with pin_memory=True calls this."""
        return Batch(mixture=self.mixture.pin_memory(), target=self.target.pin_memory(), paired=self.paired)


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

    def empty_batch(self, crops: int, channels: int, num_samples: int) -> Batch:
        """A batch to be filled."""
        targets = len(range(self.slots)[self.target])
        return Batch(
            mixture=torch.empty(crops, channels, num_samples),
            target=torch.empty(crops, targets, channels, num_samples),
            paired=self.paired,
        )

    def fill(self, batch: Batch, crops: slice, stems: Tensor) -> None:
        """Fill some crops of a batch from `(crops, slots, channels, time)`; the mixture is the sum of its stems."""
        torch.sum(stems[:, self.mixture], dim=1, out=batch.mixture[crops])
        batch.target[crops] = stems[:, self.target]


class CropStream(IterableDataset[Batch]):
    """One worker's share of each global batch, step after step, for a DataLoader with `batch_size=None`.

    With k loader processes the i-th makes every k-th step, and the DataLoader takes turns, so that the order is exact.
    """

    def __init__(
        self,
        reader: ShardReader,
        config: CropConfig,
        *,
        targets: Sequence[str],
        split: str = "train",
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        start_step: int = 0,
        num_steps: int | None = None,
    ) -> None:
        """Yield the batches of `num_steps` steps from `start_step` on, or without end.

        Raises ConfigError if no track of `split` holds what `config.pairing` needs, or if `config.batch_size` cannot be
        shared equally between the workers.
        """
        if config.batch_size % world_size:
            raise ConfigError(
                f"batch_size: {config.batch_size} is not a multiple of {world_size} workers; change one of them"
            )
        tracks = reader.manifest.split(split)
        self.num_samples = round(config.crop_seconds * reader.manifest.sample_rate)
        self.layout = training_layout(tracks, config, targets=targets, num_samples=self.num_samples, seed=seed)
        self.config, self.seed, self.rank, self.world_size = config, seed, rank, world_size
        self.start_step, self.num_steps = start_step, num_steps
        self._reader = reader
        self._num_groups = (
            augment.num_groups(config.augment, batch_size=config.batch_size, world_size=world_size)
            if self.layout.paired
            else None
        )

    def __iter__(self) -> Iterator[Batch]:
        worker = get_worker_info()
        first, every = (worker.id, worker.num_workers) if worker else (0, 1)
        steps = itertools.count(self.start_step)
        return (self.batch(step) for step in itertools.islice(steps, first, self.num_steps, every))

    def numbers(self, step: int) -> list[int]:
        """The numbers, in the run, of this worker's crops of a step."""
        first = step * self.config.batch_size
        return list(range(first + self.rank, first + self.config.batch_size, self.world_size))

    def draws(self, number: int) -> list[Draw]:
        """Where crop `number` of the run lies: one draw from each pool of the layout."""
        rng = np.random.default_rng((self.seed, number))
        return [pool.draw(rng, self.config.active_share) for pool in self.layout.pools]

    def batch(self, step: int) -> Batch:
        """This worker's share of the batch of one step, augmented."""
        numbers = self.numbers(step)
        parts = self._num_groups // self.world_size if self._num_groups else -(-len(numbers) // _TOGETHER)
        batch = self.layout.empty_batch(len(numbers), self._reader.manifest.channels, self.num_samples)
        for part in range(parts):
            self.layout.fill(batch, slice(part, None, parts), self._augmented(numbers[part::parts]))
        return batch

    def _augmented(self, numbers: Sequence[int]) -> Tensor:
        stems = self.layout.read(self._reader, [self.draws(number) for number in numbers], self.num_samples)
        drawn = augment.draw(
            self.config.augment, seed=self.seed, numbers=numbers, stems=self.layout.slots, num_groups=self._num_groups
        )
        return augment.apply(stems, drawn)


def crop_loader(stream: CropStream, *, num_processes: int = 0, pin_memory: bool | None = None) -> DataLoader[Batch]:
    """A DataLoader over whole batches in exact order, read ahead by `num_processes` or read in this process (0).

    The processes open the shards themselves and start by forkserver: a fork of a Ray worker may hang. Memory is pinned
    where there is a GPU, unless told otherwise.
    """
    pinned = torch.cuda.is_available() if pin_memory is None else pin_memory
    if num_processes == 0:
        return DataLoader(stream, batch_size=None, pin_memory=pinned)
    return DataLoader(
        stream,
        batch_size=None,
        pin_memory=pinned,
        num_workers=num_processes,
        multiprocessing_context="forkserver",
        prefetch_factor=4,
    )


def validation_crops(
    reader: ShardReader, config: CropConfig, *, targets: Sequence[str], split: str = "valid", count: int = 32
) -> tuple[Tensor, Tensor] | None:
    """Fixed crops, evenly spaced over the tracks of a split, nothing augmented: mixtures and their aligned targets.

    Mixtures are `(crops, channels, time)`, targets `(crops, targets, channels, time)`. Crops contain a target wherever
    the manifest tells. Targets and accompaniments that never played together are composed, so that the truth is known;
    None where no truth is known.
    """
    num_samples = round(config.crop_seconds * reader.manifest.sample_rate)
    layout = validation_layout(reader.manifest.split(split), config, targets=targets, num_samples=num_samples)
    if layout is None:
        return None
    draws = [[pool.spaced(index, count) for pool in layout.pools] for index in range(count)]
    batch = layout.empty_batch(count, reader.manifest.channels, num_samples)
    for crop, draw in enumerate(draws):
        layout.fill(batch, slice(crop, crop + 1), layout.read(reader, [draw], num_samples))
    return batch.mixture, batch.target


def training_layout(
    tracks: Sequence[TrackRecord], config: CropConfig, *, targets: Sequence[str], num_samples: int, seed: int
) -> Layout:
    """The pools of `config.pairing`; raises ConfigError if `tracks` hold too little for it."""
    if config.pairing == "paired":
        layout = _paired_layout(tracks, config, targets, num_samples)
        if layout is None:
            raise ConfigError(
                f"pairing=paired needs tracks that hold {' and '.join(targets)} and the mixture or the other stems; "
                f"{_holdings(tracks)}; name other targets, or set crops.pairing=unpaired"
            )
        return layout
    return _unpaired_layout(tracks, config, targets, num_samples, seed)


def validation_layout(
    tracks: Sequence[TrackRecord], config: CropConfig, *, targets: Sequence[str], num_samples: int
) -> Layout | None:
    """Pools whose mixtures have known targets: aligned stems, or recordings to compose; none where there are none."""
    paired = _paired_layout(tracks, config, targets, num_samples)
    if paired is not None:
        return paired
    alone = [track for track in tracks if set(track.stems) == {ACCOMPANIMENT}]
    voices = [[track for track in tracks if target in track.stems] for target in targets]
    if not alone or not all(voices):
        return None
    pools = _composed_pools(alone, voices, config, targets, num_samples)
    return Layout(pools=tuple(pools), mixture=slice(None), target=slice(1, None), paired=True)


def _paired_layout(
    tracks: Sequence[TrackRecord], config: CropConfig, targets: Sequence[str], num_samples: int
) -> Layout | None:
    usable = [track for track in tracks if set(targets) <= set(track.stems) and len(track.stems) > 1]
    if not usable:
        return None
    others = {stem for track in usable for stem in track.stems} - {*targets, MIXTURE}
    named = (*targets, *(sorted(others) if config.mixture == "sum" else ()))
    resting = [MIXTURE in track.stems and (config.mixture == "recorded" or _incomplete(track)) for track in usable]
    slots = (*named, REST) if any(resting) else named
    recipes = [_recipe(track, slots, rest=rest) for track, rest in zip(usable, resting, strict=True)]
    pool = make_pool(usable, recipes, num_samples=num_samples, targets=targets, active_db=config.active_db)
    return Layout(pools=(pool,), mixture=slice(None), target=slice(0, len(targets)), paired=True)


def _incomplete(track: TrackRecord) -> bool:
    return track.residual_db is not None and track.residual_db > _COMPLETE_DB


def _recipe(track: TrackRecord, slots: Sequence[str], *, rest: bool) -> Recipe:
    """Each slot is the stem of its name (or silence); REST is what the mixture holds beside the stems read."""
    stems = tuple(stem for stem in slots if stem in track.stems)
    if stems == tuple(slots):
        return Recipe(stems)
    weights = np.array([[float(slot == stem) for stem in stems] for slot in slots], dtype=np.float32)
    if rest:
        stems, weights = (*stems, MIXTURE), np.pad(weights, ((0, 0), (0, 1)))
        weights[-1] = [-1.0] * (len(stems) - 1) + [1.0]
    return Recipe(stems, weights)


def _unpaired_layout(
    tracks: Sequence[TrackRecord], config: CropConfig, targets: Sequence[str], num_samples: int, seed: int
) -> Layout:
    mixed = [track for track in tracks if MIXTURE in track.stems or len(track.stems) > 1]
    targeted = [track for track in tracks if set(targets) & set(track.stems)]
    alone = [track for track in tracks if set(track.stems) == {ACCOMPANIMENT}]
    givers = mixed or targeted
    either = {track.track_id for track in targeted} & {track.track_id for track in givers}
    mixing = _dealt(
        either, config.mixture_pool_share, seed, spare=(len(givers) - len(either), len(targeted) - len(either))
    )
    giving = [track for track in givers if track.track_id in mixing or track.track_id not in either]
    taking = [track for track in targeted if track.track_id not in mixing]
    by_target = [[track for track in taking if target in track.stems] for target in targets]
    voices = [[track for track in giving if target in track.stems] for target in targets]
    if not all(by_target) or not (giving if mixed else alone and all(voices)):
        raise ConfigError(
            f"pairing=unpaired needs tracks that hold a mixture or {ACCOMPANIMENT}, and other tracks that hold "
            f"{' and '.join(targets)}; {_holdings(tracks)}"
        )
    level_db = None if mixed else _COMPOSED_LEVEL_DB
    if mixed:
        pools = [_mixture_pool(giving, config, targets, num_samples)]
    else:
        pools = _composed_pools(alone, voices, config, targets, num_samples)
    parts = sum(pool.slots for pool in pools)
    pools += [_stem_pool(*part, config, num_samples, level_db) for part in zip(by_target, targets, strict=True)]
    return Layout(pools=tuple(pools), mixture=slice(0, parts), target=slice(parts, None), paired=False)


def _dealt(track_ids: Set[str], share: float, seed: int, *, spare: tuple[int, int]) -> set[str]:
    """The tracks that give mixtures: a seeded choice that leaves neither side empty, unless it has `spare` tracks."""
    order = sorted(track_ids, key=lambda track_id: hashlib.blake2b(f"{seed}/{track_id}".encode()).digest())
    least, most = int(spare[0] == 0), len(order) - int(spare[1] == 0)
    return set(order[: max(0, min(max(round(share * len(order)), least), most))])


def _mixture_pool(tracks: Sequence[TrackRecord], config: CropConfig, targets: Sequence[str], num_samples: int) -> Pool:
    recipes = [
        Recipe((MIXTURE,))
        if MIXTURE in track.stems
        else Recipe(track.stems, np.ones((1, len(track.stems)), np.float32))
        for track in tracks
    ]
    return make_pool(tracks, recipes, num_samples=num_samples, targets=targets, active_db=config.active_db)


def _composed_pools(
    alone: Sequence[TrackRecord],
    voices: Sequence[Sequence[TrackRecord]],
    config: CropConfig,
    targets: Sequence[str],
    num_samples: int,
) -> list[Pool]:
    """One pool of accompaniments, then one for each target; a crop of each, at a random ratio, makes a mixture."""
    below = _stem_pool(alone, ACCOMPANIMENT, config, num_samples, _COMPOSED_LEVEL_DB)
    above = [
        _stem_pool(tracks, target, config, num_samples, _COMPOSED_LEVEL_DB, spread_db=config.level_ratio_db)
        for tracks, target in zip(voices, targets, strict=True)
    ]
    return [below, *above]


def _stem_pool(
    tracks: Sequence[TrackRecord],
    stem: str,
    config: CropConfig,
    num_samples: int,
    level_db: float | None,
    spread_db: float = 0.0,
) -> Pool:
    return make_pool(
        tracks,
        [Recipe((stem,))] * len(tracks),
        num_samples=num_samples,
        targets=() if stem == ACCOMPANIMENT else (stem,),
        active_db=config.active_db,
        level_db=level_db,
        spread_db=spread_db,
    )


def _holdings(tracks: Sequence[TrackRecord]) -> str:
    kinds = sorted({"+".join(track.stems) for track in tracks})
    return f"{len(tracks)} tracks were found, holding {' | '.join(kinds[:5]) or 'nothing'}"
