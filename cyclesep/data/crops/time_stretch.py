"""Pitch and tempo of recordings, changed independently of each other, on whatever device they are.

A phase vocoder changes the length, and playing its result at another rate the pitch. Where it comes from:

- phases advance by what two frames one hop apart tell, which needs no unwrapping: M. Puckette, "Phase-locked vocoder",
  WASPAA 1995;
- all bins around a spectral peak are turned as one: J. Laroche and M. Dolson, "Improved phase vocoder time-scale
  modification of audio", IEEE Trans. Speech and Audio Processing 7(3), 1999 ("identity phase locking");
- at onsets the phases are those of the recording: C. Duxbury, M. Davies and M. Sandler, "Improved time-scaling of
  musical audio using phase locking at transients", AES Convention 112, 2002.

The channels of a stem are turned as one too, so that the differences of their phases stay what they were.
"""

import functools
import math
from typing import NamedTuple

import torch
from torch import Tensor

# Frames are about this long: enough to tell the partials of a low voice apart, short for a beat.
_FRAME_SECONDS = 0.05
_HOPS_IN_FRAME = 4
# What the squares of overlapping Hann windows add up to, at four hops in a frame.
_WINDOW_SUM = 1.5

# Frames of recording needed before and after the part that is changed.
_CONTEXT_FRAMES = 2

# At an onset more than this share of a frame's magnitude was not there one hop earlier.
_ONSET_SHARE = 0.5

# Power of a bin that nobody hears; float32 cannot square much less.
_SILENT = 1e-16

# Lengths are rounded so that Fourier transforms are fast; that moves the pitch by less than 0.2 cents.
_RATIO_TOLERANCE = 1e-4
_FAST_FACTORS = (2, 3, 5, 7, 11)


class PitchTempo(NamedTuple):
    """A change: up by `semitones` (-6 to 6), and `tempo` times as fast (0.7 to 1.4)."""

    semitones: float = 0.0
    tempo: float = 1.0

    def source_samples(self, num_samples: int, sample_rate: int) -> int:
        """Samples of the recording that are needed to make `num_samples`."""
        if self == PitchTempo():
            return num_samples
        return math.ceil(num_samples * self.tempo) + 2 * _CONTEXT_FRAMES * _frame_samples(sample_rate)


def change(stems: Tensor, pitch_tempo: PitchTempo, *, num_samples: int, sample_rate: int) -> Tensor:
    """Change pitch and tempo of float32 `(..., channels, time)`, all alike, to `(..., channels, num_samples)`.

    `time` is `pitch_tempo.source_samples(num_samples, sample_rate)`, so that nothing is faded or filled up by silence:
    sample n of the result is what was at sample `tempo * n`, counted from two frames after the beginning. The input
    itself comes back where nothing is to be changed.
    """
    if pitch_tempo == PitchTempo():
        return stems
    frame = _frame_samples(sample_rate)
    context = _CONTEXT_FRAMES * frame
    # The vocoder's result begins `lead` samples early, so that its first frames, which fade in, are not used.
    lead = math.floor(1.25 * frame / pitch_tempo.tempo)
    played, made = _lengths(lead + num_samples + 2 * frame, 2.0 ** (pitch_tempo.semitones / 12.0))
    stretch = played / made / pitch_tempo.tempo
    num_frames = math.ceil((lead + num_samples) * played / made / frame * _HOPS_IN_FRAME) + _HOPS_IN_FRAME // 2
    stretched = stretch_time(
        stems, stretch, frame=frame, first=context - lead * pitch_tempo.tempo, num_frames=num_frames
    )
    return resample(stretched, played, made)[..., lead : lead + num_samples]


def stretch_time(stems: Tensor, stretch: float, *, frame: int, first: float, num_frames: int) -> Tensor:
    """Make `(..., channels, time)` `stretch` times as long; sample q shows what was at `first + q / stretch`.

    Frame u is centred on sample `u * frame / 4` of the result, which begins and ends in fades of half a frame. Raises
    IndexError if frames leave the recording.
    """
    hop = frame // _HOPS_IN_FRAME
    end = first + (num_frames - 1) * hop / stretch + frame // 2
    if first < frame // 2 + hop or end > stems.shape[-1]:
        raise IndexError(f"{num_frames} frames from sample {first:.0f} on leave a recording of {stems.shape[-1]}")
    # In float64: in float32 positions are only good to a sample after a few minutes.
    centres = torch.arange(num_frames, dtype=torch.float64, device=stems.device) * (hop / stretch) + first
    starts = centres.round().long() - frame // 2
    window = torch.hann_window(frame, device=stems.device)
    now = _spectra(stems, starts, window)
    before = _spectra(stems, starts - hop, window)
    turned = now * _turns(now, before).unsqueeze(-3)
    frames: Tensor = torch.fft.irfft(turned, n=frame)
    return _overlap_added(frames * (window / _WINDOW_SUM))


