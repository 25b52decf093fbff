"""Signal helpers: random streams, unit conversions, control curves, mixing.

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
    """Return the random generator of one part of a song, a pure function of seed and key.

    Parts with different keys use independent streams (SeedSequence spawn keys): an additional draw for the drums does
    not change the vocals.
    """
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed, spawn_key=key)))


def pick(rng: np.random.Generator, choices: Sequence[Choice]) -> Choice:
    """Return one of the choices with uniform probability."""
    return choices[int(rng.integers(len(choices)))]


def samples_in(seconds: float) -> int:
    """Convert seconds to the nearest number of samples."""
    return round(seconds * SAMPLE_RATE)


def time_axis(num_samples: int) -> Curve:
    """Return the times of `num_samples` samples in seconds."""
    return np.arange(num_samples) / SAMPLE_RATE


def midi_to_hertz(midi: ArrayLike) -> Curve:
    """Convert MIDI note numbers, which may be fractional, to hertz; 69 is A4, 440 Hz."""
    return np.asarray(440.0 * 2.0 ** ((np.asarray(midi, dtype=np.float64) - 69.0) / 12.0))


def db_to_amplitude(decibels: float) -> float:
    """Convert a level difference in dB to an amplitude ratio."""
    return float(10.0 ** (decibels / 20.0))


def exponential_decay(num_samples: int, seconds: float) -> Mono:
    """Return an exponential decay to 1/e in `seconds`."""
    return np.exp(-time_axis(num_samples) / seconds).astype(np.float32)


def noise(rng: np.random.Generator, num_samples: int) -> Mono:
    """Return white noise with unit variance."""
    return rng.standard_normal(num_samples, dtype=np.float32)


def smooth(curve: NDArray[np.floating], width: int) -> Curve:
    """Smooth the last axis with a Hann window of `width` points; edge values are repeated."""
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
    """Add `samples` to `buffer` (same leading axes) at sample `start`; samples outside the buffer are dropped."""
    first = max(0, -start)
    start = max(0, start)
    length = min(buffer.shape[-1] - start, samples.shape[-1] - first)
    if length > 0:
        buffer[..., start : start + length] += np.float32(gain) * samples[..., first : first + length]


def fade_in(samples: Mono, seconds: float) -> Mono:
    """Apply a linear fade-in."""
    length = min(samples.size, max(2, samples_in(seconds)))
    ramp = np.linspace(0.0, 1.0, length, dtype=np.float32)
    return np.concatenate([samples[:length] * ramp, samples[length:]])
