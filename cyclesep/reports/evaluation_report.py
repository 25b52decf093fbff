"""The report of an evaluation: tables, distributions over tracks, some tracks to hear and see, and the card."""

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
from cyclesep.reports.figures import Curve, Group, Mark, curve_figure, strip_figure
from cyclesep.reports.jinja import Column, number, read_object, write_page
from cyclesep.reports.model_card import checkpoint_card, shown_card
from cyclesep.storage.path import StoragePath

MEANINGS = {
    "SDR": "signal to distortion: how much of everything that is not the reference is there",
    "ISR": "image to spatial distortion: how far the target is from its own gain, panning and colour",
    "SIR": "signal to interference: how much of the other sources is there",
    "SAR": "signal to artifacts: how much is there that no source explains",
    "SI-SDR": "as SDR over the whole track, whatever the gain",
    "uSDR": "as SDR over the whole track at once, so that loud passages decide",
    "NaN": "frames without a value, because something in them is silent; they are left out and counted",
}
# Text of MP3 as base64: some forty clips of 20 s. Excerpts beyond it are left out and counted on the page.
MOST_SOUND_BYTES = 8_000_000


def write_evaluation_report(folder: StoragePath | Path | str) -> str:
    """Write report.html into the folder of an evaluation, local or in S3, out of what lies there; gives its place.

    Raises StorageError or ScoringError if the folder holds no finished evaluation, or cannot be written to.
    """
    folder = folder if isinstance(folder, StoragePath) else StoragePath.of(folder)
    summary = read_object(folder, SUMMARY, remedy="give the output folder of a finished evaluation, or evaluate again")
    with folder.reading(TRACKS) as path:
        table = TrackScores.read(path)
    systems = {system["name"]: system["kind"] for system in summary["systems"]}
    colours = {name: index for index, name in enumerate(systems)}
    evaluated = [name for name, kind in systems.items() if kind in EVALUATED_KINDS] or list(systems)[-1:]
    players, left_out = _players(folder, summary, table, colours)
    split = summary["config"]["split"]
    sections = [("scores", "Scores"), ("tracks", "Tracks"), ("listen", "Listen"), ("card", "Card")]
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
            "meanings": MEANINGS,
            "strips": _strips(table, colours),
            "track_columns": _track_columns(),
            "track_rows": [_track_row(row) for row in table.rows],
            "systems": sorted(systems, key=lambda name: name not in evaluated),
            "failed": summary["failed"],
            "players": players,
            "left_out": left_out,
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
    scores = [Column(name=name, unit="dB", digits=2, meaning=MEANINGS[name]) for name in METRICS]
    counts = [Column(name="tracks", digits=0), Column(name="NaN", digits=0, meaning=MEANINGS["NaN"])]
    return [Column(name="target"), Column(name="system"), *scores, *counts]


def _track_columns() -> list[Column]:
    scores = [Column(name=name, unit="dB", digits=2, meaning=MEANINGS[name]) for name in METRICS]
    frames = [Column(name="frames", digits=0), Column(name="NaN", digits=0, meaning=MEANINGS["NaN"])]
    return [Column(name="track"), Column(name="target"), *scores, *frames]


def _tables(table: TrackScores, evaluated: Sequence[str]) -> list[tuple[str, list[dict[str, Any]]]]:
    """A caption and rows for each company that was scored together."""
    tables: dict[str, list[dict[str, Any]]] = {}
    for row in summary_rows(table):
        caption = f"{row['split']}: {row['scoring_group'].replace('+', ', ')} scored together"
        shown = {**row, "NaN": row["nan_frames"], "emphasis": row["system"] in evaluated}
        tables.setdefault(caption, []).append(shown)
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
    """A figure for each metric and target: the tracks of all systems side by side."""
    companies = dict.fromkeys(row.comparison_key for row in table.scored)
    found = []
    for metric in METRICS:
        for split, together, target in companies:
            rows = [row for row in table.scored if row.comparison_key == (split, together, target)]
            groups = [
                _group([row for row in rows if row.system == system], system, metric, colour)
                for system, colour in colours.items()
            ]
            others = [name for name in together.split("+") if name not in ("", target)]
            told = f"{metric} of {target}" + (f", scored beside {', '.join(others)}" if others else "")
            groups = [group for group in groups if group.values]
            svg = strip_figure(groups, axis="dB", label=f"{told}: a point per track")
            found.append({"metric": metric, "caption": told, "svg": svg})
    return found


def _group(rows: Sequence[TrackRow], system: str, metric: str, colour: int) -> Group:
    values = [row.values.get(metric, np.nan) for row in rows]
    marks = [
        Mark(told=f"{row.track_id}\n{system}: {metric} {number(value)} dB", link=row.track_id)
        for row, value in zip(rows, values, strict=True)
    ]
    return Group(name=system, values=values, marks=marks, colour=colour)


