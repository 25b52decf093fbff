"""Crops: what training draws from shards. The n-th crop of a run is a pure function of `(seed, n)`.

Global batch k holds the crops `k * batch_size ... (k + 1) * batch_size - 1`, and rank r of w takes every w-th of them
from the r-th on. Random crops have no epochs, so that resuming needs one number, and a step sees the same crops on 1, 2
or 8 workers.
"""

import itertools
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from cyclesep.data.crops import augment, time_stretch
from cyclesep.data.crops.config import CropConfig
from cyclesep.data.crops.pairing import training_layouts, validation_layout
from cyclesep.data.crops.sampling import Draw, Layout
from cyclesep.data.crops.time_stretch import PitchTempo
from cyclesep.data.shards.reading import ShardReader
from cyclesep.errors import ConfigError

# The stream of random numbers (seed, step) that tells paired steps from unpaired ones, beside those of augmentation.
_PAIRED = 4

# Crops whose stems are read and augmented together: few enough to stay in the processor's cache.
_TOGETHER = 4


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
class Place:
    """Where a crop of the run lies, and how long a piece of its tracks it is made of."""

    layout: Layout
    draws: list[Draw]
    pitch_tempo: PitchTempo
    num_samples: int


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
        self.layouts = training_layouts(tracks, config, targets=targets, num_samples=self.num_samples, seed=seed)
        self.config, self.seed, self.rank, self.world_size = config, seed, rank, world_size
        self.start_step, self.num_steps = start_step, num_steps
        self._reader = reader
        self._longer: dict[tuple[bool, int], Layout | None] = {}
        remixed = config.augment.p_remix > 0.0 and any(layout.paired for layout in self.layouts)
        self._num_groups = augment.num_groups(config.augment, batch_size=config.batch_size) if remixed else None

    def __iter__(self) -> Iterator[Batch]:
        worker = get_worker_info()
        first, every = (worker.id, worker.num_workers) if worker else (0, 1)
        steps = itertools.count(self.start_step)
        return (self.batch(step) for step in itertools.islice(steps, first, self.num_steps, every))

    def numbers(self, step: int) -> list[int]:
        """The numbers, in the run, of this worker's crops of a step."""
        first = step * self.config.batch_size
        return list(range(first + self.rank, first + self.config.batch_size, self.world_size))

    def layout(self, step: int) -> Layout:
        """Whether a step is paired, and where its crops come from; the same on all workers."""
        if len(self.layouts) == 1:
            return self.layouts[0]
        paired, unpaired = self.layouts
        chance = np.random.default_rng((self.seed, step, _PAIRED)).random()
        return paired if chance < self.config.paired_fraction else unpaired

    def place(self, number: int) -> Place:
        """Where crop `number` of the run lies.

        A crop whose pitch and tempo are changed is drawn from all places where the longer piece of the recording that
        it needs fits; it stays as it was recorded if that fits nowhere.
        """
        layout, num_samples = self.layout(number // self.config.batch_size), self.num_samples
        changed = augment.draw_pitch_tempo(self.config.augment, seed=self.seed, number=number)
        needed = changed.source_samples(num_samples, self._reader.manifest.sample_rate)
        if needed != num_samples:
            longer = self._layout_for(layout, needed)
            if longer is None:
                changed = PitchTempo()
            else:
                layout, num_samples = longer, needed
        draws = layout.draw(np.random.default_rng((self.seed, number)), self.config.p_active)
        return Place(layout=layout, draws=draws, pitch_tempo=changed, num_samples=num_samples)

    def batch(self, step: int) -> Batch:
        """This worker's share of the batch of one step, augmented."""
        layout, numbers = self.layout(step), self.numbers(step)
        channels = self._reader.manifest.channels
        batch = Batch(
            mixture=torch.empty(len(numbers), channels, self.num_samples),
            target=torch.empty(len(numbers), layout.num_targets, channels, self.num_samples),
            paired=layout.paired,
        )
        parts = self._parts(layout, len(numbers))
        for rows in (slice(part, None, parts) for part in range(parts)):
            stems = self._augmented(layout, numbers[rows])
            torch.sum(stems[:, layout.mixture], dim=1, out=batch.mixture[rows])
            batch.target[rows] = stems[:, layout.target]
        return batch

    def _parts(self, layout: Layout, num_crops: int) -> int:
        """Every how many-th crop of this worker's share is read together; those of one remix group are."""
        if layout.paired and self._num_groups is not None:
            return self._num_groups // math.gcd(self._num_groups, self.world_size)
        return -(-num_crops // _TOGETHER)

    def _layout_for(self, layout: Layout, num_samples: int) -> Layout | None:
        key = (layout.paired, num_samples)
        if key not in self._longer:
            self._longer[key] = layout.longer(num_samples)
        return self._longer[key]

    def _augmented(self, layout: Layout, numbers: Sequence[int]) -> Tensor:
        """Stems `(crops, slots, channels, time)` of the crops with these numbers."""
        drawn = augment.draw(
            self.config.augment,
            seed=self.seed,
            numbers=numbers,
            stems=layout.slots,
            batch_size=self.config.batch_size if layout.paired else None,
        )
        return augment.apply(self._recorded(layout, drawn.needed), drawn)

    def _recorded(self, layout: Layout, numbers: Sequence[int]) -> Tensor:
        """The same before stems are remixed: pitch and tempo belong to the song."""
        places = [self.place(number) for number in numbers]
        as_recorded = [row for row, place in enumerate(places) if place.pitch_tempo == PitchTempo()]
        stems = layout.read(self._reader, [places[row].draws for row in as_recorded], self.num_samples)
        if len(as_recorded) == len(places):
            return stems
        every = stems.new_empty(len(places), *stems.shape[1:])
        every[as_recorded] = stems
        for row, place in enumerate(places):
            if place.pitch_tempo != PitchTempo():
                every[row] = self._changed(place)
        return every

    def _changed(self, place: Place) -> Tensor:
        """A crop `(slots, channels, time)` in another pitch and tempo."""
        with _one_thread():
            return time_stretch.change(
                place.layout.read(self._reader, [place.draws], place.num_samples)[0],
                place.pitch_tempo,
                num_samples=self.num_samples,
                sample_rate=self._reader.manifest.sample_rate,
            )


@contextmanager
def _one_thread() -> Iterator[None]:
    """Compute in one thread, as loader processes do: how work is split between threads decides the last bits."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


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
    mixtures = torch.empty(count, reader.manifest.channels, num_samples)
    aligned = torch.empty(count, layout.num_targets, reader.manifest.channels, num_samples)
    for crop, draw in enumerate(draws):
        stems = layout.read(reader, [draw], num_samples)[0]
        mixtures[crop], aligned[crop] = stems[layout.mixture].sum(0), stems[layout.target]
    return mixtures, aligned
