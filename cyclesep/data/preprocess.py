"""From the audio of a source to the stems of one track: one rate, one channel count, one length, and what was odd."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from cyclesep.audio.audio_io import (
    Samples,
    Waveform,
    common_pcm16_gain,
    fit_length,
    from_pcm16,
    resample,
    to_pcm16,
    with_channels,
)
from cyclesep.data.shards.manifest import MIXTURE
from cyclesep.errors import AudioError

# Shorter tracks are files that went wrong.
MIN_SECONDS = 0.1

# Stems that end this much before the longest one are told; encoders and exports differ by less.
LENGTH_TOLERANCE_SECONDS = 0.1

# A stem with a larger share of samples in flat tops is told.
CLIPPED_SHARE = 1e-4


@dataclass(frozen=True, kw_only=True)
class PreparedTrack:
    """What is written: equally shaped float32 `(channels, time)` by stem, the mixture first."""

    stems: dict[str, Samples]
    clipped_samples: int
    warnings: tuple[str, ...]


def prepare(waveforms: Mapping[str, Waveform], *, sample_rate: int, channels: int) -> PreparedTrack:
    """Convert, align and check the stems of one track; make the mixture where stems have none.

    Stems shorter than the longest are padded with silence. A track of one stem, as unpaired recordings are, stays so.
    Raises AudioError for a track that is shorter than 0.1 s or silent throughout, and for channels that do not convert.
    """
    clipped = {name: count_clipped(waveform.samples) for name, waveform in waveforms.items()}
    warnings = [
        f"{name}: {count} clipped samples"
        for name, count in clipped.items()
        if count > CLIPPED_SHARE * waveforms[name].samples.size
    ]
    stems = {name: _convert(waveform, sample_rate, channels).samples for name, waveform in waveforms.items()}
    longest = max(stem.shape[1] for stem in stems.values())
    if longest < MIN_SECONDS * sample_rate:
        raise AudioError(f"lasts {longest / sample_rate:.4f} s; a track needs at least {MIN_SECONDS} s, leave it out")
    warnings += [
        f"{name}: padded, it ends {(longest - stem.shape[1]) / sample_rate:.2f} s before the longest stem"
        for name, stem in stems.items()
        if longest - stem.shape[1] > LENGTH_TOLERANCE_SECONDS * sample_rate
    ]
    stems = {name: fit_length(stem, longest) for name, stem in stems.items()}
    silent = [name for name, stem in stems.items() if not stem.any()]
    if len(silent) == len(stems):
        raise AudioError("is silent throughout; leave it out")
    warnings += [f"{name}: silent throughout" for name in silent]
    if MIXTURE not in stems and len(stems) > 1:
        stems = {MIXTURE: mix(stems), **stems}
    return PreparedTrack(stems=stems, clipped_samples=sum(clipped.values()), warnings=tuple(warnings))


def mix(stems: Mapping[str, Samples]) -> Samples:
    """The sum of stems as PCM16 will hold them: exact to the last bit after all have been written."""
    gain = 1.0
    while True:
        rounded = [from_pcm16(to_pcm16(stem, gain=gain), gain=gain) for stem in stems.values()]
        mixture: Samples = np.sum(rounded, axis=0, dtype=np.float32)
        needed = common_pcm16_gain([mixture, *stems.values()])
        if needed <= gain:
            return mixture
        gain = needed


def count_clipped(samples: Samples) -> int:
    """Samples within 1 % of full scale, three or more in a row of one value: the flat tops that clipping leaves."""
    loud = np.abs(samples) >= 0.99
    if not loud.any():
        return 0
    flat = loud[:, :-2] & (samples[:, :-2] == samples[:, 1:-1]) & (samples[:, 1:-1] == samples[:, 2:])
    top = np.zeros_like(loud)
    for shift in range(3):
        top[:, shift : shift + flat.shape[1]] |= flat
    return int(top.sum())


def _convert(waveform: Waveform, sample_rate: int, channels: int) -> Waveform:
    # Whichever comes first, the resampler gets the smaller number of channels.
    if channels < waveform.channels:
        return resample(with_channels(waveform, channels), sample_rate)
    return with_channels(resample(waveform, sample_rate), channels)
