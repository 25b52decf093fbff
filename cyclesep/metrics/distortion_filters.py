"""The distortion filters of BSS Eval: least squares of the estimates on the delayed references.

museval solves the normal equations with an absolute ridge of machine epsilon, by LU. The same system is solved here by
its structure, and what came of it is told: where references are singular (dual mono, pure tones, clicks) the plain
solution is rounding noise, and a ladder of fallbacks is taken until one holds. Between the two lie systems that have a
solution, but one that changes with the last bits of the correlations: museval's own changes with its BLAS threads.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum

import numpy as np

from cyclesep.metrics import block_toeplitz
from cyclesep.metrics.sources import Array, Sources

# museval's: added to the diagonal of correlations of samples between -1 and 1.
ABSOLUTE_RIDGE = float(np.finfo(np.float64).eps)
# Relative to the mean diagonal; the least one that holds is taken.
RELATIVE_RIDGES = (1e-14, 1e-13, 1e-12, 1e-11, 1e-10)
# Largest element of the residual relative to that of the right-hand side.
GOOD_RESIDUAL = 2e-14
WORST_RESIDUAL = 1e-10
# Reciprocal condition: below it scores up to 60 dB have been seen to move by more than 1e-5 dB with the last bits; of
# references on the 16-bit grid, whose rounding is a floor of white noise, and of others.
WELL_CONDITIONED_ON_GRID = 1e-12
WELL_CONDITIONED = 1e-10
MAX_REFINEMENTS = 3
# Of the ridged solution towards museval's own system, which brings it as near as museval is to itself.
TIKHONOV_ITERATIONS = 3


class Conditioning(IntEnum):
    """How a system was solved, from best to worst."""

    EXACT = 0
    """As museval does: its normal equations, residual checked."""
    MERGED = 1
    """Bit-identical reference channels (dual mono) counted once; their projection is the same."""
    SENSITIVE = 2
    """As museval does, but the last bits of the correlations show in ISR, SIR and SAR: off the 16-bit grid the sums
    are museval's own (`museval_equations`)."""
    RIDGE = 3
    """Not definite to working precision: iterated Tikhonov, with a relative ridge of 1e-14 to 1e-10."""
    LU = 4
    """Dense LU of museval's system."""
    LEAST_SQUARES = 5
    """Minimum-norm least squares."""
    UNDERDETERMINED = 6
    """Solved in one of these ways, but with no more equations than unknowns, which explain any estimate wholly: what is
    left for SAR is rounding."""


@dataclass(frozen=True, kw_only=True)
class Solution:
    """`filters` (lags, reference channels, estimate channels) and how they were found."""

    filters: Array
    conditioning: Conditioning


def sufficient_condition(sources: Sources) -> float:
    """The reciprocal condition from which on the scores of `sources` do not show the last bits of correlations."""
    return WELL_CONDITIONED_ON_GRID if sources.references_on_grid else WELL_CONDITIONED


def solve(correlations: Array, right: Array, twins: list[int], sufficient: float) -> Solution:
    """Solve the normal equations with `correlations` (lags, P, P) for `right` (lags, P, K).

    `twins[p]` is the first channel that channel p is bit-identical to, itself if there is none. Below a reciprocal
    condition of `sufficient` the solution is called sensitive.
    """
    kept = [p for p, first in enumerate(twins) if p == first]
    if len(kept) == len(twins):
        return _first_that_holds(correlations, right, sufficient)
    correlations_kept = np.ascontiguousarray(correlations[:, kept][:, :, kept])
    solution = _first_that_holds(correlations_kept, right[:, kept], sufficient)
    filters = np.zeros_like(right)
    filters[:, kept] = solution.filters
    return Solution(filters=filters, conditioning=max(solution.conditioning, Conditioning.MERGED))


def _first_that_holds(correlations: Array, right: Array, sufficient: float) -> Solution:
    for conditioning, filters in _ladder(correlations, right, sufficient):
        if filters is not None and np.isfinite(filters).all():
            return Solution(filters=filters, conditioning=conditioning)
    raise AssertionError("least squares of finite numbers is finite")


def _ladder(correlations: Array, right: Array, sufficient: float) -> Iterator[tuple[Conditioning, Array | None]]:
    factor = _factor(correlations, ABSOLUTE_RIDGE)
    if factor is not None:
        sensitive = block_toeplitz.reciprocal_condition(factor, correlations, ABSOLUTE_RIDGE) < sufficient
        conditioning = Conditioning.SENSITIVE if sensitive else Conditioning.EXACT
        yield conditioning, _refined(factor, correlations, right, ABSOLUTE_RIDGE)
    mean_diagonal = float(np.trace(correlations[0])) / correlations.shape[1]
    for relative in RELATIVE_RIDGES:
        yield Conditioning.RIDGE, _ridged(correlations, right, relative * mean_diagonal + ABSOLUTE_RIDGE)
    flat = right.reshape(-1, right.shape[2])
    yield Conditioning.LU, _dense_lu(correlations, flat, right.shape)
    least = np.linalg.lstsq(block_toeplitz.dense(correlations, 0.0), flat, rcond=None)[0]
    yield Conditioning.LEAST_SQUARES, np.asarray(least, dtype=np.float64).reshape(right.shape)


def _factor(correlations: Array, ridge: float) -> block_toeplitz.Factor | None:
    try:
        return block_toeplitz.factorise(correlations, ridge)
    except np.linalg.LinAlgError:
        return None


def _ridged(correlations: Array, right: Array, ridge: float) -> Array | None:
    """The solution with a ridge above museval's, which is then iterated away (iterated Tikhonov regularisation), but
    for directions that are smaller still, which stay damped; None where it fails or its residual is bad."""
    factor = _factor(correlations, ridge)
    filters = None if factor is None else _refined(factor, correlations, right, ridge)
    if factor is None or filters is None:
        return None
    for _ in range(TIKHONOV_ITERATIONS):
        filters = filters + factor.solve(right - block_toeplitz.multiply(correlations, ABSOLUTE_RIDGE, filters))
    return filters


def _refined(factor: block_toeplitz.Factor, correlations: Array, right: Array, ridge: float) -> Array | None:
    """The solution with iterative refinement; None if its residual stays bad."""
    scale = max(float(np.abs(right).max()), np.finfo(np.float64).tiny)
    filters = factor.solve(right)
    for refinement in range(MAX_REFINEMENTS + 1):
        residual = right - block_toeplitz.multiply(correlations, ridge, filters)
        worst = float(np.abs(residual).max()) / scale
        if worst <= GOOD_RESIDUAL or refinement == MAX_REFINEMENTS:
            break
        filters = filters + factor.solve(residual)
    return filters if worst <= WORST_RESIDUAL else None


def _dense_lu(correlations: Array, right: Array, shape: tuple[int, ...]) -> Array | None:
    try:
        filters = np.linalg.solve(block_toeplitz.dense(correlations, ABSOLUTE_RIDGE), right)
    except np.linalg.LinAlgError:
        return None
    return np.asarray(filters, dtype=np.float64).reshape(shape)
