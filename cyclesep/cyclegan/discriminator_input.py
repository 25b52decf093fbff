"""What a discriminator must not go by: how loud a recording was mastered, and which band its format kept."""

import dataclasses
import math

import torch
from torch import Tensor

from cyclesep.cyclegan.config import DiscriminatorInputConfig
from cyclesep.cyclegan.recipes import DiscriminatorPair

# Waveforms quieter than this, relative to the mixtures (-26 dB), are not brought to full level for a discriminator.
FLOOR = 0.05
# Above this share of half the sample rate resamplers differ, so nothing there is compared.
HIGHEST_SHARE = 0.95
# Each edge of the band is half a cosine, from half the low limit and to this multiple of the high one.
HIGH_EDGE = 1.05


def matched(
    config: DiscriminatorInputConfig, pair: DiscriminatorPair, *, paired: bool, sample_rate: int
) -> DiscriminatorPair:
    """`pair` at one level and in one band; gradients pass through, and each crop is changed by itself alone."""
    limited = config.band_limit == "always" or (config.band_limit == "unpaired" and not paired)

    def prepared(waveform: Tensor) -> Tensor:
        waveform = band_limited(waveform, config.band_hz, sample_rate) if limited else waveform
        return at_one_level(waveform) if config.normalize_level else waveform

    also_fake = None if pair.also_fake is None else prepared(pair.also_fake)
    return dataclasses.replace(pair, real=prepared(pair.real), fake=prepared(pair.fake), also_fake=also_fake)


def at_one_level(waveform: Tensor) -> Tensor:
    """`(batch, channels, time)` with every crop at RMS 1, but for crops near silence, which stay below it."""
    power = waveform.square().mean(dim=(1, 2), keepdim=True)
    return waveform / (power + FLOOR**2).sqrt()


def band_limited(waveform: Tensor, band_hz: tuple[float, float], sample_rate: int) -> Tensor:
    """`(..., time)` with nothing left below and above a band, by its spectrum over the whole crop."""
    num_samples = waveform.shape[-1]
    frequencies = torch.fft.rfftfreq(num_samples, 1 / sample_rate, dtype=waveform.dtype, device=waveform.device)
    low, high = band_hz[0], min(band_hz[1], HIGHEST_SHARE * sample_rate / 2)
    gain = _rising(frequencies, low / 2, low) * (1 - _rising(frequencies, high, HIGH_EDGE * high))
    limited: Tensor = torch.fft.irfft(torch.fft.rfft(waveform) * gain, num_samples)
    return limited


def _rising(frequencies: Tensor, start: float, end: float) -> Tensor:
    """Half a cosine from 0 at `start` to 1 at `end`."""
    share = ((frequencies - start) / (end - start)).clamp(0, 1)
    return (1 - torch.cos(math.pi * share)) / 2
