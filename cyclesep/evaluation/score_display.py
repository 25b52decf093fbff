"""Score tables for the terminal and as JSON."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from cyclesep.console.terminal_table import plain_table
from cyclesep.evaluation.aggregate import AggregateTable
from cyclesep.evaluation.compare import SIGNIFICANT, ComparisonResult, Difference
from cyclesep.evaluation.track_scores import METRICS, TrackScores, summary_rows
from cyclesep.metrics import FRAME_METRICS


def summary_table(rows: Sequence[Mapping[str, Any]], metrics: Sequence[str] = METRICS) -> Table:
    """Return the rows of one scoring group as a table for the terminal; fits into 80 columns."""
    table = plain_table("target", "system", right=(*metrics, "tracks", "NaN"), gap=0)
    previous = None
    for row in rows:
        if previous not in (None, row["target"]):
            table.add_section()
        values = ["-" if row[metric] is None else f"{row[metric]:.2f}" for metric in metrics]
        name = row["target"] if row["target"] != previous else ""
        table.add_row(name, row["system"], *values, str(row["tracks"]), str(row["nan_frames"]))
        previous = row["target"]
    return table


def print_summary(table: TrackScores, *, console: Console, title: str = "") -> None:
    """Print a table for each split and scoring group, and a legend."""
    rows = summary_rows(table)
    if not rows:
        console.print("nothing was scored")
        return
    if title:
        console.print(title)
    groups = dict.fromkeys((row["split"], row["scoring_group"]) for row in rows)
    for split, group in groups:
        console.print(f"\n{split}: {group.replace('+', ', ')} scored together", highlight=False)
        console.print(summary_table([row for row in rows if (row["split"], row["scoring_group"]) == (split, group)]))
    console.print(f"\n{_legend(rows)}", highlight=False)


def print_comparison(comparison: ComparisonResult, *, min_effect_db: float, console: Console) -> None:
    """Print the compared systems, and each difference from the first one with its significance."""
    for compared in comparison.systems:
        line = f"{compared.label}  {compared.system}, {compared.run}"
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    groups: dict[tuple[str, str, str], list[Difference]] = {}
    for row in comparison.differences:
        groups.setdefault((row.split, row.scoring_group, row.metric), []).append(row)
    for (split, group, metric), rows in groups.items():
        scored_together = f", {group.replace('+', ', ')} scored together" if group else ""
        counts = sorted({row.tracks for row in rows})
        tracks = f"{counts[0]} to {counts[-1]}" if len(counts) > 1 else f"{counts[0]}"
        console.print(f"\n{split}{scored_together}: {metric} in dB, {tracks} tracks in both", highlight=False)
        console.print(_differences_table(rows))
    console.print(
        f"\nMedians over tracks; diff: median over tracks of other minus A, with its 95 % bootstrap interval; p: "
        f"Wilcoxon's signed-rank test, corrected by Holm for {len(comparison.differences)} questions. Better or worse: "
        f"p below {SIGNIFICANT:g}, an interval without zero, and more than the {min_effect_db:g} dB by which trainings "
        f"with other seeds differ.",
        highlight=False,
    )


def print_aggregate(aggregate: AggregateTable, *, over_frames: str, over_tracks: str, console: Console) -> None:
    """Print a table of systems by target, the best SDR first."""
    console.print(summary_table(aggregate.rows, FRAME_METRICS))
    console.print(
        f"\ndB. {over_frames} over frames, then {over_tracks} over tracks. NaN: frames without a value, which are "
        f"excluded, as are tracks without any.",
        highlight=False,
    )


def summary_json(table: TrackScores, **metadata: Any) -> str:
    """Return the summary rows and `metadata` as strict JSON; values that are not finite are null."""
    text = json.dumps({**metadata, "scores": summary_rows(table)}, indent=2, allow_nan=False, ensure_ascii=False)
    return text + "\n"


def _differences_table(rows: Sequence[Difference]) -> Table:
    table = plain_table("target", "", right=("A", "other", "diff", "95 % of it", "p"), gap=0)
    table.add_column(" verdict", no_wrap=True)
    previous = None
    for row in rows:
        values = [f"{row.first:.2f}", f"{row.second:.2f}", f"{row.difference:+.2f}"]
        statistics = [f"{row.low:+.2f} {row.high:+.2f}", f"{row.p_holm:.3f}"]
        verdict = f" {row.verdict}" + (f": {row.reason}" if row.reason else "")
        table.add_row(row.target if row.target != previous else "", row.label, *values, *statistics, verdict)
        previous = row.target
    return table


def _legend(rows: Sequence[Mapping[str, Any]]) -> str:
    legend = (
        "dB. SDR, ISR, SIR, SAR as museval v4: median over frames, then over tracks; SI-SDR: median over tracks; "
        "uSDR: mean over tracks. NaN: frames without a value, where something is silent."
    )
    num_excluded = max(row["tracks_excluded"] for row in rows)
    return f"{legend} Up to {num_excluded} tracks without a finite value are excluded." if num_excluded else legend
