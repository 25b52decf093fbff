"""Tables of scores for people (terminal) and programs (JSON): of one run, of several, of published ones."""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from rich.console import Console
from rich.table import Table

from cyclesep.console.terminal_table import plain_table
from cyclesep.evaluation.aggregate import Aggregate
from cyclesep.evaluation.compare import SIGNIFICANT, Comparison, Difference
from cyclesep.metrics import FRAME_METRICS, Summary

# uSDR is reported as a mean over tracks, everything else as a median.
METRICS = {"SDR": "median", "ISR": "median", "SIR": "median", "SAR": "median", "SI-SDR": "median", "uSDR": "mean"}


class Summarized(Protocol):
    """A table of scores: by frame (`ScoreTable`) or by track (`TrackScores`)."""

    def summary(self) -> tuple[Summary, ...]: ...


def summary_rows(table: Summarized) -> list[dict[str, Any]]:
    """Plain rows, one for each split, target, company and system: the metrics in dB, tracks and NaN frames.

    The company is who a target was scored with: vocals beside three stems and vocals beside the accompaniment are two
    rows. Rows of one target stand together, systems in the order of the table. A metric without a finite value is None.
    """
    summaries: dict[tuple[str, str, str, str], list[Summary]] = {}
    for summary in table.summary():
        summaries.setdefault((summary.split, summary.scoring_group, summary.target, summary.system), []).append(summary)
    order = [list(dict.fromkeys(key[place] for key in summaries)) for place in range(4)]
    ordered = sorted(summaries, key=lambda key: [names.index(name) for names, name in zip(order, key, strict=True)])
    return [_row(key, summaries[key]) for key in ordered]


def summary_table(rows: Sequence[Mapping[str, Any]], metrics: Sequence[str] = tuple(METRICS)) -> Table:
    """Rows of one company as a table for the terminal; 80 columns hold it."""
    table = plain_table("target", "system", right=(*metrics, "tracks", "NaN"), gap=0)
    before = None
    for row in rows:
        if before not in (None, row["target"]):
            table.add_section()
        values = ["-" if row[metric] is None else f"{row[metric]:.2f}" for metric in metrics]
        name = row["target"] if row["target"] != before else ""
        table.add_row(name, row["system"], *values, str(row["tracks"]), str(row["nan_frames"]))
        before = row["target"]
    return table


def print_summary(table: Summarized, *, console: Console, title: str = "") -> None:
    """Print a score table: one table for each split and company, and what the columns mean."""
    rows = summary_rows(table)
    if not rows:
        console.print("nothing was scored")
        return
    if title:
        console.print(title)
    groups = list(dict.fromkeys((row["split"], row["scoring_group"]) for row in rows))
    for split, company in groups:
        console.print(f"\n{split}: {company.replace('+', ', ')} scored together", highlight=False)
        console.print(summary_table([row for row in rows if (row["split"], row["scoring_group"]) == (split, company)]))
    console.print(f"\n{_legend(rows)}", highlight=False)


def print_comparison(comparison: Comparison, *, min_effect_db: float, console: Console) -> None:
    """Print who is compared, each difference from the first, and whether it is more than noise."""
    for contender in comparison.contenders:
        told = f"{contender.label}  {contender.system}, {contender.run}"
        console.print(told, highlight=False, markup=False, soft_wrap=True)
    groups = list(dict.fromkeys((row.split, row.scoring_group, row.metric) for row in comparison.differences))
    for split, company, metric in groups:
        together = f", {company.replace('+', ', ')} scored together" if company else ""
        rows = [
            row
            for row in comparison.differences
            if (row.split, row.scoring_group, row.metric) == (split, company, metric)
        ]
        tracks = sorted({row.tracks for row in rows})
        told = f"{metric} in dB, {tracks[0]}" + (f" to {tracks[-1]}" if len(tracks) > 1 else "") + " tracks in both"
        console.print(f"\n{split}{together}: {told}", highlight=False)
        console.print(_differences_table(rows))
    console.print(
        f"\nMedians over tracks; diff: median over tracks of other minus A, with its 95 % bootstrap interval; p: "
        f"Wilcoxon's signed-rank test, corrected by Holm for {len(comparison.differences)} questions. Better or worse: "
        f"p below {SIGNIFICANT:g}, an interval without zero, and more than the {min_effect_db:g} dB that trainings with "
        f"other seeds differ by.",
        highlight=False,
    )


def print_aggregate(aggregate: Aggregate, *, over_frames: str, over_tracks: str, console: Console) -> None:
    """Print systems by target, the best SDR first."""
    console.print(summary_table(aggregate.rows, FRAME_METRICS))
    console.print(
        f"\ndB. {over_frames} over frames, then {over_tracks} over tracks. NaN: frames without a value, which are left "
        f"out, as are tracks without any.",
        highlight=False,
    )


def summary_json(table: Summarized, **about: Any) -> str:
    """The rows, and what else is told by name, as JSON text; values that are not finite become null."""
    text = json.dumps({**about, "scores": summary_rows(table)}, indent=2, allow_nan=False, ensure_ascii=False)
    return text + "\n"


def _differences_table(rows: Sequence[Difference]) -> Table:
    table = plain_table("target", "", right=("A", "other", "diff", "95 % of it", "p"), gap=0)
    table.add_column(" verdict", no_wrap=True)
    before = None
    for row in rows:
        values = [f"{row.first:.2f}", f"{row.second:.2f}", f"{row.difference:+.2f}"]
        chance = [f"{row.low:+.2f} {row.high:+.2f}", f"{row.p_holm:.3f}"]
        verdict = f" {row.verdict}" + (f": {row.because}" if row.because else "")
        table.add_row(row.target if row.target != before else "", row.label, *values, *chance, verdict)
        before = row.target
    return table


def _row(key: tuple[str, str, str, str], summaries: Sequence[Summary]) -> dict[str, Any]:
    split, scoring_group, target, system = key
    found = {summary.metric: summary for summary in summaries}
    values = {metric: _finite(getattr(found[metric], kind)) for metric, kind in METRICS.items() if metric in found}
    framed = found.get("SDR", summaries[0])
    return {
        "system": system,
        "split": split,
        "target": target,
        "scoring_group": scoring_group,
        **{metric: values.get(metric) for metric in METRICS},
        "tracks": framed.tracks,
        "tracks_excluded": framed.tracks_excluded,
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
    left_out = max(row["tracks_excluded"] for row in rows)
    return f"{told} Up to {left_out} tracks without a finite value are left out." if left_out else told