def _players(
    folder: StoragePath, summary: Mapping[str, Any], table: TrackScores, colours: Mapping[str, int]
) -> tuple[list[tuple[Player, Markup | None]], int]:
    """Players of the excerpts that were kept, each with the course of its whole track, and how many are left out."""
    names = summary.get("excerpts", [])
    frame_seconds = summary["config"]["frame_seconds"]
    players: list[tuple[Player, Markup | None]] = []
    size = 0
    for name, excerpt, scores in _excerpts(folder, names):
        rank = _rank(table, excerpt)
        player = make_player(excerpt, scores, rank=rank, colours=colours, frame_seconds=frame_seconds)
        size += player.num_bytes
        if size > MOST_SOUND_BYTES:
            return players, len(names) - names.index(name)
        players.append((player, _course(player, scores, colours)))
    return players, 0


def _excerpts(
    folder: StoragePath, names: Sequence[str]
) -> Iterator[tuple[str, Excerpt, dict[tuple[str, str, str], FrameScores]]]:
    """Each excerpt and the scores of its track."""
    if not names:
        return
    with folder.reading(SCORES) as path:
        table = ScoreTable.read(path).table
    for name in names:
        excerpt = Excerpt.read(folder, name)
        yield name, excerpt, _frame_scores(table, excerpt.track_id, excerpt.split)


def _frame_scores(table: pa.Table, track_id: str, split: str) -> dict[tuple[str, str, str], FrameScores]:
    """The scores of a track's frames by system, target and metric; of two companies, those beside the accompaniment."""
    one = (pyarrow.compute.field("track_id") == track_id) & (pyarrow.compute.field("split") == split)
    rows = table.filter(one & pyarrow.compute.field("frame").is_valid()).select(
        ["system", "target", "metric", "scoring_group", "time", "value"]
    )
    found: dict[tuple[str, str, str], dict[str, list[tuple[float, float]]]] = {}
    for row in rows.to_pylist():
        companies = found.setdefault((row["system"], row["target"], row["metric"]), {})
        companies.setdefault(row["scoring_group"], []).append((row["time"], row["value"]))
    return {key: _frames(list(companies.values())[-1]) for key, companies in found.items()}


def _frames(points: Sequence[tuple[float, float]]) -> FrameScores:
    times, values = np.array(points, dtype=np.float64).T
    return FrameScores(times=times, values=np.where(np.isfinite(values), values, np.nan))


def _rank(table: TrackScores, excerpt: Excerpt) -> str:
    """How the track did among all of its system: "best of 12: SDR of vocals 8.31 dB"."""
    target = next(iter(excerpt.references), "")
    rows = [row for row in table.scored if (row.system, row.target) == (excerpt.system, target)]
    values = {row.track_id: row.values.get("SDR", np.nan) for row in rows if row.split == excerpt.split}
    own = values.get(excerpt.track_id, np.nan)
    if not np.isfinite(own):
        return f"{target} has no SDR here"
    finite = [value for value in values.values() if np.isfinite(value)]
    place = 1 + sum(value > own for value in finite)
    named = "best" if place == 1 else "worst" if place == len(finite) else f"number {place}"
    return f"{named} of {len(finite)} by SDR of {target}: {number(own)} dB"


def _course(
    player: Player, scores: Mapping[tuple[str, str, str], FrameScores], colours: Mapping[str, int]
) -> Markup | None:
    """The SDR of the first target over the whole track; none where the excerpt is the whole track."""
    excerpt = player.excerpt
    target = next(iter(excerpt.references), "")
    frames = {system: found for (system, name, metric), found in scores.items() if (name, metric) == (target, "SDR")}
    last = max((float(found.times.max(initial=0.0)) for found in frames.values()), default=0.0)
    if last < excerpt.seconds + player.frame_seconds:
        return None
    curves = [
        Curve(name=system, x=found.times.tolist(), y=found.values.tolist(), colour=colours[system])
        for system, found in frames.items()
    ]
    shade = (excerpt.start_seconds, excerpt.start_seconds + excerpt.seconds)
    told = f"SDR of {target} over the whole track {excerpt.track_id}"
    return curve_figure(curves, axis="SDR, dB", along="seconds", label=told, shade=shade)


def _card(summary: Mapping[str, Any]) -> dict[str, str]:
    config = summary["config"]
    where = config["shards"] or f"corpus {config['corpus']['kind']}: {config['corpus'].get('path') or ''}"
    return shown_card(
        {
            "checkpoint": config["checkpoint"],
            "estimates": config["estimates"],
            "references": where,
            "digest of the references": summary["corpus_digest"][:16],
            "tracks": f"{summary['tracks']} of the {config['split']} split",
            "frames": f"{config['frame_seconds']:g} s",
            "evaluated on": summary.get("hardware"),
            "time": f"{summary['wall_seconds']:.1f} s, {summary['num_reused']} results kept from earlier runs",
            "cyclesep": f"{summary['version']}, commit {summary['commit'] or 'unknown'}",
        }
    )
