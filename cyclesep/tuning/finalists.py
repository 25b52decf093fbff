"""The best trials once more, with several seeds and beside the default: who wins, and is it more than noise?"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.stats

from cyclesep.tuning.trial_table import TrialRow, rank

# What the settings that all trials started from are called.
DEFAULT = "default"

# Two-sided, of Welch's t-test.
SIGNIFICANT = 0.05


@dataclass(frozen=True, kw_only=True)
class Contender:
    """Settings that take part in the finals."""

    label: str
    """The trial that they come from, or `default`."""
    values: Mapping[str, Any]
    """By dotted name, as a config holds them."""


@dataclass(frozen=True, kw_only=True)
class FinalistResult:
    """What a contender has reached over its seeds."""

    contender: Contender
    rows: tuple[TrialRow, ...]
    """Its trainings that came to their end, best first."""
    mean: float
    """SDR in dB over seeds; NaN without any."""
    spread: float
    """Standard deviation over seeds; NaN with fewer than two."""

    @property
    def label(self) -> str:
        """Of the contender."""
        return self.contender.label


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """The winner beside another contender."""

    other: str
    difference: float
    """Mean SDR of the winner less the other's, dB."""
    p: float
    """Welch's t-test over seeds (B. L. Welch, Biometrika 34, 1947), two-sided; NaN where there are too few."""

    @property
    def is_noise(self) -> bool:
        """Whether other seeds might turn it round; unknown counts as noise."""
        return not self.p < SIGNIFICANT

    def __str__(self) -> str:
        if np.isnan(self.p):
            doubt = "within noise, as far as so few seeds can tell"
        else:
            size = "within noise" if self.is_noise else "more than noise"
            doubt = f"{size} (Welch's t-test over seeds, p={self.p:.3f})"
        return f"{self.difference:+.2f} dB against {self.other}: {doubt}"


def standings(contenders: Sequence[Contender], finals: Sequence[TrialRow]) -> list[FinalistResult]:
    """Contenders by mean SDR over seeds, best first; those with fewer completed trainings come after all others."""
    found = []
    for number, contender in enumerate(contenders):
        completed = [row for row in finals if row.contender == number and row.outcome == "completed"]
        values = np.array([row.sdr for row in completed])
        found.append(
            FinalistResult(
                contender=contender,
                rows=tuple(rank(completed)),
                mean=float(values.mean()) if len(values) else float("nan"),
                spread=float(values.std(ddof=1)) if len(values) > 1 else float("nan"),
            )
        )
    return sorted(
        found, key=lambda standing: (len(standing.rows), standing.mean if standing.rows else 0.0), reverse=True
    )


def verdicts(ranked: Sequence[FinalistResult]) -> list[Verdict]:
    """The first of the standings beside each of the others that have been trained."""
    first = [row.sdr for row in ranked[0].rows]
    found = []
    for other in (standing for standing in ranked[1:] if standing.rows):
        second = [row.sdr for row in other.rows]
        enough = min(len(first), len(second)) > 1 and np.ptp(first) + np.ptp(second) > 0
        p = float(scipy.stats.ttest_ind(first, second, equal_var=False).pvalue) if enough else float("nan")
        found.append(Verdict(other=other.label, difference=ranked[0].mean - other.mean, p=p))
    return found
