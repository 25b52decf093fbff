"""Correlations of references with references and estimates at the lags of the filters, by short blocked FFTs.

BSS Eval needs only the sums `r[a, p, q] = sum over n of x_p[n - a] z_q[n]`, `0 <= a < lags`, of the audio, where x are
the channels of the references and z those of references and estimates: over the track for the filters, over each frame
for the energies. For adjoining frames the sum over the track is the sum of theirs plus the products across frame
boundaries, so one pass over the audio serves both.

Products of 16-bit samples are integer multiples of 2^-30, and so are their sums. The error of an FFT is far smaller and
is removed by rounding. The normal equations of such audio are therefore exact, which matters if they are
ill-conditioned.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy.fft
from numpy.typing import NDArray

from cyclesep.metrics.framing import Span
from cyclesep.metrics.sources import Array, Pairing, Sources

Spectra = NDArray[np.complex128]

# Error of sums of products computed by FFT, relative to the largest sum: six times the largest error observed for noise
# and tones of up to 100 s.
FFT_ERROR = 2e-15
MAX_ERROR_IN_UNITS = 0.25
# Blocks per matrix product: 15,360 samples at 512 lags, so that the spectra fit in the CPU caches.
BLOCKS_PER_PRODUCT = 10


@dataclass(frozen=True, kw_only=True)
class SpanStatistics:
    """Statistics of spans of samples from which scores are computed.

    `correlations` (spans, lags, reference channels, all channels), with zeros outside each span;
    `estimate_products` (spans, estimate channels, estimate channels) at lag 0; `silent` (spans, pairings).
    """

    correlations: Array
    estimate_products: Array
    silent: NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class Correlator:
    """Compute correlations of `sources` at `lags` lags."""

    sources: Sources
    lags: int

    @property
    def fft_length(self) -> int:
        """Four times the lags: measured as the fastest of 1.5 to 16 times, for 512 lags."""
        return int(scipy.fft.next_fast_len(4 * self.lags, real=True))

    def spans(self, spans: Sequence[Span], pairings: tuple[Pairing, ...]) -> SpanStatistics:
        """Return the statistics of spans of any length, using a bounded amount of memory."""
        correlations, products, silent = zip(*(self._span(span, pairings) for span in spans), strict=True)
        return SpanStatistics(
            correlations=np.stack(correlations), estimate_products=np.stack(products), silent=np.array(silent)
        )

    def _span(self, span: Span, pairings: tuple[Pairing, ...]) -> tuple[Array, Array, list[bool]]:
        start, stop = span
        sources, block_samples = self.sources, self.fft_length - self.lags
        num_references = sources.reference_channels
        spectra = self._zeros(self.fft_length)
        products = np.zeros((sources.all_channels - num_references,) * 2)
        silent = [np.ones(2 * pairing.num_targets, dtype=bool) for pairing in pairings]
        for first in range(start, stop, BLOCKS_PER_PRODUCT * block_samples):
            last = min(first + BLOCKS_PER_PRODUCT * block_samples, stop)
            num_blocks = -(-(last - first) // block_samples)
            buffer = np.zeros((sources.all_channels, self.lags + num_blocks * block_samples))
            filled = buffer[:, : self.lags + last - first]
            history = min(self.lags, first - start)
            sources.read(first - history, last, filled[:, self.lags - history :])
            spectra += self._cross_spectra(buffer, num_blocks, block_samples)
            new = filled[:, self.lags :]
            estimates = new[num_references:]
            products += estimates @ estimates.T
            for pairing, still_silent in zip(pairings, silent, strict=True):
                still_silent &= pairing.silent(sources, new)
        return self._to_lags(spectra, self.fft_length), products, [bool(still_silent.any()) for still_silent in silent]

    def across_boundaries(self, tiles: list[Span]) -> Array:
        """Return the correlations between samples of different tiles (lags, reference channels, all channels).

        The tiles must adjoin. The lagged samples of a tile may lie in any earlier tile.
        """
        length = 2 * self.lags
        num_references = self.sources.reference_channels
        spectra = self._zeros(length)
        for first in range(1, len(tiles), BLOCKS_PER_PRODUCT):
            some = tiles[first : first + BLOCKS_PER_PRODUCT]
            past = np.zeros((len(some), num_references, length))
            present = np.zeros((len(some), self.sources.all_channels, length))
            window = np.empty((self.sources.all_channels, length))
            for m, (start, stop) in enumerate(some):
                self.sources.read(start - self.lags, start + self.lags, window)
                past[m, :, : self.lags] = window[:num_references, : self.lags]
                reach = min(self.lags, stop - start)
                present[m, :, :reach] = window[:, self.lags : self.lags + reach]
            spectra += _products(past.transpose(2, 1, 0), present.transpose(2, 0, 1), length)
        return self._to_lags(spectra, length)

    def _zeros(self, fft_length: int) -> Spectra:
        shape = (fft_length // 2 + 1, self.sources.reference_channels, self.sources.all_channels)
        return np.zeros(shape, dtype=np.complex128)

    def _cross_spectra(self, buffer: Array, num_blocks: int, block_samples: int) -> Spectra:
        """Return the sum over blocks of conj(X) Z; a window of X has `lags` more samples than the block at its end."""
        windows = np.lib.stride_tricks.sliding_window_view(buffer, self.fft_length, axis=1)[:, ::block_samples]
        past = windows[: self.sources.reference_channels, :num_blocks]
        present = np.zeros((self.sources.all_channels, num_blocks, self.fft_length))
        blocks = buffer[:, self.lags :].reshape(self.sources.all_channels, num_blocks, block_samples)
        present[:, :, :block_samples] = blocks
        return _products(past.transpose(2, 0, 1), present.transpose(2, 1, 0), self.fft_length)

    def _to_lags(self, spectra: Spectra, fft_length: int) -> Array:
        # A window of X starts `lags` samples before its block, so lag a is at index a - lags.
        # Copied, because a view would keep the whole inverse FFT, which is four times as large.
        correlations: Array = scipy.fft.irfft(spectra, fft_length, axis=0)[-self.lags :].copy()
        unit = exact_unit(self.sources, float(np.abs(correlations[0]).max(initial=0.0)))
        return correlations if unit is None else np.rint(correlations / unit) * unit


def exact_unit(sources: Sources, greatest: float) -> float | None:
    """Return the unit of which all sums of products of `sources` are integer multiples, if rounding can restore them.

    `greatest` is the largest sum. None if the samples are not on a grid, or if the sums are too large for the precision
    of the FFT.
    """
    if sources.steps is None:
        return None
    unit = sources.steps**-2
    return unit if FFT_ERROR * greatest < MAX_ERROR_IN_UNITS * unit else None


def _products(past: Array, present: Array, fft_length: int) -> Spectra:
    """Multiply spectra of (time, p, block) and (time, block, q) to (frequency, p, q), summed over blocks."""
    past_spectra = scipy.fft.rfft(past, fft_length, axis=0)
    np.conj(past_spectra, out=past_spectra)
    present_spectra = scipy.fft.rfft(present, fft_length, axis=0)
    summed: Spectra = np.matmul(past_spectra, present_spectra)
    return summed
