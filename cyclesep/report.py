"""Tables of scores for people (terminal) and programs (JSON): medians over frames, then over tracks."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich import box
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


def summary_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Rows of one company as a table for the terminal; 80 columns hold it."""
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=0)
    for heading in ("target", "system"):
        table.add_column(heading, no_wrap=True)
    for heading in (*METRICS, "tracks", "NaN"):
        table.add_column(heading, justify="right", no_wrap=True)
    before = None
    for row in rows:
        if before not in (None, row["target"]):
            table.add_section()
        values = ["-" if row[metric] is None else f"{row[metric]:.2f}" for metric in METRICS]
        name = row["target"] if row["target"] != before else ""
        table.add_row(name, row["system"], *values, str(row["tracks"]), str(row["nan_frames"]))
        before = row["target"]
    return table


def print_summary(table: ScoreTable, *, console: Console, title: str = "") -> None:
    """Print a score table: one table for each split and company, and what the columns mean."""
    rows = summary_rows(table)
    if not rows:
        console.print("nothing was scored")
        return
    if title:
        console.print(title)
    groups = list(dict.fromkeys((row["split"], row["scored_with"]) for row in rows))
    for split, company in groups:
        console.print(f"\n{split}: {company.replace('+', ', ')} scored together", highlight=False)
        console.print(summary_table([row for row in rows if (row["split"], row["scored_with"]) == (split, company)]))
    console.print(f"\n{_legend(rows)}", highlight=False)


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


def _legend(rows: Sequence[Mapping[str, Any]]) -> str:
    told = (
        "dB. SDR, ISR, SIR, SAR as museval v4: median over frames, then over tracks; SI-SDR: median over tracks; "
        "uSDR: mean over tracks. NaN: frames without a value, where something is silent."
    )
    left_out = max(row["tracks_left_out"] for row in rows)
    return f"{told} Up to {left_out} tracks without a finite value are left out." if left_out else told
