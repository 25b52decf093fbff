"""Where the heavy sums of BSS Eval are computed: NumPy here, PyTorch on any device in `torch_backend`.

A backend correlates spans of the audio, solves the normal equations and evaluates the energies of frames. All the rest
(frames, pairings, filters, ratios, what happens where digits are lost) is one code for both.
"""

from collections.abc import Sequence
from typing import Any, Protocol

from cyclesep.metrics import distortion_filters
from cyclesep.metrics.correlations import Correlator, SpanStatistics
from cyclesep.metrics.distortion_filters import Solution, sufficient_condition
from cyclesep.metrics.energies import Energies, QuadraticForms
from cyclesep.metrics.framing import Span
from cyclesep.metrics.sources import Array, Pairing, Sources


class Statistics(Protocol):
    """`SpanStatistics`, or the same with the backend's own arrays."""

    @property
    def correlations(self) -> Any: ...
    @property
    def silent(self) -> Any: ...


class Backend(Protocol):
    """What a backend computes; `Array` is NumPy's, and statistics come back only to the backend that made them."""

    sources: Sources
    spans_at_once: int
    kept_bytes: int
    """Statistics of frames that do not fit in here are computed again when their turn comes."""

    def statistics(self, spans: Sequence[Span], pairings: tuple[Pairing, ...]) -> Any:
        """The statistics of some spans."""

    def totals(self, statistics: Any) -> tuple[Array, Array]:
        """The sums over spans of correlations and of estimate products."""

    def across_seams(self, tiles: list[Span]) -> Array:
        """See `Correlator.across_seams`."""

    def solve(self, correlations: Array, right: Array, twins: list[int]) -> Solution:
        """See `distortion_filters.solve`."""

    def energies(self, forms: QuadraticForms, statistics: Any) -> Energies:
        """See `QuadraticForms.evaluate`."""


class NumpyBackend:
    """One core of this machine: scorers side by side, one per core, beat threads."""

    spans_at_once = 8
    kept_bytes = 128 << 20

    def __init__(self, sources: Sources, lags: int) -> None:
        self.sources = sources
        self._correlator = Correlator(sources=sources, lags=lags)

    def statistics(self, spans: Sequence[Span], pairings: tuple[Pairing, ...]) -> SpanStatistics:
        return self._correlator.spans(spans, pairings)

    def totals(self, statistics: SpanStatistics) -> tuple[Array, Array]:
        return statistics.correlations.sum(axis=0), statistics.estimate_products.sum(axis=0)

    def across_seams(self, tiles: list[Span]) -> Array:
        return self._correlator.across_seams(tiles)

    def solve(self, correlations: Array, right: Array, twins: list[int]) -> Solution:
        return distortion_filters.solve(correlations, right, twins, sufficient_condition(self.sources))

    def energies(self, forms: QuadraticForms, statistics: SpanStatistics) -> Energies:
        return forms.evaluate(statistics)
