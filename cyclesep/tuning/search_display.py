"""Terminal output at the end of a search: the trials, the finals and the winner."""

from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from cyclesep.console.terminal_table import plain_table
from cyclesep.storage.uri import display_path
from cyclesep.tuning.finals import FinalistResult
from cyclesep.tuning.search_result import BEST, TRIALS, SearchResult
from cyclesep.tuning.space import Space
from cyclesep.tuning.trial_table import TrialRow, ranked_first


def print_search(result: SearchResult, *, console: Console) -> None:
    """Print the trials, best first, the finals, and the winner with its lead over the other finalists."""
    console.print(trials_table(result.trials, result.space))
    for row in result.trials:
        if row.reason:
            console.print(f"{row.label} {row.outcome}: {row.reason}", highlight=False, markup=False, soft_wrap=True)
    if result.pareto_front:
        labels = ", ".join(row.label for row in result.pareto_front)
        objectives = ", ".join(result.config.objectives)
        console.print(f"Pareto front for {objectives}: {labels}", highlight=False, soft_wrap=True)
    if result.finals:
        console.print()
        console.print(finals_table(result.ranking))
    console.print()
    for line in _conclusion(result):
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def trials_table(rows: Sequence[TrialRow], space: Space) -> Table:
    """Return a table of the trials: the ranked ones, best first, then the others."""
    right = ("SDR", "steps", "s", *(parameter.short_name for parameter in space.parameters))
    table = plain_table("trial", right=right)
    table.add_column(" outcome", no_wrap=True)
    for row in ranked_first(rows):
        seconds = row.metrics.get("seconds")
        values = [_format_value(row.values.get(parameter.name)) for parameter in space.parameters]
        metrics = [_format_db(row.sdr), str(row.step), "-" if seconds is None else f"{seconds:.0f}"]
        table.add_row(row.label, *metrics, *values, f" {row.outcome}")
    return table


def finals_table(ranking: Sequence[FinalistResult]) -> Table:
    """Return a table of the finalists, best first."""
    table = plain_table("finals", right=("mean SDR", "std", "runs"))
    for result in ranking:
        table.add_row(result.label, _format_db(result.mean), _format_db(result.std), str(len(result.rows)))
    return table


def _conclusion(result: SearchResult) -> list[str]:
    winner, folder = result.winner, display_path(result.folder.uri)
    changes = ", ".join(f"{name}={_format_value(value)}" for name, value in winner.plain_settings.items())
    score = f"validation SDR {winner.mean:.2f} dB, mixture {result.baseline.mixture_sdr:.2f} dB"
    return [
        f"winner: {winner.label} ({changes or 'default settings; no trial was better'}); {score}",
        *(f"winner: {comparison}" for comparison in result.significance),
        f"train it: cyclesep train {folder}/{BEST}",
        f"all trials: {folder}/{TRIALS}",
    ]


def _format_db(value: float) -> str:
    return "-" if value != value else f"{value:.2f}"


def _format_value(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.3g}" if isinstance(value, float) else str(value)
