"""Tables of scores for people (terminal) and programs (JSON): medians over frames, then over tracks."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from cyclesep.files import write_text
from cyclesep.scoring import ScoreTable, Summary

# uSDR is reported as a mean over tracks, everything else as a median.
METRICS = {"SDR": "median", "ISR": "median", "SIR": "median", "SAR": "median", "SI-SDR": "median", "uSDR": "mean"}


def summary_rows(table: ScoreTable) -> list[dict[str, Any]]:
    """Plain rows, one for each split, target, company and system: the metrics in dB, tracks and NaN frames.

    The company is who a target was scored with: vocals beside three stems and vocals beside the accompaniment are two
    rows. Rows of one target stand together, systems in the order of the table. A metric without a finite value is None.
    """
    summaries: dict[tuple[str, str, str, str], list[Summary]] = {}
    for summary in table.summary():
        summaries.setdefault((summary.split, summary.scored_with, summary.target, summary.system), []).append(summary)
    order = [list(dict.fromkeys(key[place] for key in summaries)) for place in range(4)]
    ordered = sorted(summaries, key=lambda key: [names.index(name) for names, name in zip(order, key, strict=True)])
    return [_row(key, summaries[key]) for key in ordered]


def summary_table(rows: Sequence[Mapping[str, Any]], *, title: str = "") -> Table:
    """The rows as a table for the terminal."""
    table = Table(title=title or None, title_justify="left", caption_justify="left", caption=_caption(rows))
    companies = len({row["scored_with"] for row in rows}) > 1
    for heading in ("target", *(["beside"] if companies else []), "system"):
        table.add_column(heading, overflow="fold")
    for heading in (*METRICS, "tracks", "NaN frames"):
        table.add_column(heading, justify="right", no_wrap=True)
    for number, row in enumerate(rows):
        last = number + 1 == len(rows) or _group(rows[number + 1]) != _group(row)
        first = number == 0 or _group(rows[number - 1]) != _group(row)
        names = [row["target"] if first else ""] + ([_beside(row) if first else ""] if companies else [])
        values = ["-" if row[metric] is None else f"{row[metric]:.2f}" for metric in METRICS]
        table.add_row(*names, row["system"], *values, str(row["tracks"]), str(row["nan_frames"]), end_section=last)
    return table


def print_summary(table: ScoreTable, *, console: Console, title: str = "") -> None:
    """Print the table of a score table."""
    rows = summary_rows(table)
    console.print(summary_table(rows, title=title) if rows else "nothing was scored")


def write_summary(path: Path, table: ScoreTable, **about: Any) -> None:
    """Write the rows, and what else is told by name, as JSON; values that are not finite become null."""
    text = json.dumps({**about, "scores": summary_rows(table)}, indent=2, allow_nan=False, ensure_ascii=False)
    write_text(path, text + "\n")


def _row(key: tuple[str, str, str, str], summaries: Sequence[Summary]) -> dict[str, Any]:
    split, scored_with, target, system = key
    found = {summary.metric: summary for summary in summaries}
    values = {metric: _finite(getattr(found[metric], kind)) for metric, kind in METRICS.items() if metric in found}
    framed = found.get("SDR", summaries[0])
    return {
        "system": system,
        "split": split,
        "target": target,
        "scored_with": scored_with,
        **{metric: values.get(metric) for metric in METRICS},
        "tracks": framed.tracks,
        "tracks_left_out": framed.tracks_left_out,
        "frames": framed.frames,
        "nan_frames": framed.nan_frames,
    }


def _finite(value: float) -> float | None:
    return round(value, 6) if math.isfinite(value) else None


def _group(row: Mapping[str, Any]) -> tuple[str, str, str]:
    return row["split"], row["scored_with"], row["target"]


def _beside(row: Mapping[str, Any]) -> str:
    return ", ".join(name for name in row["scored_with"].split("+") if name != row["target"])


def _caption(rows: Sequence[Mapping[str, Any]]) -> str:
    told = (
        "dB; SDR, ISR, SIR, SAR as museval v4: median over frames, then tracks; SI-SDR: median over tracks; uSDR: mean"
    )
    left_out = max((row["tracks_left_out"] for row in rows), default=0)
    return f"{told}; up to {left_out} tracks without a finite value are left out" if left_out else told
