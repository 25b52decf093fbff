"""Energies of every target over the whole track, for SI-SDR and uSDR, from the products computed for BSS Eval.

References and estimates of a target are sums of signals, so their energies are sums of products of signals. If a sum is
small compared with its terms (estimates equal to references, stems that cancel), it is measured from the audio.
"""

from collections.abc import Iterator

import numpy as np

from cyclesep.metrics.si_sdr import DIRECT_BELOW, TrackEnergies, measured
from cyclesep.metrics.sources import Array, Pairing, Sources

# Samples per channel that are read at a time, of all signals.
BLOCK_SAMPLES = 1 << 16


def track_energies(
    sources: Sources, pairing: Pairing, products: Array, estimate_products: Array
) -> tuple[TrackEnergies, ...]:
    """Return the energies of each target from products over the track at lag 0.

    `products` (reference channels, all channels) are those of references with all signals, `estimate_products`
    (estimate channels, estimate channels) those of estimates with each other.
    """
    references, estimates = pairing.reference_mixing(sources), pairing.estimate_mixing(sources)
    power = products[:, : sources.reference_channels]
    channels = (
        _diagonal(references, power, references),
        _diagonal(estimates, estimate_products, estimates),
        _diagonal(references, products[:, sources.reference_channels :], estimates),
        (references @ np.sqrt(np.maximum(np.diagonal(power), 0.0))) ** 2,
        (estimates @ np.sqrt(np.diagonal(estimate_products))) ** 2,
    )
    rows = np.stack(channels).reshape(len(channels), pairing.num_targets, -1).sum(axis=2).T
    return tuple(_energies(sources, pairing, target, row) for target, row in enumerate(rows))


def measured_energies(sources: Sources, pairing: Pairing) -> tuple[TrackEnergies, ...]:
    """Return the energies of each target, measured from the audio."""
    return tuple(_measured(sources, pairing, target) for target in range(pairing.num_targets))


def _diagonal(left: Array, products: Array, right: Array) -> Array:
    return np.asarray(np.einsum("ip,pq,iq->i", left, products, right))


def _energies(sources: Sources, pairing: Pairing, target: int, row: Array) -> TrackEnergies:
    reference, estimate, product, reference_terms, estimate_terms = row.tolist()
    error = reference + estimate - 2.0 * product
    residual = estimate - product**2 / reference if reference > 0 else estimate
    is_precise = (
        reference >= DIRECT_BELOW * reference_terms
        and min(estimate, residual) >= DIRECT_BELOW * estimate_terms
        and error >= DIRECT_BELOW * (reference_terms + estimate_terms)
    )
    if not is_precise:
        return _measured(sources, pairing, target)
    return TrackEnergies(reference=reference, estimate=estimate, product=product, error=error, residual=residual)


def _measured(sources: Sources, pairing: Pairing, target: int) -> TrackEnergies:
    rows = slice(target * sources.channels, (target + 1) * sources.channels)
    references, estimates = pairing.reference_mixing(sources)[rows], pairing.estimate_mixing(sources)[rows]

    def blocks() -> Iterator[tuple[Array, Array]]:
        for start in range(0, sources.num_samples, BLOCK_SAMPLES):
            block = np.empty((sources.all_channels, min(BLOCK_SAMPLES, sources.num_samples - start)))
            sources.read(start, start + block.shape[1], block)
            yield references @ block[: sources.reference_channels], estimates @ block[sources.reference_channels :]

    return measured(blocks)
