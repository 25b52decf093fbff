"""Augmentation of the stems in a batch: gain, polarity, channel order, and remixing stems of different songs.

What is drawn depends on the seed and the crop's number in the run only, never on the number of workers. It is applied
to tensors on whatever device they are. The mixture is the sum of the stems afterwards, whatever was done to them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import torch
from annotated_types import Ge, Le
from numpy.typing import NDArray
from pydantic import NonNegativeFloat, PositiveInt
from torch import Tensor

from cyclesep.errors import ConfigError

Share = Annotated[float, Ge(0.0), Le(1.0)]

# Streams of random numbers beside the one (seed, crop number) that draws where a crop lies.
_STEMS, _REMIX = 1, 2


@dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    """How the stems of a crop are varied; every value at 0 leaves the recordings as they are."""

    gain_db: NonNegativeFloat = 6.0
    """Each stem of each crop becomes louder or softer by up to this many dB."""

    polarity_share: Share = 0.5
    """Share of stems whose polarity is inverted."""

    channel_swap_share: Share = 0.5
    """Share of stems whose channels change places; nothing to a mono corpus."""

    remix_share: Share = 0.5
    """Share of groups of crops whose stems are shuffled across songs; only where crops have stems (paired)."""

    remix_group: PositiveInt = 4
    """Crops in such a group; batch_size must be a multiple of this times the number of workers."""


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """What was drawn for a batch of stems: all arrays are `(batch, stems)`."""

    source: NDArray[np.int64]
    """Which crop of the batch each stem is taken from."""
    gain: NDArray[np.float32]
    """Linear, negative where the polarity is inverted."""
    swap: NDArray[np.bool_]
    """Whether the channels change places."""


def draw(
    config: AugmentConfig, *, seed: int, numbers: Sequence[int], stems: int, num_groups: int | None = None
) -> Augmentation:
    """Draw for the crops with these `numbers` in the run, ascending.

    With `num_groups`, stems are shuffled among the crops of equal `number % num_groups`.
    """
    shape = (len(numbers), stems)
    gain, swap = np.empty(shape, np.float32), np.empty(shape, bool)
    for row, number in enumerate(numbers):
        rng = np.random.default_rng((seed, number, _STEMS))
        sign = np.where(rng.random(stems) < config.polarity_share, -1.0, 1.0)
        gain[row] = sign * 10.0 ** (rng.uniform(-config.gain_db, config.gain_db, stems) / 20.0)
        swap[row] = rng.random(stems) < config.channel_swap_share
    source = np.repeat(np.arange(len(numbers))[:, None], stems, axis=1)
    if num_groups is not None:
        _shuffle_groups(source, config, seed, np.asarray(numbers), num_groups)
    return Augmentation(source=source, gain=gain, swap=swap)


def apply(stems: Tensor, augmentation: Augmentation) -> Tensor:
    """Apply to `stems` `(batch, stems, channels, time)`; the result has the same shape and device."""
    drawn = (augmentation.source, augmentation.gain, augmentation.swap)
    source, gain, swap = (torch.from_numpy(values).to(stems.device) for values in drawn)
    stem = torch.arange(stems.shape[1], device=stems.device)[None, :, None]
    channel = torch.arange(stems.shape[2], device=stems.device).expand(*source.shape, -1)
    channel = torch.where(swap[:, :, None], channel.flip(2), channel)
    # One gather moves whole rows of time, for remix and swap together.
    return stems[source[:, :, None], stem, channel].mul_(gain[:, :, None, None])


def num_groups(config: AugmentConfig, *, batch_size: int, world_size: int) -> int | None:
    """Groups in a global batch, so that each lies inside one worker's share; None if nothing is to be remixed.

    Raises ConfigError if groups do not fit.
    """
    if config.remix_share == 0.0:
        return None
    if batch_size % (config.remix_group * world_size):
        raise ConfigError(
            f"batch_size: {batch_size} is not a multiple of {world_size} workers times augment.remix_group="
            f"{config.remix_group}; change one of them, or set augment.remix_share=0"
        )
    return batch_size // config.remix_group


def _shuffle_groups(
    source: NDArray[np.int64], config: AugmentConfig, seed: int, numbers: NDArray[np.int64], num_groups: int
) -> None:
    for group in np.unique(numbers % num_groups):
        members = np.flatnonzero(numbers % num_groups == group)
        # The first member names the group: the same crop for any number of workers.
        rng = np.random.default_rng((seed, int(numbers[members[0]]), _REMIX))
        if rng.random() < config.remix_share:
            for stem in range(source.shape[1]):
                source[members, stem] = rng.permutation(members)
