"""The heavy sums of BSS Eval by PyTorch, in float64 on any device: many frames at once, as a GPU wants them.

The audio is sent to the device once, as it came. Where NumPy's way takes one span after another and solves by the
block-Toeplitz structure, spans are batched here and the normal equations are factorised whole (Cholesky), which a GPU
does in less time than it takes to start the many small steps of the Schur algorithm. What the plain factorisation
cannot solve well goes to the same ladder as without PyTorch.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy.fft
import torch
from numpy.typing import NDArray
from torch import Tensor

from cyclesep.errors import ScoringError
from cyclesep.metrics import distortion_filters
from cyclesep.metrics.correlations import whole_unit
from cyclesep.metrics.distortion_filters import (
    ABSOLUTE_RIDGE,
    GOOD_RESIDUAL,
    Conditioning,
    Solution,
    sufficient_condition,
)
from cyclesep.metrics.energies import Energies, QuadraticForms
from cyclesep.metrics.framing import Span
from cyclesep.metrics.sources import Array, Pairing, Sources


@dataclass(frozen=True, kw_only=True)
class Room:
    """Memory for spectra and windows of a batch, and for statistics of frames that are kept."""

    batch_bytes: int
    kept_bytes: int


CPU_ROOM = Room(batch_bytes=64 << 20, kept_bytes=128 << 20)
DEVICE_ROOM = Room(batch_bytes=1 << 30, kept_bytes=2 << 30)
MAX_REFINEMENTS = 3
POWER_ITERATIONS = 3


@dataclass(frozen=True, kw_only=True)
class TorchStatistics:
    """`SpanStatistics` with correlations and products on the device."""

    correlations: Tensor
    estimate_products: Tensor
    silent: NDArray[np.bool_]


class TorchBackend:
    """Computes on `device`, a name that PyTorch knows; raises ScoringError for one that is not there."""

    def __init__(self, sources: Sources, lags: int, device: str) -> None:
        self.sources = sources
        self._lags = lags
        self._device = _device(device)
        self._signals = [torch.from_numpy(_sendable(signal)).to(self._device) for signal in sources.signals]
        room = CPU_ROOM if self._device.type == "cpu" else DEVICE_ROOM
        self.kept_bytes = room.kept_bytes
        self._fft_length = int(scipy.fft.next_fast_len(4 * lags, real=True))
        block_bytes = 16 * (self._fft_length // 2 + 1) * (sources.all_channels + sources.reference_channels)
        self._blocks_at_once = max(1, room.batch_bytes // block_bytes)
        spectrum_bytes = 16 * (self._fft_length // 2 + 1) * sources.all_channels * sources.reference_channels
        self.spans_at_once = max(1, room.batch_bytes // (2 * spectrum_bytes))

    def statistics(self, spans: Sequence[Span], pairings: tuple[Pairing, ...]) -> TorchStatistics:
        """The statistics of some spans, all their blocks in batches."""
        lags, block_samples = self._lags, self._fft_length - self._lags
        num_references, count = self.sources.reference_channels, len(spans)
        starts, stops = (torch.tensor(edge, device=self._device) for edge in zip(*spans, strict=True))
        longest = max(stop - start for start, stop in spans)
        spectra = self._spectra(count, self._fft_length)
        num_estimates = self.sources.all_channels - num_references
        products = self._zeros(count, num_estimates, num_estimates)
        sounds = [self._zeros(count, 2 * pairing.num_targets, dtype=torch.bool) for pairing in pairings]
        blocks_at_once = max(1, self._blocks_at_once // count)
        for first in range(0, longest, blocks_at_once * block_samples):
            num_blocks = min(blocks_at_once, -(-(longest - first) // block_samples))
            window = self._read(starts + first - lags, lags + num_blocks * block_samples, starts, stops)
            new = window[:, :, lags:]
            past = window[:, :num_references].unfold(2, self._fft_length, block_samples)
            present = new.reshape(count, -1, num_blocks, block_samples)
            spectra += self._products(past, present, self._fft_length)
            estimates = new[:, num_references:]
            products += estimates @ estimates.transpose(1, 2)
            for pairing, sound in zip(pairings, sounds, strict=True):
                sound |= self._sounds(pairing, new)
        return TorchStatistics(
            correlations=self._to_lags(spectra, self._fft_length),
            estimate_products=products,
            silent=np.stack([~sound.all(dim=1).cpu().numpy() for sound in sounds], axis=1),
        )

    def totals(self, statistics: TorchStatistics) -> tuple[Array, Array]:
        return _numpy(statistics.correlations.sum(dim=0)), _numpy(statistics.estimate_products.sum(dim=0))

    def across_seams(self, tiles: list[Span]) -> Array:
        """What pairs of samples in different tiles add to the correlations: see `Correlator.across_seams`."""
        length, num_references = 2 * self._lags, self.sources.reference_channels
        spectra = self._spectra(1, length)
        for first in range(1, len(tiles), self._blocks_at_once):
            starts, stops = (
                torch.tensor(edge, device=self._device)
                for edge in zip(*tiles[first : first + self._blocks_at_once], strict=True)
            )
            window = self._read(starts - self._lags, length, torch.zeros_like(starts), stops)
            past = window[None, :, :num_references, : self._lags].transpose(1, 2)
            present = window[None, :, :, self._lags :].transpose(1, 2)
            spectra += self._products(past, present, length)
        return _numpy(self._to_lags(spectra, length)[0])

    def solve(self, correlations: Array, right: Array, twins: list[int]) -> Solution:
        """Cholesky of museval's system with iterative refinement; what it cannot solve well, the ladder solves."""
        if all(p == first for p, first in enumerate(twins)):
            filters = self._cholesky(torch.from_numpy(correlations).to(self._device), self._send(right))
            if filters is not None:
                return Solution(filters=filters, conditioning=Conditioning.EXACT)
        return distortion_filters.solve(correlations, right, twins, sufficient_condition(self.sources))

    def energies(self, forms: QuadraticForms, statistics: TorchStatistics) -> Energies:
        """See `QuadraticForms.evaluate`."""
        count, num_references = len(statistics.correlations), self.sources.reference_channels
        values = statistics.correlations.reshape(count, -1) @ self._send(forms.correlation_weights).T
        values += statistics.estimate_products.reshape(count, -1) @ self._send(forms.product_weights).T
        powers = [
            statistics.correlations[:, 0, :, :num_references].diagonal(dim1=1, dim2=2),
            statistics.estimate_products.diagonal(dim1=1, dim2=2),
        ]
        return forms.checked(_numpy(values), _numpy(torch.cat(powers, dim=1)))

    def _read(self, first: Tensor, length: int, starts: Tensor, stops: Tensor) -> Tensor:
        """Samples from `first` on of all channels, (spans, all channels, length); zeros outside the spans."""
        places = first[:, None] + torch.arange(length, device=self._device)
        window = self._zeros(len(first), self.sources.all_channels, length)
        for number, signal in enumerate(self._signals):
            end = torch.clamp(stops, max=min(signal.shape[1], self.sources.num_samples))[:, None]
            inside = (places >= starts[:, None]) & (places < end)
            if signal.shape[1] == 0:
                continue
            samples = signal[:, places.clamp(0, signal.shape[1] - 1)].double()
            if self.sources.steps is not None and signal.dtype.is_floating_point:
                samples = torch.round(samples * self.sources.steps) / self.sources.steps
            channels = slice(number * self.sources.channels, (number + 1) * self.sources.channels)
            window[:, channels] = torch.where(inside, samples, 0.0).transpose(0, 1)
        return window

    def _spectra(self, count: int, fft_length: int) -> Tensor:
        """(count, frequency, p, q) zeros."""
        shape = (count, fft_length // 2 + 1, self.sources.reference_channels, self.sources.all_channels)
        return self._zeros(*shape, dtype=torch.complex128)

    def _products(self, past: Tensor, present: Tensor, fft_length: int) -> Tensor:
        """(spans, p, block, time) and (spans, q, block, time) -> (spans, frequency, p, q), summed over blocks."""
        past_spectra = torch.fft.rfft(past, fft_length).conj().permute(0, 3, 1, 2)
        summed: Tensor = past_spectra @ torch.fft.rfft(present, fft_length).permute(0, 3, 2, 1)
        return summed

    def _to_lags(self, spectra: Tensor, fft_length: int) -> Tensor:
        """See `Correlator._to_lags`."""
        correlations = torch.fft.irfft(spectra, fft_length, dim=1)[:, -self._lags :].contiguous()
        unit = whole_unit(self.sources, float(correlations[:, 0].abs().max()))
        return correlations if unit is None else torch.round(correlations / unit) * unit

    def _sounds(self, pairing: Pairing, new: Tensor) -> Tensor:
        """Whether each reference, then each estimate of a pairing has a sample where its channels do not add up to
        zero, (spans, 2 x targets)."""
        mono = new.reshape(len(new), -1, self.sources.channels, new.shape[2]).sum(dim=2)
        references, estimates = mono[:, : self.sources.num_references], mono[:, self.sources.num_references :]
        sums = [references[:, list(group)].sum(dim=1) for group in pairing.references]
        sums += [estimates[:, list(group)].sum(dim=1) for group in pairing.estimates]
        return torch.stack([(summed != 0).any(dim=1) for summed in sums], dim=1)

    def _cholesky(self, correlations: Tensor, right: Tensor) -> Array | None:
        matrix, flat = self._dense(correlations), right.reshape(-1, right.shape[2])
        triangle, failed = torch.linalg.cholesky_ex(matrix)
        if bool(failed) or _reciprocal_condition(matrix, triangle) < sufficient_condition(self.sources):
            return None
        filters = torch.cholesky_solve(flat, triangle)
        for _ in range(MAX_REFINEMENTS):
            residual = flat - matrix @ filters
            if float(residual.abs().max()) <= GOOD_RESIDUAL * float(flat.abs().max()):
                break
            filters = filters + torch.cholesky_solve(residual, triangle)
        return _numpy(filters).reshape(right.shape) if bool(filters.isfinite().all()) else None

    def _dense(self, correlations: Tensor) -> Tensor:
        """The square matrix of the normal equations, rows and columns by lag, then channel, museval's ridge on it."""
        lags, size = correlations.shape[:2]
        symbol = torch.cat([correlations[1:].flip(0).transpose(1, 2), correlations])
        lag = torch.arange(lags, device=self._device)
        blocks = symbol[lag[:, None] - lag + lags - 1].transpose(1, 2)
        matrix = blocks.reshape(lags * size, lags * size)
        matrix.diagonal().add_(ABSOLUTE_RIDGE)
        return matrix

    def _zeros(self, *shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
        return torch.zeros(shape, dtype=dtype, device=self._device)

    def _send(self, array: Array) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(self._device)


def _reciprocal_condition(matrix: Tensor, triangle: Tensor) -> float:
    """See `block_toeplitz.reciprocal_condition`."""
    start = torch.randn(len(matrix), 1, dtype=matrix.dtype, generator=torch.Generator().manual_seed(0)).to(
        matrix.device
    )
    long, short = start, start
    for _ in range(POWER_ITERATIONS):
        long = matrix @ (long / long.norm())
        short = torch.cholesky_solve(short / short.norm(), triangle)
    return 1.0 / float(long.norm() * short.norm())


def _device(name: str) -> torch.device:
    try:
        device = torch.device(name)
        # .tolist(), for there are devices without memory ("meta").
        torch.zeros(1, dtype=torch.float64, device=device).tolist()
    except (RuntimeError, TypeError, AssertionError) as problem:
        told = " ".join(str(problem).split())[:120]
        raise ScoringError(f"device={name!r} cannot be used ({told}); name one that PyTorch has, or none") from problem
    return device


def _sendable(signal: NDArray[np.number]) -> NDArray[np.number]:
    """As it came where PyTorch has the type, else float64."""
    kept = signal.dtype in (np.float32, np.float64, np.int16, np.int32, np.int64)
    return np.ascontiguousarray(signal if kept else signal.astype(np.float64))


def _numpy(tensor: Tensor) -> Array:
    return np.asarray(tensor.cpu().numpy(), dtype=np.float64)
