"""Datasets of training and validation crops from shards. Crop n of a run is a pure function of `(seed, n)`.

Global batch k contains the crops `k * batch_size ... (k + 1) * batch_size - 1`; rank r of w workers takes every w-th of
them, starting with the r-th. Crops are random, without epochs: resuming needs only the step number, and a step uses the
same crops on 1, 2 or 8 workers.
"""

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from cyclesep.data.crops import augment
from cyclesep.data.crops.config import CropConfig
from cyclesep.data.crops.pairing import training_samplers, validation_sampler
from cyclesep.data.crops.sampling import CropLocation, CropSampler
from cyclesep.data.shards.reading import ShardReader
from cyclesep.errors import ConfigError

# Random stream (seed, step, _PAIRED) for the choice between paired and unpaired steps; augmentation uses 1 to 3.
_PAIRED = 4

# Crops that are read and augmented together: few enough to fit into the CPU cache.
_CROPS_PER_CHUNK = 4


@dataclass(frozen=True, kw_only=True)
class Batch:
    """A batch of training crops; tensors are float32."""

    mixture: Tensor
    """`(batch, channels, time)`: mixtures to separate."""
    target: Tensor
    """`(batch, targets, channels, time)`: target recordings, aligned with `mixture` if and only if `paired`."""
    paired: bool

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> "Batch":
        """Return the batch on another device."""
        return Batch(
            mixture=self.mixture.to(device, non_blocking=non_blocking),
            target=self.target.to(device, non_blocking=non_blocking),
            paired=self.paired,
        )

    def pin_memory(self) -> "Batch":
        """Return the batch in page-locked memory; a DataLoader with pin_memory=True calls this method."""
        return Batch(mixture=self.mixture.pin_memory(), target=self.target.pin_memory(), paired=self.paired)


@dataclass(frozen=True, kw_only=True)
class CropPlan:
    """Sampler, locations and speed of a crop."""

    sampler: CropSampler
    locations: list[CropLocation]
    """One per pool of the sampler."""
    speed: int
    """In percent."""
    num_samples: int
    """Number of samples to read, before the change of speed."""


