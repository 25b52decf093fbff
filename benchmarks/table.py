"""Results of a benchmark: methods with their rates, and ratios to a baseline."""

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
    """One method: `rate` in the table's unit, higher is better; NaN if it could not be measured."""

    method: str
    rate: float
    columns: Mapping[str, float | str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Table:
    """Methods measured in one run on the same input; ratios are relative to the method `baseline`."""

    title: str
    unit: str
    baseline: str
    rows: tuple[Row, ...]

    def ratio(self, row: Row) -> float:
        """Return the rate of a row over that of the baseline; NaN if either was not measured."""
        base = next((other.rate for other in self.rows if other.method == self.baseline), math.nan)
        return row.rate / base if base else math.nan

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the additional columns, in the order in which they first occur."""
        return tuple(dict.fromkeys(name for row in self.rows for name in row.columns))

    def print(self, console: Console | None = None) -> None:
        """Print title and rows to the terminal, or to `console`."""
        console = console or Console()
        console.print(f"\n{self.title}", highlight=False, markup=False)
        console.print(self._to_rich())

    def to_json(self) -> list[dict[str, Any]]:
        """Return one dictionary per row: table, method, rate, unit, ratio, baseline and the additional columns."""
        return [
            {
                "table": self.title,
                "method": row.method,
                "rate": _finite(row.rate),
                "unit": self.unit,
                "ratio": _finite(self.ratio(row)),
                "baseline": self.baseline,
                **{name: _finite(value) for name, value in row.columns.items()},
            }
            for row in self.rows
        ]

    def _to_rich(self) -> RichTable:
        rich_table = plain_table("method")
        for heading in (self.unit, "ratio", *self.columns):
            texts = [row.columns[heading] for row in self.rows if heading in row.columns]
            are_words = bool(texts) and all(isinstance(text, str) for text in texts)
            rich_table.add_column(heading, justify="left" if are_words else "right")
        for row in self.rows:
            values = [row.rate, self.ratio(row), *(row.columns.get(name, "") for name in self.columns)]
            rich_table.add_row(row.method, *(_format(value) for value in values))
        return rich_table


def publish(tables: Sequence[Table], json_path: Path | None = None) -> None:
    """Print commit, hardware and tables; with `json_path`, also write all rows as one JSON list.

    Each row in the file contains commit and hardware. The file is written atomically. Raises StorageError if it cannot
    be written.
    """
    where = {"commit": run_metadata.commit() or "unknown", "hardware": run_metadata.machine()}
    console = Console()
    if not console.is_terminal:
        # Do not wrap lines in a file.
        console = Console(width=200)
    console.print(f"commit {where['commit']}, {where['hardware']}", highlight=False, markup=False)
    for table in tables:
        table.print(console)
    if json_path is not None:
        rows = [{**row, **where} for table in tables for row in table.to_json()]
        write_text(json_path, json.dumps(rows, indent=2, allow_nan=False, ensure_ascii=False) + "\n")


def _finite(value: float | str) -> float | str | None:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _format(value: float | str) -> str:
    if isinstance(value, str):
        return value
    if not math.isfinite(value):
        return "-"
    # Three significant digits; timings are not more reproducible.
    decimals = max(0, 2 - math.floor(math.log10(abs(value)))) if value else 0
    return f"{value:,.{min(decimals, 4)}f}"
