"""Augmentation of the stems in a batch: gain, polarity, channel order, pitch and tempo, and remixing across songs.

What is drawn depends on the seed and the crop's number in the run only, never on the number of workers. It is applied
to tensors on whatever device they are. The mixture is the sum of the stems afterwards, whatever was done to them.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cyclesep.data.crops.config import AugmentConfig
from cyclesep.data.crops.time_stretch import PitchTempo
from cyclesep.errors import ConfigError

# Streams of random numbers beside the one (seed, crop number) that draws where a crop lies.
_STEMS, _REMIX, _PITCH_TEMPO = 1, 2, 3


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """What was drawn for a batch of stems: all arrays are `(batch, stems)`."""

    source: NDArray[np.int64]
    """The number in the run of the crop that each stem is taken from."""
    gain: NDArray[np.float32]
    """Linear, negative where the polarity is inverted."""
    swap: NDArray[np.bool_]
    """Whether the channels change places."""

    @property
    def needed(self) -> list[int]:
        """The numbers of all crops that stems are taken from, ascending."""
        return [int(number) for number in np.unique(self.source)]


def draw(
    config: AugmentConfig, *, seed: int, numbers: Sequence[int], stems: int, batch_size: int | None = None
) -> Augmentation:
    """Draw for the crops with these `numbers` in the run.

    With `batch_size`, the crops of all workers in one step, stems are shuffled in groups of `config.remix_group_size` crops
    of the step, so that some may have to be taken from crops that are not among `numbers`.
    """
    shape = (len(numbers), stems)
    gain, swap = np.empty(shape, np.float32), np.empty(shape, bool)
    for row, number in enumerate(numbers):
        rng = np.random.default_rng((seed, number, _STEMS))
        sign = np.where(rng.random(stems) < config.p_polarity, -1.0, 1.0)
        gain[row] = sign * 10.0 ** (rng.uniform(-config.gain_db, config.gain_db, stems) / 20.0)
        swap[row] = rng.random(stems) < config.p_channel_swap
    source = np.repeat(np.asarray(numbers, dtype=np.int64)[:, None], stems, axis=1)
    if batch_size is not None and config.p_remix > 0.0:
        _remix(source, config, seed, batch_size)
    return Augmentation(source=source, gain=gain, swap=swap)


def draw_pitch_tempo(config: AugmentConfig, *, seed: int, number: int) -> PitchTempo:
    """How pitch and tempo of crop `number` of the run are changed: all its stems alike, before they are remixed."""
    if config.p_pitch_tempo == 0.0:
        return PitchTempo()
    rng = np.random.default_rng((seed, number, _PITCH_TEMPO))
    if rng.random() >= config.p_pitch_tempo:
        return PitchTempo()
    semitones = float(rng.uniform(-config.pitch_semitones, config.pitch_semitones))
    return PitchTempo(semitones, 1.0 + int(rng.integers(-config.tempo_percent, config.tempo_percent + 1)) / 100)


def apply(stems: Tensor, augmentation: Augmentation) -> Tensor:
    """Apply to `stems` `(crops, stems, channels, time)` of the crops `augmentation.needed`; stays on their device.

    The result is `(batch, stems, channels, time)`, one row for each row of `augmentation`.
    """
    rows = np.searchsorted(augmentation.needed, augmentation.source)
    source, gain, swap = (
        torch.from_numpy(values).to(stems.device) for values in (rows, augmentation.gain, augmentation.swap)
    )
    stem = torch.arange(stems.shape[1], device=stems.device)[None, :, None]
    channel = torch.arange(stems.shape[2], device=stems.device).expand(*source.shape, -1)
    channel = torch.where(swap[:, :, None], channel.flip(2), channel)
    # One gather moves whole rows of time, for remix and swap together.
    return stems[source[:, :, None], stem, channel].mul_(gain[:, :, None, None])


def num_groups(config: AugmentConfig, *, batch_size: int) -> int:
    """Groups in the batch of a step; crop n belongs to group `n % num_groups`.

    So the groups are whole in each worker's share if their number is a multiple of that of the workers. Raises
    ConfigError if groups do not fit.
    """
    if batch_size % config.remix_group_size:
        raise ConfigError(
            f"crops.batch_size: {batch_size} is not a multiple of crops.augment.remix_group_size={config.remix_group_size}; "
            "change one of them, or set crops.augment.p_remix=0"
        )
    return batch_size // config.remix_group_size


def _remix(source: NDArray[np.int64], config: AugmentConfig, seed: int, batch_size: int) -> None:
    """Shuffle each stem among the crops of its group, wherever they are."""
    groups = num_groups(config, batch_size=batch_size)
    firsts = source[:, 0] // batch_size * batch_size + source[:, 0] % groups
    for first in np.unique(firsts):
        members = np.arange(first, first + groups * config.remix_group_size, groups)
        # The first member names the group: the same draw on every worker.
        rng = np.random.default_rng((seed, int(first), _REMIX))
        if rng.random() < config.p_remix:
            rows = np.flatnonzero(firsts == first)
            places = np.searchsorted(members, source[rows, 0])
            for stem in range(source.shape[1]):
                source[rows, stem] = rng.permutation(members)[places]
