"""Symmetric positive definite block-Toeplitz systems, solved by the generalized Schur algorithm.

The normal equations of BSS Eval contain the correlations of P channels at L lags: L x L blocks of P x P that depend
only on the difference of their lags. A Cholesky factorisation of the (L P)^2 matrix takes (L P)^3 / 3 operations, this
one about 2 P^3 L^2. The mixed form of the hyperbolic step keeps it stable (T. Kailath and A. H. Sayed, "Displacement
structure: theory and applications", SIAM Review 37, 1995; M. Stewart and P. Van Dooren, "Stability issues in the
factorization of structured matrices", SIAM J. Matrix Anal. Appl. 18, 1997).

Arrays: `correlations` (L, P, P), entry [a, p, q] = sum over n of x_p[n - a] x_q[n]; right-hand sides (L, P, K).
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import scipy.fft

from cyclesep.metrics.sources import Array

POWER_ITERATIONS = 3


@dataclass(frozen=True, kw_only=True)
class Factor:
    """The upper triangular R of T = R^T R as block rows, each starting at its diagonal block.

    `inverses` (L, P, P) are the inverses of the diagonal blocks.
    """

    rows: tuple[Array, ...]
    inverses: Array

    def solve(self, right: Array) -> Array:
        """Solve T x = right for x (L, P, K), by forward and back substitution."""
        lags, size, columns = right.shape
        x = right.reshape(lags * size, columns).copy()
        for k, (row, inverse) in enumerate(zip(self.rows, self.inverses, strict=True)):
            here, below = x[k * size : (k + 1) * size], x[(k + 1) * size :]
            here[...] = inverse.T @ here
            below -= row[:, size:].T @ here
        for k in range(lags - 1, -1, -1):
            here, below = x[k * size : (k + 1) * size], x[(k + 1) * size :]
            here[...] = self.inverses[k] @ (here - self.rows[k][:, size:] @ below)
        return x.reshape(lags, size, columns)


def factorise(correlations: Array, ridge: float) -> Factor:
    """Factorise T + ridge I; raises numpy's LinAlgError if T is not positive definite to working precision."""
    lags, size = correlations.shape[:2]
    first = 0.5 * (correlations[0] + correlations[0].T) + ridge * np.eye(size)
    top = np.concatenate([first, *correlations[1:].transpose(0, 2, 1)], axis=1)
    positive = np.linalg.solve(np.linalg.cholesky(first), top)
    negative = positive[:, size:]
    rows = [positive]
    for _ in range(1, lags):
        positive, negative = _step(positive[:, :-size], negative, size)
        rows.append(positive)
        negative = negative[:, size:]
    inverses = np.linalg.inv(np.stack([row[:, :size] for row in rows]))
    return Factor(rows=tuple(rows), inverses=inverses)


def multiply(correlations: Array, ridge: float, x: Array) -> Array:
    """Return (T + ridge I) x for x (L, P, K), by FFT."""
    lags = len(correlations)
    length = 2 * lags
    # One period of the symbol: lags 0 to L - 1, zero at L, and lags 1 - L to -1, with transposed blocks.
    symbol = np.zeros((length, *correlations.shape[1:]))
    symbol[:lags] = correlations
    symbol[lags + 1 :] = correlations[:0:-1].transpose(0, 2, 1)
    spectrum = np.matmul(scipy.fft.rfft(symbol, axis=0), scipy.fft.rfft(x, length, axis=0))
    product: Array = scipy.fft.irfft(spectrum, length, axis=0)[:lags]
    return product + ridge * x


def reciprocal_condition(factor: Factor, correlations: Array, ridge: float) -> float:
    """Estimate the smallest eigenvalue of T + ridge I over the largest, by a few power iterations each."""
    start = np.random.default_rng(0).standard_normal((*correlations.shape[:2], 1))
    greatest = _growth(lambda x: multiply(correlations, ridge, x), start)
    return 1.0 / (greatest * _growth(factor.solve, start))


def dense(correlations: Array, ridge: float) -> Array:
    """Return T + ridge I as a square matrix with rows and columns ordered by lag, then channel."""
    lags, size = correlations.shape[:2]
    matrix = np.empty((lags, size, lags, size))
    for a in range(lags):
        matrix[a, :, : a + 1] = correlations[a::-1].transpose(1, 0, 2)
        matrix[: a + 1, :, a] = matrix[a, :, : a + 1].transpose(1, 2, 0)
    square = matrix.reshape(lags * size, lags * size)
    square[np.diag_indices_from(square)] += ridge
    return square


def _growth(transform: Callable[[Array], Array], x: Array) -> float:
    """Estimate the spectral norm of `transform` from below, starting at `x`."""
    for _ in range(POWER_ITERATIONS):
        x = transform(x / np.linalg.norm(x))
    return float(np.linalg.norm(x))


def _step(positive: Array, negative: Array, size: int) -> tuple[Array, Array]:
    """Apply one hyperbolic rotation in mixed form, which annihilates the leading block of `negative`."""
    reflection = np.linalg.solve(positive[:, :size].T, negative[:, :size].T).T
    identity = np.eye(size)
    outer, inner = np.linalg.cholesky(
        np.stack([identity - reflection.T @ reflection, identity - reflection @ reflection.T])
    )
    inverse_outer, inverse_inner = np.linalg.inv(np.stack([outer, inner]))
    rotated = inverse_outer @ positive - (inverse_outer @ reflection.T) @ negative
    return rotated, inner.T @ negative - (inverse_inner @ reflection @ outer) @ rotated
