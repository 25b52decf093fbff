"""What a search prints when it is done: the trials, the finals, the winner."""

from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from cyclesep.console.terminal_table import plain_table
from cyclesep.storage.uri import display_path
from cyclesep.tuning.finalists import FinalistResult
from cyclesep.tuning.search_artifacts import BEST, PAGE, TRIALS
from cyclesep.tuning.search_result import SearchReport, settings_of
from cyclesep.tuning.space import Space
from cyclesep.tuning.trial_table import TrialRow, rank


def print_search(report: SearchReport, *, console: Console) -> None:
    """Print the trials, best first, the finals with their spread, and who won by how much."""
    console.print(trials_table(report.rows, report.space))
    reasons = [row for row in report.rows if row.reason]
    for row in reasons:
        console.print(f"{row.label} {row.outcome}: {row.reason}", highlight=False, markup=False, soft_wrap=True)
    if report.front:
        names = ", ".join(row.label for row in report.front)
        told = f"no other trial is better in {' and '.join(report.config.objectives)} at once than: {names}"
        console.print(told, highlight=False, soft_wrap=True)
    if report.finals:
        console.print()
        console.print(finals_table(report.standings))
    console.print()
    for line in _conclusion(report):
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def trials_table(rows: Sequence[TrialRow], space: Space) -> Table:
    """Rows in the order of their rank, those that cannot be ranked last."""
    right = ("SDR", "steps", "s", *(parameter.short_name for parameter in space.parameters))
    table = plain_table("trial", right=right)
    table.add_column(" outcome", no_wrap=True)
    for row in [*rank(rows), *(row for row in rows if not row.is_ranked)]:
        seconds = row.figures.get("seconds")
        values = [_told(row.values.get(parameter.name)) for parameter in space.parameters]
        figures = [_decibels(row.sdr), str(row.step), "-" if seconds is None else f"{seconds:.0f}"]
        table.add_row(row.label, *figures, *values, f" {row.outcome}")
    return table


def finals_table(standings: Sequence[FinalistResult]) -> Table:
    """Contenders, best first."""
    table = plain_table("finals", right=("mean SDR", "spread", "trainings"))
    for standing in standings:
        table.add_row(standing.label, _decibels(standing.mean), _decibels(standing.spread), str(len(standing.rows)))
    return table


def _conclusion(report: SearchReport) -> list[str]:
    winner, folder = report.winner, display_path(report.folder.uri)
    changes = ", ".join(f"{name}={_told(value)}" for name, value in settings_of(winner).items())
    told = f"validation SDR {winner.mean:.2f} dB, the mixture's own {report.yardstick.mixture_sdr:.2f} dB"
    return [
        f"winner: {winner.label} ({changes or 'the default; no trial was better'}); {told}",
        *(f"winner: {verdict}" for verdict in report.verdicts),
        f"train it: cyclesep train {folder}/{BEST}",
        f"{folder}/{PAGE} shows it all, {folder}/{TRIALS} holds it",
    ]


def _decibels(value: float) -> str:
    return "-" if value != value else f"{value:.2f}"


def _told(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.3g}" if isinstance(value, float) else str(value)
