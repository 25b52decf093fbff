"""Independent change of pitch and tempo, on the device of the audio.

A phase vocoder changes the length; resampling its output changes the pitch. The vocoder combines these methods:

- phase increments from two frames one hop apart, without unwrapping: M. Puckette, "Phase-locked vocoder", WASPAA 1995;
- a common rotation of all bins around a spectral peak: J. Laroche and M. Dolson, "Improved phase vocoder time-scale
  modification of audio", IEEE Trans. Speech and Audio Processing 7(3), 1999 ("identity phase locking");
- original phases at onsets: C. Duxbury, M. Davies and M. Sandler, "Improved time-scaling of musical audio using phase
  locking at transients", AES Convention 112, 2002.

The rotation is the same for all channels of a stem, which preserves their phase differences.
"""

import functools
import math
from typing import NamedTuple

import torch
from torch import Tensor

# Approximate frame length: it resolves the partials of a low voice, and is short compared with a beat.
_FRAME_SECONDS = 0.05
_HOPS_PER_FRAME = 4
# Sum of the squares of overlapping Hann windows with four hops per frame.
_WINDOW_SUM = 1.5

# Frames of context needed before and after the excerpt.
_CONTEXT_FRAMES = 2

# A frame is an onset if more than this fraction of its magnitude is new since the previous hop.
_ONSET_FRACTION = 0.5

# Power below which a bin is inaudible; much smaller values underflow when squared in float32.
_SILENT = 1e-16

# Lengths are rounded to sizes with fast Fourier transforms, which changes the pitch by less than 0.2 cents.
_RATIO_TOLERANCE = 1e-4
_FAST_FACTORS = (2, 3, 5, 7, 11)


class PitchTempo(NamedTuple):
    """Pitch shift in semitones (-6 to 6, positive is up) and tempo factor (0.7 to 1.4, above 1 is faster)."""

    semitones: float = 0.0
    tempo: float = 1.0

    def source_samples(self, num_samples: int, sample_rate: int) -> int:
        """Return the number of input samples needed for an output of `num_samples`."""
        if self == PitchTempo():
            return num_samples
        return math.ceil(num_samples * self.tempo) + 2 * _CONTEXT_FRAMES * _frame_samples(sample_rate)


def change_pitch_tempo(stems: Tensor, pitch_tempo: PitchTempo, *, num_samples: int, sample_rate: int) -> Tensor:
    """Change pitch and tempo of float32 `(..., channels, time)`; return `(..., channels, num_samples)`.

    `time` must be `pitch_tempo.source_samples(num_samples, sample_rate)`, so that the output needs neither fades nor
    padding: output sample n corresponds to input sample `tempo * n`, counted from two frames after the start. Without a
    change, the input itself is returned.
    """
    if pitch_tempo == PitchTempo():
        return stems
    frame = _frame_samples(sample_rate)
    context = _CONTEXT_FRAMES * frame
    # The vocoder's output starts `lead` samples early, so that its fade-in can be cut off.
    lead = math.floor(1.25 * frame / pitch_tempo.tempo)
    num_input, num_output = _resampling_lengths(lead + num_samples + 2 * frame, 2.0 ** (pitch_tempo.semitones / 12.0))
    stretch = num_input / num_output / pitch_tempo.tempo
    num_frames = (
        math.ceil((lead + num_samples) * num_input / num_output / frame * _HOPS_PER_FRAME) + _HOPS_PER_FRAME // 2
    )
    stretched = stretch_time(
        stems, stretch, frame=frame, first=context - lead * pitch_tempo.tempo, num_frames=num_frames
    )
    return resample(stretched, num_input, num_output)[..., lead : lead + num_samples]


def stretch_time(stems: Tensor, stretch: float, *, frame: int, first: float, num_frames: int) -> Tensor:
    """Stretch `(..., channels, time)` by the factor `stretch`; output sample q corresponds to `first + q / stretch`.

    Frame u is centred on output sample `u * frame / 4`; the output has fades of half a frame at both ends. Raises
    IndexError if a frame exceeds the recording.
    """
    hop = frame // _HOPS_PER_FRAME
    end = first + (num_frames - 1) * hop / stretch + frame // 2
    if first < frame // 2 + hop or end > stems.shape[-1]:
        raise IndexError(f"{num_frames} frames from sample {first:.0f} exceed a recording of {stems.shape[-1]} samples")
    # float64, because float32 positions are only accurate to one sample after a few minutes.
    centres = torch.arange(num_frames, dtype=torch.float64, device=stems.device) * (hop / stretch) + first
    starts = centres.round().long() - frame // 2
    window = torch.hann_window(frame, device=stems.device)
    current = _spectra(stems, starts, window)
    previous = _spectra(stems, starts - hop, window)
    rotated = current * _phase_rotations(current, previous).unsqueeze(-3)
    frames: Tensor = torch.fft.irfft(rotated, n=frame)
    return _overlap_add(frames * (window / _WINDOW_SUM))


