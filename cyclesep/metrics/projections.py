"""Energies of the components of an estimate computed from the audio, by overlap-save convolution.

museval's method, in blocks: precise however small a component is compared with the others. It is used for frames in
which the quadratic forms of `energies` lose precision: estimates equal to references, nearly singular systems.
"""

from dataclasses import dataclass, field

import numpy as np
import scipy.fft
from numpy.typing import NDArray

from cyclesep.metrics.energies import Component, Projections
from cyclesep.metrics.framing import Span
from cyclesep.metrics.sources import Array, Sources

MAX_FFT_SAMPLES = 1 << 16


@dataclass(frozen=True, kw_only=True)
class Projector:
    """Project frames of `sources` by the filters of one pairing; caches the filters' spectra between frames."""

    sources: Sources
    projections: Projections
    _spectra: dict[int, NDArray[np.complex128]] = field(default_factory=dict)

    def energies(self, span: Span) -> Array:
        """Return the energies (parts, targets) of the samples in `span`, with references set to zero outside it."""
        num_samples, tail = span[1] - span[0], len(self.projections.on_all) - 1
        wanted = min(num_samples + 2 * tail, max(MAX_FFT_SAMPLES, 4 * tail))
        fft_length = scipy.fft.next_fast_len(wanted, real=True)
        block_samples = fft_length - tail
        total = np.zeros((len(Component), self.projections.pairing.num_targets))
        for first in range(0, num_samples + tail, block_samples):
            total += self._block_energies(span, span[0] + first - tail, fft_length, tail)
        return total

    def _block_energies(self, span: Span, start: int, fft_length: int, tail: int) -> Array:
        sources, pairing = self.sources, self.projections.pairing
        window = np.zeros((sources.all_channels, fft_length))
        first, last = max(start, span[0]), min(start + fft_length, span[1])
        sources.read(first, last, window[:, first - start : last - start])
        references, estimates = np.split(window, [sources.reference_channels])
        spectra = scipy.fft.rfft(references).T[:, None]
        projected = scipy.fft.irfft(np.matmul(spectra, self._filter_spectra(fft_length))[:, 0], fft_length, axis=0)
        on_all, on_own = np.split(projected[tail:].T, 2)
        reference = pairing.reference_mixing(sources) @ references[:, tail:]
        estimate = pairing.estimate_mixing(sources) @ estimates[:, tail:]
        parts = {
            Component.REFERENCE: reference,
            Component.ERROR: estimate - reference,
            Component.SPATIAL: on_own - reference,
            Component.OWN: on_own,
            Component.INTERFERENCE: on_all - on_own,
            Component.ALL: on_all,
            Component.ARTIFACTS: estimate - on_all,
        }
        return np.stack([self._energy(parts[part]) for part in Component])

    def _filter_spectra(self, fft_length: int) -> NDArray[np.complex128]:
        """Return the spectra of both filters: (frequencies, reference channels, 2 x targets x channels)."""
        if fft_length not in self._spectra:
            both = np.concatenate([self.projections.on_all, self.projections.on_own], axis=2)
            self._spectra.clear()
            self._spectra[fft_length] = scipy.fft.rfft(both, fft_length, axis=0)
        return self._spectra[fft_length]

    def _energy(self, part: Array) -> Array:
        """Return the energy per target of (targets x channels, time)."""
        per_channel = np.einsum("ct,ct->c", part, part)
        per_target: Array = per_channel.reshape(-1, self.sources.channels).sum(axis=1)
        return per_target