class CropStream(IterableDataset[Batch]):
    """One worker's part of each global batch, step by step, for a DataLoader with `batch_size=None`.

    With k loader processes, process i makes every k-th step; the DataLoader alternates between them, so the order of
    the steps is exact.
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
        """Create a stream of `num_steps` batches from `start_step` on; None: an endless stream.

        Raises ConfigError if the tracks of `split` lack the stems for `config.pairing`, or if `config.batch_size` is
        not a multiple of `world_size`.
        """
        if config.batch_size % world_size:
            raise ConfigError(
                f"batch_size: {config.batch_size} is not a multiple of {world_size} workers; change one of them"
            )
        tracks = reader.manifest.split(split)
        self.num_samples = round(config.crop_seconds * reader.manifest.sample_rate)
        self.samplers = training_samplers(tracks, config, targets=targets, num_samples=self.num_samples, seed=seed)
        self.config, self.seed, self.rank, self.world_size = config, seed, rank, world_size
        self.start_step, self.num_steps = start_step, num_steps
        self._reader = reader
        self._resized_samplers: dict[tuple[bool, int], CropSampler | None] = {}
        remixed = config.augment.p_remix > 0.0 and any(sampler.paired for sampler in self.samplers)
        self._num_groups = augment.num_groups(config.augment, batch_size=config.batch_size) if remixed else None

    def __iter__(self) -> Iterator[Batch]:
        worker = get_worker_info()
        first, every = (worker.id, worker.num_workers) if worker else (0, 1)
        steps = itertools.count(self.start_step)
        return (self.batch(step) for step in itertools.islice(steps, first, self.num_steps, every))

    def crop_indices(self, step: int) -> list[int]:
        """Return the indices, within the run, of this worker's crops of a step."""
        first = step * self.config.batch_size
        return list(range(first + self.rank, first + self.config.batch_size, self.world_size))

    def sampler(self, step: int) -> CropSampler:
        """Return the paired or unpaired sampler of a step; it is the same on all workers."""
        if len(self.samplers) == 1:
            return self.samplers[0]
        paired, unpaired = self.samplers
        chance = np.random.default_rng((self.seed, step, _PAIRED)).random()
        return paired if chance < self.config.paired_fraction else unpaired

    def plan(self, index: int) -> CropPlan:
        """Return the plan of crop `index` of the run.

        Another speed needs an excerpt of another length. The crop is drawn from all locations where that excerpt fits;
        if it fits nowhere, the speed stays unchanged.
        """
        sampler, num_samples = self.sampler(index // self.config.batch_size), self.num_samples
        speed = augment.draw_speed(self.config.augment, seed=self.seed, crop_index=index)
        if speed != augment.ORIGINAL_SPEED:
            needed = -(-num_samples * speed // augment.ORIGINAL_SPEED)
            resized = self._resized_sampler(sampler, needed)
            if resized is None:
                speed = augment.ORIGINAL_SPEED
            else:
                sampler, num_samples = resized, needed
        locations = sampler.draw(np.random.default_rng((self.seed, index)), self.config.p_active)
        return CropPlan(sampler=sampler, locations=locations, speed=speed, num_samples=num_samples)

    def batch(self, step: int) -> Batch:
        """Return this worker's part of the batch of a step, augmented."""
        sampler, indices = self.sampler(step), self.crop_indices(step)
        channels = self._reader.manifest.channels
        batch = Batch(
            mixture=torch.empty(len(indices), channels, self.num_samples),
            target=torch.empty(len(indices), sampler.num_targets, channels, self.num_samples),
            paired=sampler.paired,
        )
        num_chunks = self._num_chunks(sampler, len(indices))
        for rows in (slice(chunk, None, num_chunks) for chunk in range(num_chunks)):
            stems = self._augmented_stems(sampler, indices[rows])
            torch.sum(stems[:, sampler.mixture_slots], dim=1, out=batch.mixture[rows])
            batch.target[rows] = stems[:, sampler.target_slots]
        return batch

    def _num_chunks(self, sampler: CropSampler, num_crops: int) -> int:
        """Return the number of chunks in which this worker's crops are read; a remix group is within one chunk."""
        if sampler.paired and self._num_groups is not None:
            return self._num_groups // math.gcd(self._num_groups, self.world_size)
        return -(-num_crops // _CROPS_PER_CHUNK)

    def _resized_sampler(self, sampler: CropSampler, num_samples: int) -> CropSampler | None:
        key = (sampler.paired, num_samples)
        if key not in self._resized_samplers:
            self._resized_samplers[key] = sampler.with_crop_length(num_samples)
        return self._resized_samplers[key]

    def _augmented_stems(self, sampler: CropSampler, indices: Sequence[int]) -> Tensor:
        """Return the augmented stems `(crops, slots, channels, time)` of the crops with these indices."""
        augmentation = augment.draw(
            self.config.augment,
            seed=self.seed,
            crop_indices=indices,
            num_stems=sampler.num_slots,
            batch_size=self.config.batch_size if sampler.paired else None,
        )
        return augment.apply(self._read_stems(sampler, augmentation.source_crops), augmentation)

    def _read_stems(self, sampler: CropSampler, indices: Sequence[int]) -> Tensor:
        """Return stems `(crops, slots, channels, time)` before the remix, at the speed of their crops."""
        plans = [self.plan(index) for index in indices]
        unchanged = [row for row, plan in enumerate(plans) if plan.speed == augment.ORIGINAL_SPEED]
        stems = sampler.read(self._reader, [plans[row].locations for row in unchanged], self.num_samples)
        if len(unchanged) == len(plans):
            return stems
        result = stems.new_empty(len(plans), *stems.shape[1:])
        result[unchanged] = stems
        for row, plan in enumerate(plans):
            if plan.speed != augment.ORIGINAL_SPEED:
                (excerpt,) = plan.sampler.read(self._reader, [plan.locations], plan.num_samples)
                result[row] = augment.change_speed(excerpt, plan.speed, num_samples=self.num_samples)
        return result


def crop_loader(stream: CropStream, *, num_processes: int = 0, pin_memory: bool | None = None) -> DataLoader[Batch]:
    """Return a DataLoader of batches in exact order, prefetched by `num_processes` or read in this process (0).

    The processes open the shards themselves. They start with forkserver, because a forked Ray worker may hang. By
    default, memory is pinned if a GPU is available.
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
    """Return fixed crops, evenly spaced over the tracks of a split, without augmentation; None without references.

    Mixtures are `(crops, channels, time)`, their aligned targets `(crops, targets, channels, time)`. Crops contain a
    target if the manifest has the loudness of the stems. If the split has only unrelated targets and accompaniments,
    they are mixed on the fly.
    """
    num_samples = round(config.crop_seconds * reader.manifest.sample_rate)
    sampler = validation_sampler(reader.manifest.split(split), config, targets=targets, num_samples=num_samples)
    if sampler is None:
        return None
    mixtures = torch.empty(count, reader.manifest.channels, num_samples)
    aligned = torch.empty(count, sampler.num_targets, reader.manifest.channels, num_samples)
    for index in range(count):
        locations = [pool.evenly_spaced(index, count) for pool in sampler.pools]
        stems = sampler.read(reader, [locations], num_samples)[0]
        mixtures[index], aligned[index] = stems[sampler.mixture_slots].sum(0), stems[sampler.target_slots]
    return mixtures, aligned
