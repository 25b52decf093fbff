"""Convert the audio of a track to stems of one rate, channel count and length, with warnings about problems."""

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
from cyclesep.audio.stem_names import MIXTURE
from cyclesep.errors import AudioError

# Shorter tracks are damaged files.
MIN_SECONDS = 0.1

# Stems that end this much before the longest one cause a warning; encoders and exports differ by less.
LENGTH_TOLERANCE_SECONDS = 0.1

# Fraction of clipped samples above which a stem causes a warning.
MAX_CLIPPED_FRACTION = 1e-4


@dataclass(frozen=True, kw_only=True)
class PreparedTrack:
    """Equally shaped float32 `(channels, time)` by stem, the mixture first."""

    stems: dict[str, Samples]
    clipped_samples: int
    warnings: tuple[str, ...]


def prepare(waveforms: Mapping[str, Waveform], *, sample_rate: int, channels: int) -> PreparedTrack:
    """Convert, align and check the stems of one track; add the mixture if there is none.

    Shorter stems are zero-padded to the longest one. A track with one stem, such as an unpaired recording, gets no
    mixture. Raises AudioError for a track that is shorter than 0.1 s or completely silent, and for channels that cannot
    be converted.
    """
    clipped = {name: count_clipped(waveform.samples) for name, waveform in waveforms.items()}
    warnings = [
        f"{name}: {count} clipped samples"
        for name, count in clipped.items()
        if count > MAX_CLIPPED_FRACTION * waveforms[name].samples.size
    ]
    stems = {name: _convert(waveform, sample_rate, channels).samples for name, waveform in waveforms.items()}
    longest = max(stem.shape[1] for stem in stems.values())
    if longest < MIN_SECONDS * sample_rate:
        raise AudioError(f"lasts {longest / sample_rate:.4f} s, the minimum is {MIN_SECONDS} s; exclude it")
    warnings += [
        f"{name}: padded, ends {(longest - stem.shape[1]) / sample_rate:.2f} s before the longest stem"
        for name, stem in stems.items()
        if longest - stem.shape[1] > LENGTH_TOLERANCE_SECONDS * sample_rate
    ]
    stems = {name: fit_length(stem, longest) for name, stem in stems.items()}
    silent = [name for name, stem in stems.items() if not stem.any()]
    if len(silent) == len(stems):
        raise AudioError("completely silent; exclude it")
    warnings += [f"{name}: completely silent" for name in silent]
    if MIXTURE not in stems and len(stems) > 1:
        stems = {MIXTURE: mix(stems), **stems}
    return PreparedTrack(stems=stems, clipped_samples=sum(clipped.values()), warnings=tuple(warnings))


def mix(stems: Mapping[str, Samples]) -> Samples:
    """Sum the stems as rounded to PCM16, so that the written mixture is exactly the sum of the written stems."""
    gain = 1.0
    while True:
        rounded = [from_pcm16(to_pcm16(stem, gain=gain), gain=gain) for stem in stems.values()]
        mixture: Samples = np.sum(rounded, axis=0, dtype=np.float32)
        needed = common_pcm16_gain([mixture, *stems.values()])
        if needed <= gain:
            return mixture
        gain = needed


def count_clipped(samples: Samples) -> int:
    """Count samples within 1 % of full scale in runs of three or more equal values, the flat tops of clipping."""
    loud = np.abs(samples) >= 0.99
    if not loud.any():
        return 0
    flat = loud[:, :-2] & (samples[:, :-2] == samples[:, 1:-1]) & (samples[:, 1:-1] == samples[:, 2:])
    top = np.zeros_like(loud)
    for shift in range(3):
        top[:, shift : shift + flat.shape[1]] |= flat
    return int(top.sum())


def _convert(waveform: Waveform, sample_rate: int, channels: int) -> Waveform:
    # In the order in which the resampler gets fewer channels.
    if channels < waveform.channels:
        return resample(with_channels(waveform, channels), sample_rate)
    return with_channels(resample(waveform, sample_rate), channels)
