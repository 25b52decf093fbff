"""Energies of the components of an estimate in one frame, as quadratic forms of the frame's correlations.

Every component is `e = sum over p of f_p * x_p`, possibly minus the estimate `y`, with filters f that are known once
the normal equations are solved. Its energy is a sum of products of the frame's correlations with those of the filters:
one matrix product for many frames, where museval filters the audio of each frame. A form whose value is small compared
with its terms loses precision; `Energies.trusted` marks the frames without this loss, and `projections` computes the
others from the audio.
"""

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import scipy.fft
from numpy.typing import NDArray

from cyclesep.metrics.correlations import SpanStatistics
from cyclesep.metrics.sources import Array, Pairing, Sources

# The rounding error is about 1e-15 of the magnitude of the terms. Above this ratio it is below 1e-7 of the value, 4e-7
# dB.
TRUSTED_RATIO = 1e-8


class Component(IntEnum):
    """The components whose energies determine the scores of one target; P is a projection onto delayed references."""

    REFERENCE = 0
    """The reference s."""
    ERROR = 1
    """y - s."""
    SPATIAL = 2
    """P_own y - s."""
    OWN = 3
    """P_own y, on the target's own reference."""
    INTERFERENCE = 4
    """P_all y - P_own y."""
    ALL = 5
    """P_all y, on all references."""
    ARTIFACTS = 6
    """y - P_all y."""


@dataclass(frozen=True, kw_only=True)
class Projections:
    """The filters of one pairing, applied to the channels of the unmixed references.

    Both have shape (lags, reference channels, targets x channels).
    """

    pairing: Pairing
    on_all: Array
    on_own: Array


@dataclass(frozen=True, kw_only=True)
class Energies:
    """`values` (frames, parts, targets), and which frames are computed with enough precision."""

    values: Array
    trusted: NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class QuadraticForms:
    """Weights of the correlations and the estimate products, and the magnitude of the terms, per (part, target)."""

    correlation_weights: Array  # (parts x targets, lags x reference channels x all channels)
    product_weights: Array  # (parts x targets, estimate channels ** 2)
    amplitudes: Array  # (parts x targets, channels, all channels)
    num_targets: int

    def evaluate(self, frames: SpanStatistics) -> Energies:
        """Return the energies of every frame."""
        count, _, num_references, _ = frames.correlations.shape
        values = frames.correlations.reshape(count, -1) @ self.correlation_weights.T
        values += frames.estimate_products.reshape(count, -1) @ self.product_weights.T
        powers = [
            np.diagonal(frames.correlations[:, 0, :, :num_references], axis1=1, axis2=2),
            np.diagonal(frames.estimate_products, axis1=1, axis2=2),
        ]
        return self.checked(values, np.concatenate(powers, axis=1))

    def checked(self, values: Array, powers: Array) -> Energies:
        """Mark which `values` (frames, parts x targets) are precise, using the `powers` (frames, all channels)."""
        loudness = np.sqrt(np.maximum(powers, 0.0))
        magnitude = ((self.amplitudes @ loudness.T) ** 2).sum(axis=1).T
        trusted = (values >= TRUSTED_RATIO * magnitude).all(axis=1)
        return Energies(values=values.reshape(len(values), len(Component), self.num_targets), trusted=trusted)


def quadratic_forms(sources: Sources, projections: Projections) -> QuadraticForms:
    """Return the quadratic forms of every part and target of one pairing."""
    pairing, channels = projections.pairing, sources.channels
    estimate_mixing = pairing.estimate_mixing(sources)
    forms = []
    for filters, minus_estimate in _parts(sources, projections):
        for target in range(pairing.num_targets):
            columns = slice(target * channels, (target + 1) * channels)
            forms.append(_form(filters[:, :, columns], estimate_mixing[columns] * minus_estimate))
    correlation_weights, product_weights, amplitudes = zip(*forms, strict=True)
    return QuadraticForms(
        correlation_weights=np.stack(correlation_weights).reshape(len(forms), -1),
        product_weights=np.stack(product_weights).reshape(len(forms), -1),
        amplitudes=np.stack(amplitudes),
        num_targets=pairing.num_targets,
    )


def _parts(sources: Sources, projections: Projections) -> list[tuple[Array, bool]]:
    """Return each part's filters and whether the estimate is subtracted from it, in the order of `Component`."""
    on_all, on_own = projections.on_all, projections.on_own
    unchanged = np.zeros_like(on_all)
    unchanged[0] = projections.pairing.reference_mixing(sources).T
    parts = {
        Component.REFERENCE: (unchanged, False),
        Component.ERROR: (unchanged, True),
        Component.SPATIAL: (on_own - unchanged, False),
        Component.OWN: (on_own, False),
        Component.INTERFERENCE: (on_all - on_own, False),
        Component.ALL: (on_all, False),
        Component.ARTIFACTS: (on_all, True),
    }
    return [parts[part] for part in Component]


def _form(filters: Array, estimate_mixing: Array) -> tuple[Array, Array, Array]:
    """Return weights and amplitudes for the energy of the filtered references minus the mixed estimates.

    `filters` (lags, reference channels, channels), `estimate_mixing` (channels, estimate channels).
    """
    lags = len(filters)
    spectra = scipy.fft.rfft(filters, 2 * lags, axis=0)
    with_each_other = scipy.fft.irfft(spectra @ spectra.conj().transpose(0, 2, 1), 2 * lags, axis=0)[:lags]
    # Correlations are stored at lags >= 0 of every ordered pair, so each represents itself and its mirror image.
    with_each_other[1:] *= 2.0
    weights = np.concatenate([with_each_other, -2.0 * filters @ estimate_mixing], axis=2)
    amplitudes = np.concatenate([np.sqrt((filters**2).sum(axis=0)).T, estimate_mixing], axis=1)
    return weights, estimate_mixing.T @ estimate_mixing, amplitudes
