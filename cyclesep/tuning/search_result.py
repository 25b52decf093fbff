"""The result of a search, and its files, each written atomically."""

import json
import math
from dataclasses import dataclass
from typing import Any

from cyclesep import __version__
from cyclesep.checkpoints.metadata import METADATA_FILE, read_metadata
from cyclesep.checkpoints.run_folder import find_checkpoint, find_run
from cyclesep.cluster import run_metadata
from cyclesep.config import settings
from cyclesep.storage.path import StoragePath
from cyclesep.training.config import TrainConfig
from cyclesep.tuning.config import TuneConfig
from cyclesep.tuning.finals import FinalistResult, SignificanceResult
from cyclesep.tuning.space import Space
from cyclesep.tuning.trial_table import TrialRow, write_rows
from cyclesep.tuning.validation_set import ValidationBaseline

BEST, TRIALS, SUMMARY = "best.yaml", "trials.parquet", "summary.json"
# Folder of the winner's checkpoint.
CHECKPOINT = "best"


@dataclass(frozen=True, kw_only=True)
class SearchResult:
    """Trials, finals and winner of a search."""

    folder: StoragePath
    config: TuneConfig
    space: Space
    baseline: ValidationBaseline
    trials: tuple[TrialRow, ...]
    """Trials of the search, in the order of their start."""
    finals: tuple[TrialRow, ...]
    """Training runs of the finalists."""
    ranking: tuple[FinalistResult, ...]
    """Finalists, best first; without finals the best trial alone."""
    significance: tuple[SignificanceResult, ...]
    """The winner compared with each other finalist."""
    pareto_front: tuple[TrialRow, ...]
    """With several objectives: trials that no other one dominates."""
    best: TrainConfig
    """Training config of the winner."""
    winner_run: StoragePath
    """Run folder of the winner's best training run."""

    @property
    def winner(self) -> FinalistResult:
        """The best finalist."""
        return self.ranking[0]


def write_result(result: SearchResult) -> None:
    """Write the trial table, the winner's config and checkpoint, and the summary."""
    folder = result.folder
    constants = {"search": result.config.name, "validation_digest": result.baseline.digest}
    with folder.replacing(TRIALS) as file:
        write_rows([*result.trials, *result.finals], result.space, file, **constants)
    folder.write_text(BEST, _best_yaml(result))
    _copy_checkpoint(result)
    folder.write_text(SUMMARY, json.dumps(summarize(result), indent=2, allow_nan=False) + "\n")


def summarize(result: SearchResult) -> dict[str, Any]:
    """Return the content of summary.json: settings, outcomes, winner and finals as plain values."""
    outcomes = [row.outcome for row in result.trials]
    rows = (*result.trials, *result.finals)
    return {
        "version": __version__,
        "commit": run_metadata.commit(),
        "search": settings.to_dict(result.config),
        "trials": len(result.trials),
        "outcomes": {outcome: outcomes.count(outcome) for outcome in dict.fromkeys(outcomes)},
        "training_seconds": round(sum(row.metrics.get("seconds", 0.0) for row in rows), 3),
        "mixture_sdr": result.baseline.mixture_sdr,
        "validation_crops": result.baseline.num_crops,
        "validation_digest": result.baseline.digest,
        "winner": result.winner.label,
        "winner_settings": result.winner.plain_settings,
        "winner_run": result.winner_run.uri,
        "finals": [_finalist_summary(finalist) for finalist in result.ranking],
        "significance": [
            {
                "other": each.other,
                "difference": _finite(each.difference),
                "p": _finite(each.p),
                "is_significant": each.is_significant,
            }
            for each in result.significance
        ],
        "pareto_front": [row.trial for row in result.pareto_front],
    }


def _copy_checkpoint(result: SearchResult) -> None:
    """Copy the winner's checkpoint into the folder of the search, which is then used like a run folder."""
    source, copy = find_checkpoint(result.winner_run), result.folder.child(CHECKPOINT)
    is_complete = copy.has_file(METADATA_FILE)
    if not (is_complete and read_metadata(copy) == read_metadata(source)):
        copy.delete_all()
        copy.copy_files(source, last=METADATA_FILE)
    find_run(result.folder).write_result(best=CHECKPOINT, last=CHECKPOINT)


def _best_yaml(result: SearchResult) -> str:
    winner = result.winner
    score = f"validation SDR {winner.mean:.2f} dB, mean of {len(winner.rows)} runs"
    lines = [
        f"# Winner of the search {result.config.name} ({winner.label}): {score}.",
        *(f"# {comparison}" for comparison in result.significance),
    ]
    return "\n".join(lines) + "\n" + settings.to_yaml(result.best)


def _finalist_summary(result: FinalistResult) -> dict[str, Any]:
    return {
        "finalist": result.label,
        "settings": result.plain_settings,
        "sdr": [row.sdr for row in result.rows],
        "seeds": [row.seed for row in result.rows],
        "mean": _finite(result.mean),
        "std": _finite(result.std),
    }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
