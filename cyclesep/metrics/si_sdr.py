"""SI-SDR and uSDR of a whole track; arrays `(channels, time)`, energies summed over channels."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cyclesep.errors import ScoringError
from cyclesep.metrics.sources import Array

# Samples per channel that are converted to float64 at a time.
BLOCK_SAMPLES = 1 << 18
# Below this fraction of the estimate's energy the residual is measured directly: a difference of energies would be
# rounding noise.
DIRECT_BELOW = 1e-6

Blocks = Callable[[], Iterable[tuple[Array, Array]]]


@dataclass(frozen=True, kw_only=True)
class TrackEnergies:
    """Energies of a reference s and an estimate y over a whole track."""

    reference: float
    """|s|^2."""
    estimate: float
    """|y|^2."""
    product: float
    """<y, s>."""
    error: float
    """|y - s|^2."""
    residual: float
    """|y - a s|^2 with a = <y, s> / |s|^2; |y|^2 of a silent reference."""

    def usdr(self) -> float:
        """Return the uSDR in dB; see the function `usdr`."""
        return _decibels(self.reference, self.error) if self.reference > 0 else float("nan")

    def si_sdr(self) -> float:
        """Return the SI-SDR in dB; see the function `si_sdr`."""
        if self.reference == 0 or self.estimate == 0:
            return float("nan")
        return _decibels(self.product**2 / self.reference, self.residual)


def usdr(reference: NDArray[np.number], estimate: NDArray[np.number]) -> float:
    """Return the SNR of the whole track in dB, |s|^2 / |y - s|^2: the SDR of the music demixing challenges.

    NaN for a silent reference, infinite for an estimate equal to it. (Y. Mitsufuji et al., "Music Demixing Challenge
    2021", Frontiers in Signal Processing, 2022; without its epsilon.)
    """
    return measured(lambda: _blocks(reference, estimate)).usdr()


def si_sdr(reference: NDArray[np.number], estimate: NDArray[np.number]) -> float:
    """Return the scale-invariant SDR of the whole track in dB: |a s|^2 / |y - a s|^2 with a = <y, s> / |s|^2.

    NaN for a silent reference or estimate. (J. Le Roux et al., "SDR: half-baked or well done?", ICASSP 2019.)
    """
    return measured(lambda: _blocks(reference, estimate)).si_sdr()


def measured(blocks: Blocks) -> TrackEnergies:
    """Measure energies from blocks of a reference and its estimate; each call of `blocks` iterates from the start."""
    sums = np.zeros(4)
    for s, y in blocks():
        error = y - s
        sums += np.vdot(s, s), np.vdot(y, y), np.vdot(y, s), np.vdot(error, error)
    reference, estimate, product, error_energy = sums.tolist()
    scale = product / reference if reference > 0 else 0.0
    residual = estimate - scale * product
    if residual < DIRECT_BELOW * estimate:
        residual = float(sum(((y - scale * s) ** 2).sum() for s, y in blocks()))
    return TrackEnergies(reference=reference, estimate=estimate, product=product, error=error_energy, residual=residual)


def _blocks(reference: NDArray[np.number], estimate: NDArray[np.number]) -> Iterator[tuple[Array, Array]]:
    if reference.shape != estimate.shape:
        raise ScoringError(
            f"reference is {reference.shape}, estimate {estimate.shape} (channels, time); crop or pad the estimate"
        )
    for start in range(0, reference.shape[-1], BLOCK_SAMPLES):
        block = (..., slice(start, start + BLOCK_SAMPLES))
        yield reference[block].astype(np.float64), estimate[block].astype(np.float64)


def _decibels(wanted: float, unwanted: float) -> float:
    with np.errstate(divide="ignore"):
        return float(10.0 * np.log10(np.divide(wanted, unwanted)))
