"""What a search has found."""

from dataclasses import dataclass
from typing import Any

from cyclesep.evaluation.evaluate import EvaluationReport
from cyclesep.storage.path import StoragePath
from cyclesep.training.config import TrainConfig
from cyclesep.tuning.config import TuneConfig
from cyclesep.tuning.finalists import FinalistResult, Verdict
from cyclesep.tuning.space import Space
from cyclesep.tuning.trial_table import TrialRow
from cyclesep.tuning.validation_set import ValidationBaseline


@dataclass(frozen=True, kw_only=True)
class SearchReport:
    """The trials, the finals and the winner."""

    folder: StoragePath
    space: Space
    yardstick: ValidationBaseline
    config: TuneConfig
    rows: tuple[TrialRow, ...]
    """The trials of the search, in the order in which they began."""
    finals: tuple[TrialRow, ...]
    standings: tuple[FinalistResult, ...]
    """The finals, best first; without finals the best trial alone."""
    verdicts: tuple[Verdict, ...]
    front: tuple[TrialRow, ...]
    """With several objectives: trials that no other one beats in all of them."""
    best: TrainConfig
    winner_run: StoragePath
    """The run folder of the winner's best training."""
    scores: EvaluationReport | None = None

    @property
    def winner(self) -> FinalistResult:
        """Who won."""
        return self.standings[0]


def settings_of(standing: FinalistResult) -> dict[str, Any]:
    """What a contender changes, as plain values."""
    values = standing.contender.values.items()
    return {name: list(value) if isinstance(value, tuple) else value for name, value in values}
