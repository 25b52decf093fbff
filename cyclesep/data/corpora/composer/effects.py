"""Audio effects: filters, panning, reverberation, echoes, compression.

Time is the last axis; inputs are not modified.
"""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.signal import butter, lfilter, oaconvolve, sosfilt

from cyclesep.data.corpora.composer.signals import (
    SAMPLE_RATE,
    Mono,
    Stereo,
    db_to_amplitude,
    mix_into,
    noise,
    samples_in,
    time_axis,
)

Audio = NDArray[np.float32]

LEVEL_BLOCK = samples_in(0.1)
COMPRESSOR_BLOCK = 128


@lru_cache(maxsize=128)
def _butterworth(kind: str, corner: float | tuple[float, float], order: int) -> NDArray[np.float64]:
    return np.asarray(butter(order, corner, kind, fs=SAMPLE_RATE, output="sos"))


def _filtered(audio: Audio, kind: str, corner: float | tuple[float, float], order: int) -> Audio:
    filtered = sosfilt(_butterworth(kind, corner, order), audio, axis=-1)
    return np.asarray(filtered, dtype=np.float32)


def lowpass(audio: Audio, hertz: float, order: int = 2) -> Audio:
    """Apply a Butterworth low-pass filter."""
    return _filtered(audio, "lowpass", hertz, order)


def highpass(audio: Audio, hertz: float, order: int = 2) -> Audio:
    """Apply a Butterworth high-pass filter."""
    return _filtered(audio, "highpass", hertz, order)


def bandpass(audio: Audio, low_hertz: float, high_hertz: float, order: int = 1) -> Audio:
    """Apply a Butterworth band-pass filter; `order` applies to each edge."""
    return _filtered(audio, "bandpass", (low_hertz, high_hertz), order)


def high_shelf(audio: Audio, hertz: float, gain_db: float) -> Audio:
    """Apply a one-pole high shelf: change the level of frequencies above `hertz`."""
    low = lowpass(audio, hertz, order=1)
    return low + np.float32(db_to_amplitude(gain_db)) * (audio - low)


def saturate(audio: Audio, drive: float) -> Audio:
    """Apply a gain of `drive` and soft clipping by tanh."""
    return np.asarray(np.tanh(np.float32(drive) * audio))


def pan(mono: Mono, position: float) -> Stereo:
    """Pan with equal power; `position` ranges from -1 (left) to 1 (right)."""
    angle = (position + 1.0) * np.pi / 4.0
    return np.stack([mono * np.float32(np.cos(angle)), mono * np.float32(np.sin(angle))])


def widen(mono: Mono, position: float, delay_seconds: float) -> Stereo:
    """Widen the stereo image: pan near the centre and add a delayed copy on the opposite side (Haas effect)."""
    stereo = pan(mono, 0.5 * position)
    far_side = 0 if position > 0 else 1
    mix_into(stereo[far_side], samples_in(delay_seconds), mono, 0.45)
    return stereo


def room(rng: np.random.Generator, seconds: float, brightness: float, predelay_seconds: float = 0.01) -> Stereo:
    """Return a room impulse response, `(2, time)`: early reflections and noise that decays faster at high frequencies.

    `seconds` is the mid-band decay time to -60 dB. The average energy per channel is 1.
    """
    num_samples = samples_in(seconds)
    time = time_axis(num_samples)
    response = np.zeros((2, num_samples + samples_in(predelay_seconds)), dtype=np.float32)
    for channel in response:
        white = noise(rng, num_samples)
        low, middle = lowpass(white, 500.0), bandpass(white, 500.0, 4000.0)
        tail = low * np.exp(-6.0 * time / seconds) + middle * np.exp(-6.9 * time / seconds)
        tail += brightness * (white - low - middle) * np.exp(-15.0 * time / seconds)
        reflections = rng.integers(samples_in(0.003), samples_in(0.06), size=10)
        tail[reflections] += rng.uniform(-6.0, 6.0, size=10)
        channel[-num_samples:] = tail
    return response / np.float32(np.sqrt((response**2).sum() / 2.0))


def reverberate(stereo: Stereo, response: Stereo, wet: float) -> Stereo:
    """Add the convolution with a room impulse response, scaled by `wet`; the tail is truncated."""
    tail = [oaconvolve(dry, impulse)[: dry.size] for dry, impulse in zip(stereo, response, strict=True)]
    return stereo + np.float32(wet) * np.stack(tail).astype(np.float32)


def echoes(stereo: Stereo, delay_seconds: float, feedback: float, repeats: int = 3) -> Stereo:
    """Add low-pass filtered repeats of the sound, each `feedback` times as loud as the previous one."""
    repeated = np.zeros_like(stereo)
    for number in range(1, repeats + 1):
        mix_into(repeated, number * samples_in(delay_seconds), stereo, feedback**number)
    return stereo + lowpass(repeated, 4500.0, order=1)


def active_level(audio: Audio) -> float:
    """Return the RMS over blocks of 0.1 s that are within 30 dB of the loudest block; 0 for silence."""
    channels = np.atleast_2d(audio)
    power = np.einsum("ct,ct->t", channels, channels, dtype=np.float64) / len(channels)
    whole = max(LEVEL_BLOCK, power.size - power.size % LEVEL_BLOCK)
    mean = np.add.reduceat(power[:whole], np.arange(0, power[:whole].size, LEVEL_BLOCK)) / LEVEL_BLOCK
    if mean.max() == 0.0:
        return 0.0
    return float(np.sqrt(mean[mean > 1e-3 * mean.max()].mean()))


def set_level(audio: Audio, level_db: float) -> Audio:
    """Scale audio to an `active_level` in dB of full scale; silence is unchanged."""
    level = active_level(audio)
    return audio if level == 0.0 else (audio * np.float32(db_to_amplitude(level_db) / level))


def compress(audio: Audio, *, threshold_db: float, ratio: float, release_seconds: float = 0.12) -> Audio:
    """Apply a feed-forward peak compressor with linked channels; the gain is computed per block of 3 ms."""
    peaks = block_peaks(audio, COMPRESSOR_BLOCK)
    decay = float(np.exp(-COMPRESSOR_BLOCK / (release_seconds * SAMPLE_RATE)))
    envelope = np.maximum(peaks, lfilter([1.0 - decay], [1.0, -decay], peaks))
    excess = np.maximum(0.0, 20.0 * np.log10(envelope + 1e-6) - threshold_db)
    gain = 10.0 ** (-excess * (1.0 - 1.0 / ratio) / 20.0)
    gain = lfilter([0.4], [1.0, -0.6], gain, zi=[0.6 * gain[0]])[0]
    return audio * block_curve(gain, COMPRESSOR_BLOCK, audio.shape[-1])


def block_peaks(audio: Audio, block: int) -> Mono:
    """Return the largest absolute value over all channels in each block of samples; the last block may be shorter."""
    peak = np.abs(np.atleast_2d(audio)).max(axis=0)
    return np.asarray(np.maximum.reduceat(peak, np.arange(0, peak.size, block)))


def block_curve(values: NDArray[np.floating], block: int, num_samples: int) -> Mono:
    """Interpolate one value per block, located at its centre, to one value per sample."""
    centres = (np.arange(values.size) + 0.5) * block
    return np.asarray(np.interp(np.arange(num_samples), centres, values), dtype=np.float32)
