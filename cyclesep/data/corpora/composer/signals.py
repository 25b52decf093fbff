"""What every instrument here shares: time in samples, pitch in hertz, control curves, mixing by addition.

Audio is float32: `Mono` is `(time,)`, `Stereo` is `(2, time)`, all at 44.1 kHz.
"""

from collections.abc import Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

SAMPLE_RATE = 44_100

Mono = NDArray[np.float32]
Stereo = NDArray[np.float32]
Curve = NDArray[np.float64]

Choice = TypeVar("Choice")


def random_stream(seed: int, *key: int) -> np.random.Generator:
    """The random stream of one part of one song: a pure function of the seed and the key.

    Parts with different keys draw from independent streams (SeedSequence spawn keys), so that one more draw for
    the drums changes nothing in the vocals.
    """
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed, spawn_key=key)))


def pick(rng: np.random.Generator, choices: Sequence[Choice]) -> Choice:
    """One of the choices, each as likely."""
    return choices[int(rng.integers(len(choices)))]


def samples_in(seconds: float) -> int:
    """Seconds as a number of samples, to the nearest."""
    return round(seconds * SAMPLE_RATE)


def times(num_samples: int) -> Curve:
    """The instants of `num_samples` samples in seconds."""
    return np.arange(num_samples) / SAMPLE_RATE


def hertz(midi: ArrayLike) -> Curve:
    """MIDI note numbers (69 is A4, 440 Hz; fractions allowed) as frequencies in hertz."""
    return np.asarray(440.0 * 2.0 ** ((np.asarray(midi, dtype=np.float64) - 69.0) / 12.0))


def amplitude(decibels: float) -> float:
    """The amplitude ratio of a level difference in dB."""
    return float(10.0 ** (decibels / 20.0))


def decaying(num_samples: int, seconds: float) -> Mono:
    """An exponential that falls to 1/e in `seconds`."""
    return np.exp(-times(num_samples) / seconds).astype(np.float32)


def noise(rng: np.random.Generator, num_samples: int) -> Mono:
    """White noise of unit variance."""
    return rng.standard_normal(num_samples, dtype=np.float32)


def smooth(curve: NDArray[np.floating], width: int) -> Curve:
    """Weighted running mean over a Hann window of `width` points along the last axis; the ends are held."""
    if width < 2:
        return np.asarray(curve, dtype=np.float64)
    window = np.hanning(width + 2)[1:-1]
    window /= window.sum()
    before = width // 2
    rows = np.atleast_2d(curve)
    padded = np.pad(rows, [(0, 0), (before, width - 1 - before)], mode="edge")
    smoothed = np.stack([np.convolve(row, window, mode="valid") for row in padded])
    return smoothed.reshape(curve.shape)


def mix_into(buffer: NDArray[np.float32], start: int, samples: NDArray[np.float32], gain: float = 1.0) -> None:
    """Add `samples` to `buffer` (same leading axes) from sample `start`; what lies outside the buffer is dropped."""
    first = max(0, -start)
    start = max(0, start)
    length = min(buffer.shape[-1] - start, samples.shape[-1] - first)
    if length > 0:
        buffer[..., start : start + length] += np.float32(gain) * samples[..., first : first + length]


def faded_in(samples: Mono, seconds: float) -> Mono:
    """The same sound with a straight fade-in."""
    length = min(samples.size, max(2, samples_in(seconds)))
    ramp = np.linspace(0.0, 1.0, length, dtype=np.float32)
    return np.concatenate([samples[:length] * ramp, samples[length:]])
