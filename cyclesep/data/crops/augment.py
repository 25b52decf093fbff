"""Augmentation of the stems in a batch: gain, polarity, channel swap, speed, and remixing across songs.

Random choices depend only on the seed and the index of the crop in the run, not on the number of workers. Augmentation
runs on the device of the tensors, except changes of speed. The mixture is the sum of the augmented stems.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import soxr
import torch
from numpy.typing import NDArray
from torch import Tensor

from cyclesep.audio.audio_io import fit_length
from cyclesep.data.crops.config import AugmentConfig
from cyclesep.errors import ConfigError

# Random streams (seed, crop index, stream), separate from the stream (seed, crop index) for the location of a crop.
_STEMS, _REMIX, _SPEED = 1, 2, 3


# Percent.
ORIGINAL_SPEED = 100


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """Random augmentation parameters of a batch of stems; all arrays are `(batch, stems)`."""

    source: NDArray[np.int64]
    """Index, within the run, of the crop that each stem is taken from."""
    gain: NDArray[np.float32]
    """Linear gain, negative for inverted polarity."""
    swap: NDArray[np.bool_]
    """Whether the channels are swapped."""

    @property
    def source_crops(self) -> list[int]:
        """Indices of all crops that stems are taken from, ascending."""
        return [int(index) for index in np.unique(self.source)]


def draw(
    config: AugmentConfig, *, seed: int, crop_indices: Sequence[int], num_stems: int, batch_size: int | None = None
) -> Augmentation:
    """Draw the augmentation of the crops with these indices in the run.

    With `batch_size`, the number of crops of all workers in one step, stems are shuffled within groups of
    `config.remix_group_size` crops of the step; their sources may then include crops that are not in `crop_indices`.
    """
    shape = (len(crop_indices), num_stems)
    gain, swap = np.empty(shape, np.float32), np.empty(shape, bool)
    for row, index in enumerate(crop_indices):
        rng = np.random.default_rng((seed, index, _STEMS))
        sign = np.where(rng.random(num_stems) < config.p_polarity, -1.0, 1.0)
        gain[row] = sign * 10.0 ** (rng.uniform(-config.gain_db, config.gain_db, num_stems) / 20.0)
        swap[row] = rng.random(num_stems) < config.p_channel_swap
    source = np.repeat(np.asarray(crop_indices, dtype=np.int64)[:, None], num_stems, axis=1)
    if batch_size is not None and config.p_remix > 0.0:
        _remix(source, config, seed, batch_size)
    return Augmentation(source=source, gain=gain, swap=swap)


def draw_speed(config: AugmentConfig, *, seed: int, crop_index: int) -> int:
    """Draw the speed of a crop in percent; it applies to all stems of the crop, before remixing."""
    if config.p_speed == 0.0:
        return ORIGINAL_SPEED
    rng = np.random.default_rng((seed, crop_index, _SPEED))
    if rng.random() >= config.p_speed:
        return ORIGINAL_SPEED
    return ORIGINAL_SPEED + int(rng.integers(-config.speed_percent, config.speed_percent + 1))


def change_speed(stems: Tensor, speed: int, *, num_samples: int) -> Tensor:
    """Play float32 `(stems, channels, time)` at `speed` percent; return `(stems, channels, num_samples)`.

    `time` must be `ceil(num_samples * speed / 100)`. Pitch and tempo change together, by resampling with soxr (T. Ko et
    al., "Audio augmentation for speech recognition", Interspeech 2015).
    """
    resampled = soxr.resample(stems.flatten(0, 1).numpy().T, speed, ORIGINAL_SPEED, quality="HQ").T
    return torch.from_numpy(fit_length(resampled, num_samples)).reshape(*stems.shape[:2], num_samples)


def apply(stems: Tensor, augmentation: Augmentation) -> Tensor:
    """Apply an augmentation to `stems` `(crops, stems, channels, time)` of the crops `augmentation.source_crops`.

    Returns `(batch, stems, channels, time)` on the same device, with one row per row of `augmentation`.
    """
    rows = np.searchsorted(augmentation.source_crops, augmentation.source)
    source, gain, swap = (
        torch.from_numpy(values).to(stems.device) for values in (rows, augmentation.gain, augmentation.swap)
    )
    stem = torch.arange(stems.shape[1], device=stems.device)[None, :, None]
    channel = torch.arange(stems.shape[2], device=stems.device).expand(*source.shape, -1)
    channel = torch.where(swap[:, :, None], channel.flip(2), channel)
    # A single gather of contiguous rows remixes the stems and swaps the channels.
    return stems[source[:, :, None], stem, channel].mul_(gain[:, :, None, None])


def num_groups(config: AugmentConfig, *, batch_size: int) -> int:
    """Return the number of remix groups in the batch of a step; crop n belongs to group `n % num_groups`.

    If the number of groups is a multiple of the number of workers, each group is on a single worker. Raises ConfigError
    if `batch_size` is not a multiple of the group size.
    """
    if batch_size % config.remix_group_size:
        raise ConfigError(
            f"crops.batch_size: {batch_size} is not a multiple of crops.augment.remix_group_size="
            f"{config.remix_group_size}; change one of them, or set crops.augment.p_remix=0"
        )
    return batch_size // config.remix_group_size


def _remix(source: NDArray[np.int64], config: AugmentConfig, seed: int, batch_size: int) -> None:
    """Shuffle each stem among the crops of its group in place; groups may span several workers."""
    groups = num_groups(config, batch_size=batch_size)
    firsts = source[:, 0] // batch_size * batch_size + source[:, 0] % groups
    for first in np.unique(firsts):
        members = np.arange(first, first + groups * config.remix_group_size, groups)
        # Seeded by the first crop of the group, so that all workers draw the same permutations.
        rng = np.random.default_rng((seed, int(first), _REMIX))
        if rng.random() < config.p_remix:
            rows = np.flatnonzero(firsts == first)
            positions = np.searchsorted(members, source[rows, 0])
            for stem in range(source.shape[1]):
                source[rows, stem] = rng.permutation(members)[positions]
