"""The page of a search: everything at a glance, in one file that opens from disk."""

from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

from cyclesep import __version__
from cyclesep.config import settings
from cyclesep.reports.jinja import Column, clock, jinja_environment, number
from cyclesep.reports.search_figures import cost_chart, curves_chart, finals_chart, importance_chart, parallel_chart
from cyclesep.tuning.finalists import FinalistResult
from cyclesep.tuning.importance import MIN_TRIALS, common_step, importance
from cyclesep.tuning.search_result import SearchReport
from cyclesep.tuning.space import Space
from cyclesep.tuning.trial_table import TrialRow, rank

_IMPORTANCE = (
    "Functional ANOVA over a random forest, of the SDR at step {step:,}, which all ranked trials reached. "
    "With few trials read it as a hint."
)
_NO_IMPORTANCE = "Importance is told from {least} trials on that can be compared and are not all alike."


def html(report: SearchReport) -> str:
    """The page as text."""
    values = {
        "version": __version__,
        "name": report.config.name,
        "lead": _lead(report),
        "sections": [
            ("winner", "Winner"), ("trials", "Trials"), ("parameters", "Parameters"), ("cost", "Cost"), ("card", "Card")
        ],
        "verdicts": [str(verdict) for verdict in report.verdicts],
        "winner_settings": report.winner.contender.values,
        **_tables(report),
        **_charts(report),
        "failed": [f"{row.label}: {row.outcome}: {row.reason}" for row in report.rows if row.reason],
        "card": _card(report),
        "config": settings.to_dict(report.config),
    }  # fmt: skip
    return jinja_environment().get_template("search.html").render(values)


def _lead(report: SearchReport) -> str:
    early = sum(row.outcome == "stopped early" for row in report.rows)
    winner = f"{report.winner.label} wins with {number(report.winner.mean)} dB"
    return f"{len(report.rows)} trials, {early} of them stopped early; {winner} of validation SDR"


def _tables(report: SearchReport) -> dict[str, Any]:
    columns = [
        Column(name="trial"),
        Column(name="SDR", unit="dB", digits=2, meaning="validation SDR at the last step"),
        Column(name="steps", digits=0),
        Column(name="outcome"),
        Column(name="training", unit="s", digits=0, meaning="seconds of training"),
    ]
    for each in report.space.parameters:
        columns.append(Column(name=each.short_name, digits=_digits(report, each.name), meaning=each.name))
    final_columns = [
        Column(name="contender"),
        Column(name="mean", unit="dB", digits=2, meaning="mean validation SDR over seeds"),
        Column(name="spread", unit="dB", digits=2, meaning="standard deviation over seeds"),
        Column(name="seeds"),
    ]
    order = [*rank(report.rows), *(row for row in report.rows if not row.is_ranked)]
    return {
        "columns": columns,
        "rows": [_row(row, report.space) for row in order],
        "final_columns": final_columns,
        "final_rows": [_final_row(standing) for standing in report.standings],
    }


def _charts(report: SearchReport) -> dict[str, Markup | str | None]:
    best = rank(report.rows, report.config.objectives[0])
    shares = importance(report.rows, report.space)
    step = common_step(report.rows)
    told = _IMPORTANCE if shares else _NO_IMPORTANCE
    return {
        "curves": curves_chart(report.rows, best, mixture_sdr=report.yardstick.mixture_sdr),
        "parallel": parallel_chart(report.rows, best, report.space),
        "importance": importance_chart(shares, report.space) if shares else None,
        "importance_told": told.format(step=step, least=MIN_TRIALS),
        "costs": cost_chart(report.rows, best),
        "finals": finals_chart(report.standings) if report.finals else None,
    }


def _row(row: TrialRow, space: Space) -> dict[str, Any]:
    values = {each.short_name: row.values.get(each.name, "") for each in space.parameters}
    own = {
        "trial": row.label,
        "SDR": row.sdr,
        "steps": row.step,
        "outcome": row.outcome,
        "training": row.figures.get("seconds"),
    }
    return values | own


def _final_row(standing: FinalistResult) -> dict[str, Any]:
    seeds = ", ".join(f"{row.seed}: {number(row.sdr)}" for row in sorted(standing.rows, key=lambda row: row.seed))
    return {"contender": standing.label, "mean": standing.mean, "spread": standing.spread, "seeds": seeds}


def _digits(report: SearchReport, name: str) -> int | None:
    """Decimals that tell apart what was tried; None for what is no number."""
    values = [row.values[name] for row in report.rows if name in row.values]
    if not values or not all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
        return None
    smallest = min(abs(value) for value in values)
    if all(float(value).is_integer() for value in values):
        return 0
    return 5 if smallest < 1e-2 else 3


def _card(report: SearchReport) -> Mapping[str, str]:
    rows = [*report.rows, *report.finals]
    seconds = sum(row.figures.get("seconds", 0.0) for row in rows)
    hardware = sorted({row.card["hardware"] for row in rows if row.card.get("hardware")})
    return {
        "shards": report.config.train.shards,
        "validation": f"{report.yardstick.num_crops} crops, {report.yardstick.digest[:16]}",
        "SDR of the mixture on them": f"{number(report.yardstick.mixture_sdr)} dB",
        "training in all": f"{clock(seconds)} minutes",
        "trained on": ", ".join(hardware),
        "cyclesep": f"{__version__}, commit {next((row.card['commit'] for row in rows if row.card.get('commit')), '')}",
    }