def resample(signal: Tensor, played: int, made: int) -> Tensor:
    """Band-limited `(..., made)` samples of what `signal`, continued by silence, holds in its first `played`."""
    spectrum = torch.fft.rfft(signal, n=played)
    resampled: Tensor = torch.fft.irfft(spectrum[..., : made // 2 + 1], n=made)
    return resampled * (made / played)


def _frame_samples(sample_rate: int) -> int:
    return 1 << max(4, round(math.log2(_FRAME_SECONDS * sample_rate)))


def _spectra(stems: Tensor, starts: Tensor, window: Tensor) -> Tensor:
    """Spectra `(..., channels, frames, bins)` of the frames that begin at `starts`."""
    spectra: Tensor = torch.fft.rfft(stems.unfold(-1, len(window), 1)[..., starts, :] * window)
    return spectra


def _turns(now: Tensor, before: Tensor) -> Tensor:
    """The unit number by which each bin of each frame is turned: `(..., frames, bins)`, alike for all channels.

    Turned, `before` (one hop earlier in the recording) continues what was made of the previous frame (one hop earlier
    in the result); a sum over channels weighs them by their power.
    """
    previous = torch.roll(now, 1, dims=-2)
    advance = (previous * before.conj()).sum(-3)
    size = advance.abs()
    # Bins that were silent are not turned: a zero would silence them from here on.
    steps = torch.where(size > _SILENT, advance / size, torch.ones_like(advance))
    magnitude = _magnitude(now)
    peaks = _nearest_peaks(magnitude)
    rise = (magnitude - _magnitude(before)).clamp_(min=0.0)
    onset = rise.sum(-1, keepdim=True) > _ONSET_SHARE * magnitude.sum(-1, keepdim=True)
    turns = torch.ones_like(steps)
    for frame in range(1, now.shape[-2]):
        turned = (steps[..., frame, :] * turns[..., frame - 1, :]).gather(-1, peaks[..., frame, :])
        turns[..., frame, :] = torch.where(onset[..., frame, :], turns[..., frame, :], turned)
    return turns


def _magnitude(spectra: Tensor) -> Tensor:
    """Root of the power of all channels: `(..., frames, bins)`."""
    return torch.view_as_real(spectra).square().sum((-4, -1)).sqrt_()


def _nearest_peaks(magnitude: Tensor) -> Tensor:
    """For each bin (last dimension) the bin of the nearest peak, which is greater than two neighbours on each side."""
    bins = magnitude.shape[-1]
    around = torch.nn.functional.pad(magnitude, (2, 2))
    is_peak = torch.ones_like(magnitude, dtype=torch.bool)
    for shift in (0, 1, 3, 4):
        is_peak &= magnitude > around[..., shift : shift + bins]
    own = torch.arange(bins, device=magnitude.device).expand_as(magnitude)
    below = torch.where(is_peak, own, -2 * bins).cummax(-1).values
    above = torch.where(is_peak, own, 3 * bins).flip(-1).cummin(-1).values.flip(-1)
    nearest = torch.where(own - below <= above - own, below, above)
    return torch.where(is_peak.any(-1, keepdim=True), nearest, own)


def _overlap_added(frames: Tensor) -> Tensor:
    """Add up `(..., frames, samples)` at a quarter of a frame; the result begins at the middle of the first frame."""
    hop = frames.shape[-1] // _HOPS_IN_FRAME
    parts = frames.unflatten(-1, (_HOPS_IN_FRAME, hop))
    total = frames.new_zeros(*frames.shape[:-2], frames.shape[-2] + _HOPS_IN_FRAME - 1, hop)
    for part in range(_HOPS_IN_FRAME):
        total[..., part : part + frames.shape[-2], :] += parts[..., part, :]
    return total.flatten(-2)[..., frames.shape[-1] // 2 :]


@functools.lru_cache(maxsize=4096)
def _lengths(least: int, ratio: float) -> tuple[int, int]:
    """Two lengths in this ratio, the second not below `least`, with fast Fourier transforms."""
    for made in range(least, 2 * least):
        played = round(made * ratio)
        if abs(played / made / ratio - 1.0) < _RATIO_TOLERANCE and _is_fast(made) and _is_fast(played):
            return played, made
    return round(least * ratio), least


def _is_fast(length: int) -> bool:
    for factor in _FAST_FACTORS:
        while length % factor == 0:
            length //= factor
    return length == 1
