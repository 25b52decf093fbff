"""The distortion filters of BSS Eval: least-squares projection of the estimates onto the delayed references.

museval solves the normal equations with an absolute ridge of machine epsilon, by LU. The same system is solved here by
its block-Toeplitz structure, and the way it was solved is reported. If the references are singular (dual mono, pure
tones, clicks), the plain solution is rounding noise, and a sequence of fallbacks is tried until one succeeds. Some
systems in between have a solution that changes with the last bits of the correlations; museval's own solution then
changes with its number of BLAS threads.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum

import numpy as np

from cyclesep.metrics import block_toeplitz
from cyclesep.metrics.sources import Array, Sources

# museval's ridge: added to the diagonal of correlations of samples between -1 and 1.
ABSOLUTE_RIDGE = float(np.finfo(np.float64).eps)
# Relative to the mean diagonal; the smallest one that succeeds is used.
RELATIVE_RIDGES = (1e-14, 1e-13, 1e-12, 1e-11, 1e-10)
# Largest element of the residual, relative to the largest element of the right-hand side.
GOOD_RESIDUAL = 2e-14
WORST_RESIDUAL = 1e-10
# Reciprocal condition numbers below which scores up to 60 dB were observed to change by more than 1e-5 dB with the last
# bits of the correlations: for references on the 16-bit grid, whose rounding adds white noise, and for others.
WELL_CONDITIONED_ON_GRID = 1e-12
WELL_CONDITIONED = 1e-10
MAX_REFINEMENTS = 3
# Iterations from the regularized solution towards museval's system; after them the difference is as small as between
# two runs of museval.
TIKHONOV_ITERATIONS = 3


class Conditioning(IntEnum):
    """How a system of equations was solved, from best to worst."""

    EXACT = 0
    """museval's normal equations, with the residual checked."""
    DEDUPLICATED = 1
    """Bit-identical reference channels (dual mono) are used once; the projection is the same."""
    SENSITIVE = 2
    """museval's normal equations, but ISR, SIR and SAR depend on the last bits of the correlations; off the 16-bit grid
    museval's own sums are used (`museval_equations`)."""
    REGULARIZED = 3
    """Not positive definite to working precision: iterated Tikhonov with a relative ridge of 1e-14 to 1e-10."""
    LU = 4
    """Dense LU decomposition of museval's system."""
    LEAST_SQUARES = 5
    """Minimum-norm least squares."""
    UNDERDETERMINED = 6
    """Solved in one of these ways, but with no more equations than unknowns, so that any estimate is explained
    completely: SAR is rounding noise."""


@dataclass(frozen=True, kw_only=True)
class Solution:
    """`filters` (lags, reference channels, estimate channels) and how they were computed."""

    filters: Array
    conditioning: Conditioning


def sufficient_condition(sources: Sources) -> float:
    """Return the reciprocal condition above which scores do not depend on the last bits of the correlations."""
    return WELL_CONDITIONED_ON_GRID if sources.references_on_grid else WELL_CONDITIONED


def solve(correlations: Array, right: Array, duplicates: list[int], sufficient: float) -> Solution:
    """Solve the normal equations with `correlations` (lags, P, P) for `right` (lags, P, K).

    `duplicates[p]` is the first channel that is bit-identical to channel p, or p itself. If the reciprocal condition is
    below `sufficient`, the solution is marked as sensitive.
    """
    kept = [p for p, first in enumerate(duplicates) if p == first]
    if len(kept) == len(duplicates):
        return _first_success(correlations, right, sufficient)
    correlations_kept = np.ascontiguousarray(correlations[:, kept][:, :, kept])
    solution = _first_success(correlations_kept, right[:, kept], sufficient)
    filters = np.zeros_like(right)
    filters[:, kept] = solution.filters
    return Solution(filters=filters, conditioning=max(solution.conditioning, Conditioning.DEDUPLICATED))


def _first_success(correlations: Array, right: Array, sufficient: float) -> Solution:
    for conditioning, filters in _attempts(correlations, right, sufficient):
        if filters is not None and np.isfinite(filters).all():
            return Solution(filters=filters, conditioning=conditioning)
    raise AssertionError("the least-squares solution of finite numbers is finite")


def _attempts(correlations: Array, right: Array, sufficient: float) -> Iterator[tuple[Conditioning, Array | None]]:
    factor = _factor(correlations, ABSOLUTE_RIDGE)
    if factor is not None:
        sensitive = block_toeplitz.reciprocal_condition(factor, correlations, ABSOLUTE_RIDGE) < sufficient
        conditioning = Conditioning.SENSITIVE if sensitive else Conditioning.EXACT
        yield conditioning, _refined(factor, correlations, right, ABSOLUTE_RIDGE)
    mean_diagonal = float(np.trace(correlations[0])) / correlations.shape[1]
    for relative in RELATIVE_RIDGES:
        yield Conditioning.REGULARIZED, _ridged(correlations, right, relative * mean_diagonal + ABSOLUTE_RIDGE)
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
    """Solve with a ridge above museval's and remove it by iterated Tikhonov regularisation.

    Directions with eigenvalues far below the ridge stay damped. Returns None if the factorisation fails or the residual
    is too large.
    """
    factor = _factor(correlations, ridge)
    filters = None if factor is None else _refined(factor, correlations, right, ridge)
    if factor is None or filters is None:
        return None
    for _ in range(TIKHONOV_ITERATIONS):
        filters = filters + factor.solve(right - block_toeplitz.multiply(correlations, ABSOLUTE_RIDGE, filters))
    return filters


def _refined(factor: block_toeplitz.Factor, correlations: Array, right: Array, ridge: float) -> Array | None:
    """Solve with iterative refinement; None if the residual stays too large."""
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
