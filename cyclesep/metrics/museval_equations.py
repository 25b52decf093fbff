"""museval's own normal equations with its rounding errors: one FFT over all samples for every pair of channels.

If ISR, SIR and SAR depend on the last bits of the correlations (`Conditioning.SENSITIVE`) and the samples are not on a
grid that makes these exact, museval's digits can only be reproduced by its own sums: the same transforms of the same
length, the same matrix in the same order, the same LU. This takes nearly as long as museval and is used for such audio
only.
"""

import itertools
from dataclasses import dataclass, field

import numpy as np
import scipy.fft
import scipy.fftpack
import scipy.linalg
from numpy.typing import NDArray

from cyclesep.metrics.distortion_filters import ABSOLUTE_RIDGE, Conditioning, Solution
from cyclesep.metrics.framing import Span
from cyclesep.metrics.sources import Array, Pairing, Sources


@dataclass(frozen=True, kw_only=True)
class MusevalEquations:
    """The equations of `pairing` over the samples of `span`, computed on first use.

    Keeps half the spectrum of every channel, padded to a power of two: 2.1 GB for eight stereo references and estimates
    of four minutes.
    """

    sources: Sources
    pairing: Pairing
    span: Span
    lags: int
    _spectra: list[NDArray[np.complex128]] = field(default_factory=list)
    _products: dict[tuple[int, int], tuple[Array, Array]] = field(default_factory=dict)

    def replace_if_sensitive(self, solution: Solution, targets: range) -> Solution:
        """Return `solution`, or museval's own filters if it is sensitive to rounding errors.

        Filters map references to estimates of `targets`: (lags, channels of these targets, channels of these targets).
        """
        if solution.conditioning != Conditioning.SENSITIVE or self.sources.steps is not None:
            return solution
        filters = self._filters(targets)
        return solution if filters is None else Solution(filters=filters, conditioning=Conditioning.SENSITIVE)

    def _filters(self, targets: range) -> Array | None:
        channels = [target * self.sources.channels + c for target in targets for c in range(self.sources.channels)]
        try:
            # museval solves for one estimate at a time; solving for all at once uses the same factors and gives the
            # same bits.
            filters = np.linalg.solve(self._gram(channels), self._right(channels))
        except np.linalg.LinAlgError:
            return None
        filters = filters.reshape(len(channels), self.lags, len(channels))
        return np.ascontiguousarray(filters.transpose(1, 0, 2))

    def _gram(self, channels: list[int]) -> Array:
        """Return the matrix with rows and columns ordered by channel, then lag."""
        gram = np.empty((len(channels), self.lags, len(channels), self.lags))
        for (i, p), (j, q) in itertools.combinations_with_replacement(enumerate(channels), 2):
            later, earlier = self._product(q, p)
            gram[j, :, i] = scipy.linalg.toeplitz(earlier, later)
            gram[i, :, j] = gram[j, :, i].T
        matrix = gram.reshape(len(channels) * self.lags, -1)
        matrix[np.diag_indices_from(matrix)] += ABSOLUTE_RIDGE
        return matrix

    def _right(self, channels: list[int]) -> Array:
        first_estimate = self.pairing.num_targets * self.sources.channels
        right = np.empty((len(channels), self.lags, len(channels)))
        for (i, p), (k, q) in itertools.product(enumerate(channels), repeat=2):
            right[i, :, k] = self._product(p, first_estimate + q)[1]
        return right.reshape(-1, len(channels))

    def _product(self, p: int, q: int) -> tuple[Array, Array]:
        """Return the sums over n of x_p[n + a] x_q[n] and of x_p[n - a] x_q[n], 0 <= a < lags."""
        if not self._spectra:
            self._spectra.extend(self._transformed())
        if (p, q) not in self._products:
            half = self._spectra[p] * np.conj(self._spectra[q])
            whole = np.concatenate([half, np.conj(half[-2:0:-1])])
            # Complex although the sums are real, because a real transform rounds differently.
            sums = np.real(scipy.fftpack.ifft(whole, overwrite_x=True))
            self._products[p, q] = sums[: self.lags].copy(), np.append(sums[0], sums[: -self.lags : -1])
        return self._products[p, q]

    def _transformed(self) -> list[NDArray[np.complex128]]:
        """Return the spectra of the channels of the summed references, then of the summed estimates."""
        sources, num_samples = self.sources, self.span[1] - self.span[0]
        length = int(2 ** np.ceil(np.log2(num_samples + self.lags - 1.0)))
        signals = np.empty((sources.all_channels, num_samples))
        sources.read(*self.span, signals)
        references, estimates = np.split(signals, [sources.reference_channels])
        mixed = (self.pairing.reference_mixing(sources), references), (self.pairing.estimate_mixing(sources), estimates)
        return [scipy.fft.rfft(row @ block, length) for mixing, block in mixed for row in mixing]
