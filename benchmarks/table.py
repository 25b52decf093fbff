"""What a benchmark gives: ways of doing one thing, each with its rate, and the ratio to one of them."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table as RichTable

from cyclesep.cluster import run_metadata
from cyclesep.console.terminal_table import plain_table
from cyclesep.storage.atomic_io import write_text


@dataclass(frozen=True, kw_only=True)
class Row:
    """One way of doing it: `rate` in the table's unit, more is better; NaN for a way that could not be measured."""

    way: str
    rate: float
    columns: Mapping[str, float | str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Table:
    """Ways measured in one run on the same input; ratios are to the row whose way is `baseline`."""

    title: str
    unit: str
    baseline: str
    rows: tuple[Row, ...]

    def ratio(self, row: Row) -> float:
        """The rate of a row over that of the baseline; NaN if either was not measured."""
        base = next((other.rate for other in self.rows if other.way == self.baseline), math.nan)
        return row.rate / base if base else math.nan

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the further columns, in the order in which rows first have them."""
        return tuple(dict.fromkeys(name for row in self.rows for name in row.columns))

    def print(self, console: Console | None = None) -> None:
        """Print title and rows to the terminal, or to `console`."""
        console = console or Console()
        console.print(f"\n{self.title}", highlight=False, markup=False)
        console.print(self._drawn())

    def to_json(self) -> list[dict[str, Any]]:
        """One plain dictionary per row: table, way, rate, unit, ratio, baseline and the further columns."""
        return [
            {
                "table": self.title,
                "way": row.way,
                "rate": _finite(row.rate),
                "unit": self.unit,
                "ratio": _finite(self.ratio(row)),
                "baseline": self.baseline,
                **{name: _finite(value) for name, value in row.columns.items()},
            }
            for row in self.rows
        ]

    def _drawn(self) -> RichTable:
        drawn = plain_table("way")
        for heading in (self.unit, "ratio", *self.columns):
            texts = [row.columns[heading] for row in self.rows if heading in row.columns]
            are_words = bool(texts) and all(isinstance(text, str) for text in texts)
            drawn.add_column(heading, justify="left" if are_words else "right")
        for row in self.rows:
            values = [row.rate, self.ratio(row), *(row.columns.get(name, "") for name in self.columns)]
            drawn.add_row(row.way, *(_shown(value) for value in values))
        return drawn


def publish(tables: Sequence[Table], json_path: Path | None = None) -> None:
    """Print tables below a line that says on what and by which code; write their rows as one JSON list if asked.

    Each row of the file stands for itself: it names commit and hardware too. Raises StorageError if the file cannot be
    written; it appears whole or not at all.
    """
    where = {"commit": run_metadata.commit() or "unknown", "hardware": run_metadata.machine()}
    console = Console()
    if not console.is_terminal:
        # A file has no edge to break lines at.
        console = Console(width=200)
    console.print(f"commit {where['commit']}, {where['hardware']}", highlight=False, markup=False)
    for table in tables:
        table.print(console)
    if json_path is not None:
        rows = [{**row, **where} for table in tables for row in table.to_json()]
        write_text(json_path, json.dumps(rows, indent=2, allow_nan=False, ensure_ascii=False) + "\n")


def _finite(value: float | str) -> float | str | None:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _shown(value: float | str) -> str:
    if isinstance(value, str):
        return value
    if not math.isfinite(value):
        return "-"
    # Three digits tell what there is to tell; timings repeat no better.
    decimals = max(0, 2 - math.floor(math.log10(abs(value)))) if value else 0
    return f"{value:,.{min(decimals, 4)}f}"
