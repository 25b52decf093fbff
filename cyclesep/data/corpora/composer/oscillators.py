"""Oscillators: sums of damped partials, and wavetables with variable pitch."""

import numpy as np
from numpy.typing import NDArray

from cyclesep.data.corpora.composer.signals import SAMPLE_RATE, Curve, Mono

TABLE_SIZE = 1 << 12
HIGHEST_PARTIAL_HERTZ = 16_000.0


def damped_partials(
    frequencies: Curve, decay_seconds: Curve, amplitudes: Curve, phases: Curve, num_samples: int
) -> Mono:
    """Return a sum of exponentially damped sines, `(time,)`: struck and plucked strings, bars, bells.

    The four arrays have one value per partial (hertz, seconds to 1/e, linear, radians). A damped sine is a geometric
    sequence of complex numbers: sample t of block b with length B is z^(bB) z^t. The sum over partials is therefore a
    product of two small matrices of exponentials, instead of one sine per sample and partial.
    """
    block = max(64, int(np.sqrt(num_samples)))
    blocks = -(-num_samples // block)
    exponents = (-1.0 / decay_seconds + 2j * np.pi * frequencies) / SAMPLE_RATE
    within = (amplitudes * np.exp(1j * phases))[:, None] * np.exp(exponents[:, None] * np.arange(block))
    across = np.exp(exponents[None, :] * (np.arange(blocks)[:, None] * block))
    left = np.concatenate([across.real, across.imag], axis=1).astype(np.float32)
    right = np.concatenate([within.imag, within.real], axis=0).astype(np.float32)
    return (left @ right).reshape(-1)[:num_samples]


def harmonics_below(fundamental_hertz: float, at_most: int, highest_hertz: float = HIGHEST_PARTIAL_HERTZ) -> Curve:
    """Return the harmonic numbers 1, 2, ... of a fundamental below `highest_hertz`, at least the first."""
    return np.arange(1.0, 1.0 + max(1, min(at_most, int(highest_hertz / fundamental_hertz))))


def wavetable(harmonic_amplitudes: NDArray[np.floating]) -> Mono:
    """Return one period of a wave with these amplitudes of the harmonics 1, 2, ..., scaled to a peak of 1."""
    spectrum = np.zeros(TABLE_SIZE // 2 + 1, dtype=np.complex128)
    spectrum[1 : 1 + len(harmonic_amplitudes)] = -1j * harmonic_amplitudes
    period = np.fft.irfft(spectrum)
    period /= np.abs(period).max() + 1e-12
    return np.append(period, period[0]).astype(np.float32)


def accumulate_phase(frequency_hertz: Curve, start: float = 0.0) -> Curve:
    """Return the phase in turns of an oscillator with one frequency value per sample."""
    return start + np.cumsum(frequency_hertz) / SAMPLE_RATE


def play_wavetable(table: Mono, phase_turns: Curve) -> Mono:
    """Read a `wavetable` at non-negative phases in turns, with linear interpolation."""
    position = phase_turns * TABLE_SIZE
    whole = position.astype(np.int64)
    fraction = (position - whole).astype(np.float32)
    # Phases are non-negative and the size is a power of two, so a bit mask computes the remainder.
    index = whole & (TABLE_SIZE - 1)
    lower = table[index]
    return np.asarray(lower + fraction * (table[index + 1] - lower))


def sine(phase_turns: Curve) -> Mono:
    """Return a sine at phases in turns."""
    return np.asarray(np.sin((2.0 * np.pi * (phase_turns % 1.0)).astype(np.float32)))
