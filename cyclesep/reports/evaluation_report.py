"""The HTML report of an evaluation: tables, distributions over tracks, excerpts with players, and details."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute
from markupsafe import Markup

from cyclesep import __version__
from cyclesep.evaluation.excerpts import Excerpt
from cyclesep.evaluation.results import EVALUATED_KINDS, SCORES, SUMMARY, TRACKS
from cyclesep.evaluation.track_scores import METRICS, TrackRow, TrackScores, summary_rows
from cyclesep.metrics import ScoreTable
from cyclesep.reports.audio_player import FrameScores, Player, make_player
from cyclesep.reports.figures import Curve, PointGroup, PointLabel, curve_figure, strip_figure
from cyclesep.reports.jinja import Column, number, read_object, write_page
from cyclesep.reports.model_card import checkpoint_card, nonempty_card
from cyclesep.storage.path import StoragePath

DESCRIPTIONS = {
    "SDR": "signal-to-distortion ratio: the reference against all errors",
    "ISR": "image-to-spatial-distortion ratio: errors in the target's gain, panning and spectrum",
    "SIR": "signal-to-interference ratio: leakage of the other sources",
    "SAR": "signal-to-artifacts ratio: errors that no source explains",
    "SI-SDR": "scale-invariant SDR of the whole track",
    "uSDR": "SDR of the whole track at once, dominated by loud passages",
    "NaN": "number of frames without a value, because a signal in them is silent; they are excluded from the average",
}
# Limit on the base64-encoded MP3 of a page, about forty clips of 20 s; the page lists how many excerpts are omitted.
MAX_AUDIO_BYTES = 8_000_000


def write_evaluation_report(folder: StoragePath | Path | str) -> str:
    """Write report.html into the folder of an evaluation, local or in S3, and return its location.

    Raises StorageError or ScoringError if the evaluation has not finished, or the report cannot be written.
    """
    folder = folder if isinstance(folder, StoragePath) else StoragePath.of(folder)
    summary = read_object(
        folder, SUMMARY, remedy="specify the output folder of a finished evaluation, or evaluate again"
    )
    with folder.reading(TRACKS) as path:
        table = TrackScores.read(path)
    systems = {system["name"]: system["kind"] for system in summary["systems"]}
    colours = {name: index for index, name in enumerate(systems)}
    evaluated = [name for name, kind in systems.items() if kind in EVALUATED_KINDS] or list(systems)[-1:]
    players, omitted = _players(folder, summary, table, colours)
    split = summary["config"]["split"]
    sections = [("scores", "Scores"), ("tracks", "Tracks"), ("listen", "Listen"), ("card", "Details")]
    return write_page(
        folder,
        "evaluation.html",
        {
            "version": __version__,
            "title": f"{' and '.join(evaluated)} on the {split} split",
            "sections": sections,
            "summary": summary,
            "minutes": sum({(row.split, row.track_id): row.seconds for row in table.scored}.values()) / 60,
            "tables": _tables(table, evaluated),
            "columns": _summary_columns(),
            "metrics": list(METRICS),
            "descriptions": DESCRIPTIONS,
            "strips": _strips(table, colours),
            "track_columns": _track_columns(),
            "track_rows": [_track_row(row) for row in table.rows],
            "systems": sorted(systems, key=lambda name: name not in evaluated),
            "failed": summary["failed"],
            "players": players,
            "omitted": omitted,
            "card": _card(summary),
            "separators": [
                (system["name"], checkpoint_card(**system["card"]))
                for system in summary["systems"]
                if system.get("card")
            ],
            "config": summary["config"],
        },
    )


def _summary_columns() -> list[Column]:
    scores = [Column(name=name, unit="dB", digits=2, meaning=DESCRIPTIONS[name]) for name in METRICS]
    counts = [Column(name="tracks", digits=0), Column(name="NaN", digits=0, meaning=DESCRIPTIONS["NaN"])]
    return [Column(name="target"), Column(name="system"), *scores, *counts]


def _track_columns() -> list[Column]:
    scores = [Column(name=name, unit="dB", digits=2, meaning=DESCRIPTIONS[name]) for name in METRICS]
    frames = [Column(name="frames", digits=0), Column(name="NaN", digits=0, meaning=DESCRIPTIONS["NaN"])]
    return [Column(name="track"), Column(name="target"), *scores, *frames]


def _tables(table: TrackScores, evaluated: Sequence[str]) -> list[tuple[str, list[dict[str, Any]]]]:
    """Return a caption and rows for each group of targets that was scored together."""
    tables: dict[str, list[dict[str, Any]]] = {}
    for row in summary_rows(table):
        caption = f"{row['split']}: {row['scoring_group'].replace('+', ', ')} scored together"
        cells = {**row, "NaN": row["nan_frames"], "emphasis": row["system"] in evaluated}
        tables.setdefault(caption, []).append(cells)
    return list(tables.items())


def _track_row(row: TrackRow) -> dict[str, Any]:
    values = {name: row.values.get(name) for name in METRICS}
    target = f"{row.target} (failed)" if row.reason else row.target
    return {
        "track": row.track_id,
        "system": row.system,
        "target": target,
        **values,
        "frames": row.frames,
        "NaN": row.nan_frames,
    }


def _strips(table: TrackScores, colours: Mapping[str, int]) -> list[dict[str, Any]]:
    """Return a figure for each metric and target: the tracks of all systems, next to each other."""
    keys = dict.fromkeys(row.comparison_key for row in table.scored)
    strips = []
    for metric in METRICS:
        for split, scoring_group, target in keys:
            rows = [row for row in table.scored if row.comparison_key == (split, scoring_group, target)]
            groups = [
                _point_group([row for row in rows if row.system == system], system, metric, colour)
                for system, colour in colours.items()
            ]
            others = [name for name in scoring_group.split("+") if name not in ("", target)]
            caption = f"{metric} of {target}" + (f", scored together with {', '.join(others)}" if others else "")
            groups = [group for group in groups if group.values]
            svg = strip_figure(groups, axis="dB", label=f"{caption}: a point per track")
            strips.append({"metric": metric, "caption": caption, "svg": svg})
    return strips


def _point_group(rows: Sequence[TrackRow], system: str, metric: str, colour: int) -> PointGroup:
    values = [row.values.get(metric, np.nan) for row in rows]
    labels = [
        PointLabel(text=f"{row.track_id}\n{system}: {metric} {number(value)} dB", link=row.track_id)
        for row, value in zip(rows, values, strict=True)
    ]
    return PointGroup(name=system, values=values, labels=labels, colour=colour)


def _players(
    folder: StoragePath, summary: Mapping[str, Any], table: TrackScores, colours: Mapping[str, int]
) -> tuple[list[tuple[Player, Markup | None]], int]:
    """Return the players of the excerpts, each with SDR over its whole track, and the number of omitted excerpts."""
    names = summary.get("excerpts", [])
    frame_seconds = summary["config"]["frame_seconds"]
    players: list[tuple[Player, Markup | None]] = []
    size = 0
    for name, excerpt, scores in _excerpts(folder, names):
        note = _rank_note(table, excerpt)
        player = make_player(excerpt, scores, note=note, colours=colours, frame_seconds=frame_seconds)
        size += player.num_bytes
        if size > MAX_AUDIO_BYTES:
            return players, len(names) - names.index(name)
        players.append((player, _track_curve(player, scores, colours)))
    return players, 0


def _excerpts(
    folder: StoragePath, names: Sequence[str]
) -> Iterator[tuple[str, Excerpt, dict[tuple[str, str, str], FrameScores]]]:
    """Yield the name of each excerpt, the excerpt, and the scores of its track."""
    if not names:
        return
    with folder.reading(SCORES) as path:
        table = ScoreTable.read(path).table
    for name in names:
        excerpt = Excerpt.read(folder, name)
        yield name, excerpt, _frame_scores(table, excerpt.track_id, excerpt.split)


def _frame_scores(table: pa.Table, track_id: str, split: str) -> dict[tuple[str, str, str], FrameScores]:
    """Return the frame scores of a track by system, target and metric, in the last scoring group of the target.

    With several scoring groups, that is the one with the accompaniment.
    """
    one = (pyarrow.compute.field("track_id") == track_id) & (pyarrow.compute.field("split") == split)
    rows = table.filter(one & pyarrow.compute.field("frame").is_valid()).select(
        ["system", "target", "metric", "scoring_group", "time", "value"]
    )
    points: dict[tuple[str, str, str], dict[str, list[tuple[float, float]]]] = {}
    for row in rows.to_pylist():
        groups = points.setdefault((row["system"], row["target"], row["metric"]), {})
        groups.setdefault(row["scoring_group"], []).append((row["time"], row["value"]))
    return {key: _to_frame_scores(list(groups.values())[-1]) for key, groups in points.items()}


def _to_frame_scores(points: Sequence[tuple[float, float]]) -> FrameScores:
    times, values = np.array(points, dtype=np.float64).T
    return FrameScores(times=times, values=np.where(np.isfinite(values), values, np.nan))


def _rank_note(table: TrackScores, excerpt: Excerpt) -> str:
    """Return the rank of the track among all tracks of its system: "best of 12 by SDR of vocals: 8.31 dB"."""
    target = next(iter(excerpt.references), "")
    rows = [row for row in table.scored if (row.system, row.target) == (excerpt.system, target)]
    values = {row.track_id: row.values.get("SDR", np.nan) for row in rows if row.split == excerpt.split}
    own = values.get(excerpt.track_id, np.nan)
    if not np.isfinite(own):
        return f"no SDR of {target}: silent frames only"
    finite = [value for value in values.values() if np.isfinite(value)]
    rank = 1 + sum(value > own for value in finite)
    name = "best" if rank == 1 else "worst" if rank == len(finite) else f"number {rank}"
    return f"{name} of {len(finite)} by SDR of {target}: {number(own)} dB"


def _track_curve(
    player: Player, scores: Mapping[tuple[str, str, str], FrameScores], colours: Mapping[str, int]
) -> Markup | None:
    """Draw the SDR of the first target over the whole track; None if the excerpt is the whole track."""
    excerpt = player.excerpt
    target = next(iter(excerpt.references), "")
    frames = {system: each for (system, name, metric), each in scores.items() if (name, metric) == (target, "SDR")}
    last = max((float(each.times.max(initial=0.0)) for each in frames.values()), default=0.0)
    if last < excerpt.seconds + player.frame_seconds:
        return None
    curves = [
        Curve(name=system, x=each.times.tolist(), y=each.values.tolist(), colour=colours[system])
        for system, each in frames.items()
    ]
    shade = (excerpt.start_seconds, excerpt.start_seconds + excerpt.seconds)
    label = f"SDR of {target} over the whole track {excerpt.track_id}"
    return curve_figure(curves, axis="SDR, dB", along="seconds", label=label, shade=shade)


def _card(summary: Mapping[str, Any]) -> dict[str, str]:
    config = summary["config"]
    references = config["shards"] or f"corpus {config['corpus']['kind']}: {config['corpus'].get('path') or ''}"
    return nonempty_card(
        {
            "checkpoint": config["checkpoint"],
            "estimates": config["estimates"],
            "references": references,
            "SHA-256 of the references": summary["corpus_digest"][:16],
            "tracks": f"{summary['tracks']} of the {config['split']} split",
            "frames": f"{config['frame_seconds']:g} s",
            "hardware": summary.get("hardware"),
            "time": f"{summary['wall_seconds']:.1f} s ({summary['num_reused']} cached)",
            "cyclesep": f"{summary['version']}, commit {summary['commit'] or 'unknown'}",
        }
    )
