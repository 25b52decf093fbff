"""The finals: the best trials and the default settings, each trained with several seeds, ranked and compared."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.stats

from cyclesep.tuning.trial_table import TrialRow, rank_trials

# Label of the settings of `train`, without changes.
DEFAULT = "default"

# Two-sided level of Welch's t-test.
SIGNIFICANCE_LEVEL = 0.05


@dataclass(frozen=True, kw_only=True)
class Finalist:
    """Settings that take part in the finals."""

    label: str
    """Label of their trial, or `default`."""
    values: Mapping[str, Any]
    """By dotted name, as in a config."""


@dataclass(frozen=True, kw_only=True)
class FinalistResult:
    """Scores of a finalist over its seeds."""

    finalist: Finalist
    rows: tuple[TrialRow, ...]
    """Its completed training runs, best first."""
    mean: float
    """Mean SDR in dB over seeds; NaN without any."""
    std: float
    """Standard deviation over seeds; NaN with fewer than two."""

    @property
    def label(self) -> str:
        """Label of the finalist."""
        return self.finalist.label

    @property
    def plain_settings(self) -> dict[str, Any]:
        """Settings that differ from the default, as plain values."""
        values = self.finalist.values.items()
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values}


@dataclass(frozen=True, kw_only=True)
class SignificanceResult:
    """The winner compared with another finalist."""

    other: str
    difference: float
    """Mean SDR of the winner minus that of the other, in dB."""
    p: float
    """Two-sided p-value of Welch's t-test over seeds (B. L. Welch, Biometrika 34, 1947); NaN with too few seeds."""

    @property
    def is_significant(self) -> bool:
        """Whether the difference is significant; false if unknown."""
        return self.p < SIGNIFICANCE_LEVEL

    def __str__(self) -> str:
        if np.isnan(self.p):
            significance = "too few seeds for a significance test"
        else:
            conclusion = "significant" if self.is_significant else "within noise"
            significance = f"{conclusion} (Welch's t-test over seeds, p={self.p:.3f})"
        return f"{self.difference:+.2f} dB compared with {self.other}: {significance}"


def rank_finalists(finalists: Sequence[Finalist], rows: Sequence[TrialRow]) -> list[FinalistResult]:
    """Return finalists by mean SDR over seeds, best first; those with fewer completed runs come last."""
    results = []
    for index, finalist in enumerate(finalists):
        completed = [row for row in rows if row.finalist == index and row.outcome == "completed"]
        values = np.array([row.sdr for row in completed])
        results.append(
            FinalistResult(
                finalist=finalist,
                rows=tuple(rank_trials(completed)),
                mean=float(values.mean()) if len(values) else float("nan"),
                std=float(values.std(ddof=1)) if len(values) > 1 else float("nan"),
            )
        )
    return sorted(results, key=lambda result: (len(result.rows), result.mean if result.rows else 0.0), reverse=True)


def compare_with_winner(ranked: Sequence[FinalistResult]) -> list[SignificanceResult]:
    """Compare the first finalist with each of the others that have completed runs."""
    winner = [row.sdr for row in ranked[0].rows]
    results = []
    for other in ranked[1:]:
        if not other.rows:
            continue
        values = [row.sdr for row in other.rows]
        testable = min(len(winner), len(values)) > 1 and np.ptp(winner) + np.ptp(values) > 0
        p = float(scipy.stats.ttest_ind(winner, values, equal_var=False).pvalue) if testable else float("nan")
        results.append(SignificanceResult(other=other.label, difference=ranked[0].mean - other.mean, p=p))
    return results
