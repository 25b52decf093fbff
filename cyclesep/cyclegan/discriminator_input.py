"""Normalization of discriminator inputs.

It removes differences that a discriminator could exploit instead of the content: the loudness of a recording and the
bandwidth of its file format.
"""

import dataclasses
import math
from collections.abc import Mapping

import torch
from torch import Tensor

from cyclesep.cyclegan.config import DiscriminatorInputConfig, MethodConfig
from cyclesep.cyclegan.recipes import DiscriminatorPair

# Waveforms more than 26 dB below the mixtures (unit level) are not brought to full level.
LEVEL_FLOOR = 0.05
# Resamplers differ above this fraction of the Nyquist frequency.
MAX_NYQUIST_FRACTION = 0.95
# The band edges are raised cosines: from half the lower limit to the limit, and from the upper limit to this multiple.
UPPER_EDGE = 1.05


def discriminator_inputs(
    config: MethodConfig,
    pairs: Mapping[str, DiscriminatorPair],
    rng: torch.Generator,
    *,
    paired: bool,
    sample_rate: int,
) -> dict[str, DiscriminatorPair]:
    """Return cropped and normalized pairs; see `discriminator.crop_seconds` and `discriminator_input`."""
    seconds = config.discriminator.crop_seconds
    num_samples = None if seconds is None else round(seconds * sample_rate)
    return {
        name: normalize_pair(
            config.discriminator_input, random_crop(pair, num_samples, rng), paired=paired, sample_rate=sample_rate
        )
        for name, pair in pairs.items()
    }


def random_crop(pair: DiscriminatorPair, num_samples: int | None, rng: torch.Generator) -> DiscriminatorPair:
    """Return the same random window of all waveforms of a pair; None or a longer window returns the pair as it is."""
    if num_samples is None or num_samples >= pair.real.shape[-1]:
        return pair
    start = int(torch.randint(pair.real.shape[-1] - num_samples + 1, (), generator=rng))
    window = slice(start, start + num_samples)
    also_fake = None if pair.also_fake is None else pair.also_fake[..., window]
    return dataclasses.replace(pair, real=pair.real[..., window], fake=pair.fake[..., window], also_fake=also_fake)


def normalize_pair(
    config: DiscriminatorInputConfig, pair: DiscriminatorPair, *, paired: bool, sample_rate: int
) -> DiscriminatorPair:
    """Return `pair` with each crop at the same level and in the same band; differentiable."""
    limited = config.band_limit == "always" or (config.band_limit == "unpaired" and not paired)

    def normalize(waveform: Tensor) -> Tensor:
        waveform = limit_band(waveform, config.band_hz, sample_rate) if limited else waveform
        return normalize_level(waveform) if config.normalize_level else waveform

    also_fake = None if pair.also_fake is None else normalize(pair.also_fake)
    return dataclasses.replace(pair, real=normalize(pair.real), fake=normalize(pair.fake), also_fake=also_fake)


def normalize_level(waveform: Tensor) -> Tensor:
    """Scale each crop of `(batch, channels, time)` to RMS 1; crops near silence stay below it."""
    power = waveform.square().mean(dim=(1, 2), keepdim=True)
    return waveform / (power + LEVEL_FLOOR**2).sqrt()


def limit_band(waveform: Tensor, band_hz: tuple[float, float], sample_rate: int) -> Tensor:
    """Band-pass `(..., time)` through the spectrum of the whole crop."""
    num_samples = waveform.shape[-1]
    frequencies = torch.fft.rfftfreq(num_samples, 1 / sample_rate, dtype=waveform.dtype, device=waveform.device)
    low, high = band_hz[0], min(band_hz[1], MAX_NYQUIST_FRACTION * sample_rate / 2)
    gain = _raised_cosine(frequencies, low / 2, low) * (1 - _raised_cosine(frequencies, high, UPPER_EDGE * high))
    limited: Tensor = torch.fft.irfft(torch.fft.rfft(waveform) * gain, num_samples)
    return limited


def _raised_cosine(frequencies: Tensor, start: float, end: float) -> Tensor:
    """Return a gain that rises from 0 at `start` to 1 at `end`."""
    position = ((frequencies - start) / (end - start)).clamp(0, 1)
    return (1 - torch.cos(math.pi * position)) / 2
