"""Correlations between references and everything at the lags of the filters, by short blocked FFTs.

All that BSS Eval needs of the audio are the sums `r[a, p, q] = sum over n of x_p[n - a] z_q[n]`, `0 <= a < lags`, with
x the channels of the references and z those of references and estimates: over the track for the filters, over each
frame for the energies. Frames that adjoin give the sum over the track as the sum of theirs plus what reaches across
the seams, so one pass over the audio serves both.

Products of 16-bit samples are whole multiples of 2^-30, and so are their sums: what an FFT adds to them is far less,
and rounding takes it away. The normal equations of such audio are exact, which matters where they are ill-conditioned.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy.fft
from numpy.typing import NDArray

from cyclesep.metrics.framing import Span
from cyclesep.metrics.sources import Array, Pairing, Sources

Spectra = NDArray[np.complex128]

# Of sums of products by FFT, relative to the largest of them: six times the worst that was found, for noise and tones
# of up to 100 s.
FFT_ERROR = 2e-15
MOST_ERROR = 0.25
# Blocks per matrix product: 15,360 samples at 512 lags, so that the spectra stay near the caches.
BLOCKS_AT_ONCE = 10


@dataclass(frozen=True, kw_only=True)
class SpanStatistics:
    """What the scores of some spans of samples are made of.

    `correlations` (spans, lags, reference channels, all channels), each span taken as zero outside itself;
    `estimate_products` (spans, estimate channels, estimate channels) at lag 0; `silent` (spans, pairings).
    """

    correlations: Array
    estimate_products: Array
    silent: NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class Correlator:
    """Computes correlations of `sources` at `lags` lags."""

    sources: Sources
    lags: int

    @property
    def fft_length(self) -> int:
        """Four times the lags: the fastest of 1.5 to 16 times for 512 lags, measured."""
        return int(scipy.fft.next_fast_len(4 * self.lags, real=True))

    def spans(self, spans: Sequence[Span], pairings: tuple[Pairing, ...]) -> SpanStatistics:
        """The statistics of spans of any length, in bounded memory."""
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
        for first in range(start, stop, BLOCKS_AT_ONCE * block_samples):
            last = min(first + BLOCKS_AT_ONCE * block_samples, stop)
            num_blocks = -(-(last - first) // block_samples)
            buffer = np.zeros((sources.all_channels, self.lags + num_blocks * block_samples))
            filled = buffer[:, : self.lags + last - first]
            history = min(self.lags, first - start)
            sources.read(first - history, last, filled[:, self.lags - history :])
            spectra += self._cross_spectra(buffer, num_blocks, block_samples)
            new = filled[:, self.lags :]
            estimates = new[num_references:]
            products += estimates @ estimates.T
            for pairing, still in zip(pairings, silent, strict=True):
                still &= pairing.silent(sources, new)
        return self._to_lags(spectra, self.fft_length), products, [bool(still.any()) for still in silent]

    def across_seams(self, tiles: list[Span]) -> Array:
        """What pairs of samples in different tiles add to the correlations (lags, reference channels, all channels).

        The tiles adjoin; a sample counts with its own tile, its past may reach back into any earlier one.
        """
        length = 2 * self.lags
        num_references = self.sources.reference_channels
        spectra = self._zeros(length)
        for first in range(1, len(tiles), BLOCKS_AT_ONCE):
            some = tiles[first : first + BLOCKS_AT_ONCE]
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
        """Sum over blocks of conj(X) Z: the window of a past holds `lags` samples more than the block it ends with."""
        windows = np.lib.stride_tricks.sliding_window_view(buffer, self.fft_length, axis=1)[:, ::block_samples]
        past = windows[: self.sources.reference_channels, :num_blocks]
        present = np.zeros((self.sources.all_channels, num_blocks, self.fft_length))
        blocks = buffer[:, self.lags :].reshape(self.sources.all_channels, num_blocks, block_samples)
        present[:, :, :block_samples] = blocks
        return _products(past.transpose(2, 0, 1), present.transpose(2, 1, 0), self.fft_length)

    def _to_lags(self, spectra: Spectra, fft_length: int) -> Array:
        # A window of the past starts `lags` samples before its block, so lag a stands at index a - lags.
        # Copied: a view would keep the whole inverse FFT, four times as much.
        correlations: Array = scipy.fft.irfft(spectra, fft_length, axis=0)[-self.lags :].copy()
        unit = whole_unit(self.sources, float(np.abs(correlations[0]).max(initial=0.0)))
        return correlations if unit is None else np.rint(correlations / unit) * unit


def whole_unit(sources: Sources, greatest: float) -> float | None:
    """What sums of products of `sources` are whole multiples of, if an FFT leaves them near enough to tell which.

    Then rounding makes them exact. `greatest` is the largest of them. None: samples on no grid, or sums too large.
    """
    if sources.steps is None:
        return None
    unit = sources.steps**-2
    return unit if FFT_ERROR * greatest < MOST_ERROR * unit else None


def _products(past: Array, present: Array, fft_length: int) -> Spectra:
    """(time, p, block) and (time, block, q) -> (frequency, p, q), summed over blocks."""
    past_spectra = scipy.fft.rfft(past, fft_length, axis=0)
    np.conj(past_spectra, out=past_spectra)
    present_spectra = scipy.fft.rfft(present, fft_length, axis=0)
    summed: Spectra = np.matmul(past_spectra, present_spectra)
    return summed
