"""Scores of a whole track from plain energies; arrays `(channels, time)`, all channels taken together."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from cyclesep.errors import ScoringError
from cyclesep.scoring.sources import Array

# float64 copies of this many samples per channel at a time.
BLOCK_SAMPLES = 1 << 18


def usdr(reference: NDArray[np.number], estimate: NDArray[np.number]) -> float:
    """The signal-to-noise ratio of the whole track in dB, |s|^2 / |y - s|^2: the SDR of the music demixing challenges.

    NaN for a silent reference, infinite for an estimate equal to it. (Y. Mitsufuji et al., "Music Demixing Challenge
    2021", Frontiers in Signal Processing, 2022; without its epsilon.)
    """
    power, _, _, error = _energies(reference, estimate)
    return _decibels(power, error) if power > 0 else float("nan")


def si_sdr(reference: NDArray[np.number], estimate: NDArray[np.number]) -> float:
    """The scale-invariant SDR of the whole track in dB: |a s|^2 / |y - a s|^2 with a = <y, s> / |s|^2.

    NaN for a silent reference or estimate. (J. Le Roux et al., "SDR: half-baked or well done?", ICASSP 2019.)
    """
    power, estimate_power, product, _ = _energies(reference, estimate)
    if power == 0 or estimate_power == 0:
        return float("nan")
    scaled = product**2 / power
    rest = estimate_power - scaled
    # Below this the difference of two energies is rounding alone, so the rest is measured itself.
    if rest < 1e-6 * estimate_power:
        rest = _rest(reference, estimate, product / power)
    return _decibels(scaled, rest)


def _energies(reference: NDArray[np.number], estimate: NDArray[np.number]) -> tuple[float, float, float, float]:
    """|s|^2, |y|^2, <y, s>, |y - s|^2."""
    sums = np.zeros(4)
    for s, y in _blocks(reference, estimate):
        error = y - s
        sums += np.vdot(s, s), np.vdot(y, y), np.vdot(y, s), np.vdot(error, error)
    power, estimate_power, product, error_power = sums.tolist()
    return power, estimate_power, product, error_power


def _rest(reference: NDArray[np.number], estimate: NDArray[np.number], scale: float) -> float:
    return float(sum(((y - scale * s) ** 2).sum() for s, y in _blocks(reference, estimate)))


def _blocks(reference: NDArray[np.number], estimate: NDArray[np.number]) -> Iterator[tuple[Array, Array]]:
    if reference.shape != estimate.shape:
        raise ScoringError(f"reference is {reference.shape}, estimate {estimate.shape} (channels, time); cut or pad it")
    for start in range(0, reference.shape[-1], BLOCK_SAMPLES):
        block = (..., slice(start, start + BLOCK_SAMPLES))
        yield reference[block].astype(np.float64), estimate[block].astype(np.float64)


def _decibels(wanted: float, unwanted: float) -> float:
    with np.errstate(divide="ignore"):
        return float(10.0 * np.log10(np.divide(wanted, unwanted)))
