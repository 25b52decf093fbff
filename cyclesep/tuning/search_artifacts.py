"""The files of a search: each appears whole or not at all."""

import json
import math
from collections.abc import Mapping
from typing import Any

from cyclesep import __version__, checkpoints
from cyclesep.cluster import run_metadata
from cyclesep.config import settings
from cyclesep.reports.search_report import html
from cyclesep.tuning.finalists import FinalistResult
from cyclesep.tuning.search_result import SearchReport, settings_of
from cyclesep.tuning.trial_table import write_rows

BEST, TRIALS, SUMMARY, PAGE = "best.yaml", "trials.parquet", "summary.json", "report.html"
# A folder: the winner's checkpoint.
CHECKPOINT = "best"


def write(report: SearchReport) -> None:
    """Everything that a search leaves, each file whole or not at all."""
    folder = report.folder
    about = {"search": report.config.name, "validation_digest": report.yardstick.digest}
    with folder.replacing(TRIALS) as file:
        write_rows([*report.rows, *report.finals], report.space, file, **about)
    folder.write_text(BEST, _best_yaml(report))
    _keep_checkpoint(report)
    folder.write_text(SUMMARY, json.dumps(summary(report), indent=2, allow_nan=False) + "\n")
    folder.write_text(PAGE, html(report))


def _keep_checkpoint(report: SearchReport) -> None:
    """Copy the winner's checkpoint to where the folder of the search stands for it."""
    source, kept = checkpoints.located(report.winner_run), report.folder.child(CHECKPOINT)
    whole = kept.has_file(checkpoints.METADATA)
    if not (whole and checkpoints.read_metadata(kept) == checkpoints.read_metadata(source)):
        kept.delete_all()
        kept.copy_files(source, last=checkpoints.METADATA)
    checkpoints.write_run(report.folder, best=CHECKPOINT, last=CHECKPOINT)


def _best_yaml(report: SearchReport) -> str:
    told = f"{report.winner.mean:.2f} dB of validation SDR over {len(report.winner.rows)} trainings"
    lines = [
        f"# The winner of the search {report.config.name} ({report.winner.label}): {told}.",
        *(f"# {verdict}" for verdict in report.verdicts),
    ]
    return "\n".join(lines) + "\n" + settings.to_yaml(report.best)


def summary(report: SearchReport) -> dict[str, Any]:
    """What a program wants to know of a search, as plain values."""
    outcomes = [row.outcome for row in report.rows]
    return {
        "version": __version__,
        "commit": run_metadata.commit(),
        "search": settings.to_dict(report.config),
        "trials": len(report.rows),
        "outcomes": {outcome: outcomes.count(outcome) for outcome in dict.fromkeys(outcomes)},
        "training_seconds": round(sum(row.figures.get("seconds", 0.0) for row in (*report.rows, *report.finals)), 3),
        "mixture_sdr": report.yardstick.mixture_sdr,
        "validation_crops": report.yardstick.num_crops,
        "validation_digest": report.yardstick.digest,
        "winner": report.winner.label,
        "winner_settings": settings_of(report.winner),
        "winner_run": report.winner_run.uri,
        "finals": [_standing(standing) for standing in report.standings],
        "verdicts": [
            {"other": v.other, "difference": _finite(v.difference), "p": _finite(v.p), "within_noise": v.is_noise}
            for v in report.verdicts
        ],
        "front": [row.trial for row in report.front],
    }


def _standing(standing: FinalistResult) -> Mapping[str, Any]:
    return {
        "contender": standing.label,
        "settings": settings_of(standing),
        "sdr": [row.sdr for row in standing.rows],
        "seeds": [row.seed for row in standing.rows],
        "mean": _finite(standing.mean),
        "spread": _finite(standing.spread),
    }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