def resample(signal: Tensor, num_input: int, num_output: int) -> Tensor:
    """Resample the first `num_input` samples of `signal`, zero-padded if needed, to `(..., num_output)` by FFT."""
    spectrum = torch.fft.rfft(signal, n=num_input)
    resampled: Tensor = torch.fft.irfft(spectrum[..., : num_output // 2 + 1], n=num_output)
    return resampled * (num_output / num_input)


def _frame_samples(sample_rate: int) -> int:
    return 1 << max(4, round(math.log2(_FRAME_SECONDS * sample_rate)))


def _spectra(stems: Tensor, starts: Tensor, window: Tensor) -> Tensor:
    """Return spectra `(..., channels, frames, bins)` of the frames that start at `starts`."""
    spectra: Tensor = torch.fft.rfft(stems.unfold(-1, len(window), 1)[..., starts, :] * window)
    return spectra


def _phase_rotations(current: Tensor, previous: Tensor) -> Tensor:
    """Return unit complex factors `(..., frames, bins)` that rotate the phase of each bin, equal for all channels.

    The rotated `previous` (one hop earlier in the recording) has the phase of the preceding output frame (one hop
    earlier in the output). The sum over channels weights them by power.
    """
    preceding = torch.roll(current, 1, dims=-2)
    advance = (preceding * previous.conj()).sum(-3)
    size = advance.abs()
    # Silent bins are not rotated: a factor of zero would silence all later frames.
    steps = torch.where(size > _SILENT, advance / size, torch.ones_like(advance))
    magnitude = _magnitude(current)
    peaks = _nearest_peaks(magnitude)
    rise = (magnitude - _magnitude(previous)).clamp_(min=0.0)
    onset = rise.sum(-1, keepdim=True) > _ONSET_FRACTION * magnitude.sum(-1, keepdim=True)
    rotations = torch.ones_like(steps)
    for frame in range(1, current.shape[-2]):
        rotated = (steps[..., frame, :] * rotations[..., frame - 1, :]).gather(-1, peaks[..., frame, :])
        rotations[..., frame, :] = torch.where(onset[..., frame, :], rotations[..., frame, :], rotated)
    return rotations


def _magnitude(spectra: Tensor) -> Tensor:
    """Return the root of the summed power of all channels, `(..., frames, bins)`."""
    return torch.view_as_real(spectra).square().sum((-4, -1)).sqrt_()


def _nearest_peaks(magnitude: Tensor) -> Tensor:
    """Return for each bin (last axis) the nearest peak, a bin greater than its two neighbours on each side."""
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


def _overlap_add(frames: Tensor) -> Tensor:
    """Overlap-add `(..., frames, samples)` with a hop of a quarter frame, from the middle of the first frame on."""
    hop = frames.shape[-1] // _HOPS_PER_FRAME
    parts = frames.unflatten(-1, (_HOPS_PER_FRAME, hop))
    total = frames.new_zeros(*frames.shape[:-2], frames.shape[-2] + _HOPS_PER_FRAME - 1, hop)
    for part in range(_HOPS_PER_FRAME):
        total[..., part : part + frames.shape[-2], :] += parts[..., part, :]
    return total.flatten(-2)[..., frames.shape[-1] // 2 :]


@functools.lru_cache(maxsize=4096)
def _resampling_lengths(min_output: int, ratio: float) -> tuple[int, int]:
    """Return input and output lengths with fast Fourier transforms, with this ratio and at least `min_output`."""
    for num_output in range(min_output, 2 * min_output):
        num_input = round(num_output * ratio)
        if (
            abs(num_input / num_output / ratio - 1.0) < _RATIO_TOLERANCE
            and _is_fast(num_output)
            and _is_fast(num_input)
        ):
            return num_input, num_output
    return round(min_output * ratio), min_output


def _is_fast(length: int) -> bool:
    for factor in _FAST_FACTORS:
        while length % factor == 0:
            length //= factor
    return length == 1
