"""The HTML report of a hyperparameter search."""

from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

from cyclesep import __version__
from cyclesep.config import settings
from cyclesep.reports.jinja import Column, clock, number, write_page
from cyclesep.reports.search_figures import (
    cost_figure,
    finals_figure,
    importance_figure,
    learning_curves_figure,
    parallel_figure,
)
from cyclesep.tuning.finals import FinalistResult
from cyclesep.tuning.importance import MIN_TRIALS, common_step, parameter_importance
from cyclesep.tuning.search_result import SearchResult
from cyclesep.tuning.space import Space
from cyclesep.tuning.trial_table import TrialRow, rank_trials, ranked_first

_IMPORTANCE = (
    "Functional ANOVA over a random forest, of the SDR at step {step:,}, which all ranked trials reached. "
    "With few trials this is only a rough indication."
)
_NO_IMPORTANCE = "Importance is computed from {min_trials} ranked trials with different values on."
_SECTIONS = [
    ("winner", "Winner"), ("trials", "Trials"), ("parameters", "Parameters"), ("cost", "Cost"), ("card", "Details")
]  # fmt: skip


def write_search_report(result: SearchResult) -> str:
    """Write report.html into the folder of a search and return its location."""
    values = {
        "version": __version__,
        "name": result.config.name,
        "lead": _lead(result),
        "sections": _SECTIONS,
        "comparisons": [str(comparison) for comparison in result.significance],
        "winner_settings": result.winner.finalist.values,
        **_tables(result),
        **_figures(result),
        "failed": [f"{row.label}: {row.outcome}: {row.reason}" for row in result.trials if row.reason],
        "card": _card(result),
        "config": settings.to_dict(result.config),
    }
    return write_page(result.folder, "search.html", values)


def _lead(result: SearchResult) -> str:
    early = sum(row.outcome == "stopped early" for row in result.trials)
    winner = f"winner: {result.winner.label} with a validation SDR of {number(result.winner.mean)} dB"
    return f"{len(result.trials)} trials, {early} of them stopped early; {winner}"


def _tables(result: SearchResult) -> dict[str, Any]:
    columns = [
        Column(name="trial"),
        Column(name="SDR", unit="dB", digits=2, meaning="validation SDR at the last step"),
        Column(name="steps", digits=0),
        Column(name="outcome"),
        Column(name="training", unit="s", digits=0, meaning="training time in seconds"),
    ]
    for each in result.space.parameters:
        columns.append(Column(name=each.short_name, digits=_digits(result, each.name), meaning=each.name))
    final_columns = [
        Column(name="finalist"),
        Column(name="mean", unit="dB", digits=2, meaning="mean validation SDR over seeds"),
        Column(name="std", unit="dB", digits=2, meaning="standard deviation over seeds"),
        Column(name="seeds"),
    ]
    return {
        "columns": columns,
        "rows": [_trial_cells(row, result.space) for row in ranked_first(result.trials)],
        "final_columns": final_columns,
        "final_rows": [_finalist_cells(finalist) for finalist in result.ranking],
    }


def _figures(result: SearchResult) -> dict[str, Markup | str | None]:
    trials, best = result.trials, rank_trials(result.trials, result.config.objectives[0])
    fractions = parameter_importance(trials, result.space)
    note = _IMPORTANCE if fractions else _NO_IMPORTANCE
    return {
        "curves": learning_curves_figure(trials, best, mixture_sdr=result.baseline.mixture_sdr),
        "parallel": parallel_figure(trials, best, result.space),
        "importance": importance_figure(fractions, result.space) if fractions else None,
        "importance_note": note.format(step=common_step(trials), min_trials=MIN_TRIALS),
        "costs": cost_figure(trials, best),
        "finals": finals_figure(result.ranking) if result.finals else None,
    }


def _trial_cells(row: TrialRow, space: Space) -> dict[str, Any]:
    values = {each.short_name: row.values.get(each.name, "") for each in space.parameters}
    own = {
        "trial": row.label,
        "SDR": row.sdr,
        "steps": row.step,
        "outcome": row.outcome,
        "training": row.metrics.get("seconds"),
    }
    return values | own


def _finalist_cells(result: FinalistResult) -> dict[str, Any]:
    seeds = ", ".join(f"{row.seed}: {number(row.sdr)}" for row in sorted(result.rows, key=lambda row: row.seed))
    return {"finalist": result.label, "mean": result.mean, "std": result.std, "seeds": seeds}


def _digits(result: SearchResult, name: str) -> int | None:
    """Return the decimals that distinguish the values of a parameter; None if they are not numbers."""
    values = [row.values[name] for row in result.trials if name in row.values]
    if not values or not all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
        return None
    if all(float(value).is_integer() for value in values):
        return 0
    return 5 if min(abs(value) for value in values) < 1e-2 else 3


def _card(result: SearchResult) -> Mapping[str, str]:
    rows = [*result.trials, *result.finals]
    seconds = sum(row.metrics.get("seconds", 0.0) for row in rows)
    hardware = sorted({row.origin["hardware"] for row in rows if row.origin.get("hardware")})
    commit = next((row.origin["commit"] for row in rows if row.origin.get("commit")), "")
    return {
        "shards": result.config.train.shards,
        "validation": f"{result.baseline.num_crops} crops, SHA-256 {result.baseline.digest[:16]}",
        "SDR of the mixture": f"{number(result.baseline.mixture_sdr)} dB",
        "total training time": f"{clock(seconds)} minutes",
        "hardware": ", ".join(hardware),
        "cyclesep": f"{__version__}, commit {commit}",
    }
