"""Published tables from museval's JSON files: median over frames, then over tracks, or means.

Folders are read as museval and SiSEC 2018 lay them out: SYSTEM/SPLIT/TRACK.json, one system or a folder of them.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cyclesep.errors import ConfigError, ScoringError
from cyclesep.evaluation.config import AggregateConfig, Average
from cyclesep.evaluation.track_scores import FRAME_METRICS, TrackRow, TrackScores
from cyclesep.metrics import Summary


@dataclass(frozen=True, kw_only=True)
class Aggregate:
    """The table, and what makes its rows hard to compare."""

    rows: tuple[dict[str, Any], ...]
    """Best SDR first within each target; metrics in dB, None where nothing is finite."""
    warnings: tuple[str, ...]

    def to_json(self) -> str:
        """Plain values, strict JSON."""
        told = {"warnings": self.warnings, "scores": self.rows}
        return json.dumps(told, indent=2, allow_nan=False, ensure_ascii=False) + "\n"


def aggregate(config: AggregateConfig) -> Aggregate:
    """One row for each system and target.

    Raises ScoringError for a folder without museval's files or a file that is not museval's, ConfigError for a target
    that no file holds or two systems of one name.
    """
    folders = _systems(config)
    rows = tuple(
        row
        for system, folder in folders.items()
        for path in sorted((folder / config.split).glob("*.json"))
        for row in _track_rows(config, system, path)
    )
    held = dict.fromkeys(row.target for row in rows)
    unknown = next((target for target in config.targets if target not in held), None)
    if unknown is not None:
        raise ConfigError(f"targets: no file holds {unknown!r}; they hold {', '.join(held)}")
    wanted = [target for target in held if not config.targets or target in config.targets]
    chosen = TrackScores(rows=tuple(row for row in rows if row.target in wanted))
    told = _summary_rows(chosen.summary(), config.over_tracks)
    told.sort(key=lambda row: (wanted.index(row["target"]), -(row["SDR"] if row["SDR"] is not None else np.inf)))
    return Aggregate(rows=tuple(told), warnings=tuple(_warnings(chosen)))


def _systems(config: AggregateConfig) -> dict[str, Path]:
    """Each system's folder by its name."""
    found: dict[str, Path] = {}
    for text in config.folders:
        folder = Path(text)
        places = _system_folders(folder, config.split)
        if not places:
            raise ScoringError(
                f"{folder}: holds no {config.split}/TRACK.json and no folders that do; give SYSTEM folders as museval "
                f"writes them, or choose another split"
            )
        for place in places:
            name = place.resolve().name
            if found.get(name, place).resolve() != place.resolve():
                raise ConfigError(f"folders: {found[name]} and {place} are both called {name!r}; rename one")
            found[name] = place
    return found


def _system_folders(folder: Path, split: str) -> list[Path]:
    if (folder / "museval").is_dir():
        folder = folder / "museval"
    if any((folder / split).glob("*.json")):
        return [folder]
    below = sorted(folder.iterdir()) if folder.is_dir() else []
    return [place for place in below if any((place / split).glob("*.json"))]


def _track_rows(config: AggregateConfig, system: str, path: Path) -> Iterator[TrackRow]:
    try:
        for target in json.loads(path.read_text(encoding="utf-8"))["targets"]:
            frames = [frame["metrics"] for frame in target["frames"]]
            metrics = [metric for metric in FRAME_METRICS if frames and metric in frames[0]]
            values = {metric: np.array([float(frame[metric]) for frame in frames]) for metric in metrics}
            nan_frames = int((~np.isfinite(values["SDR"])).sum()) if "SDR" in values else 0
            yield TrackRow(
                system=system,
                track_id=path.stem,
                split=config.split,
                target=target["name"],
                values={metric: _average(numbers, config.over_frames) for metric, numbers in values.items()},
                frames=len(frames),
                nan_frames=nan_frames,
            )
    except (OSError, ValueError, KeyError, TypeError) as problem:
        raise ScoringError(f"{path}: is not museval's JSON ({problem!r}); write it again or leave it out") from problem


def _average(values: np.ndarray, kind: Average) -> float:
    finite = values[np.isfinite(values)]
    if not len(finite):
        return float("nan")
    return float(np.median(finite) if kind == "median" else finite.mean())


def _summary_rows(summaries: Sequence[Summary], kind: Average) -> list[dict[str, Any]]:
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    for summary in summaries:
        empty = dict.fromkeys(FRAME_METRICS)
        start = {"system": summary.system, "split": summary.split, "target": summary.target, **empty}
        row = rows.setdefault((summary.target, summary.system), start)
        value = getattr(summary, kind)
        row[summary.metric] = round(value, 6) if np.isfinite(value) else None
        if summary.metric == "SDR":
            row["tracks"], row["tracks_excluded"] = summary.tracks, summary.tracks_excluded
            row["frames"], row["nan_frames"] = summary.frames, summary.nan_frames
    return list(rows.values())


def _warnings(table: TrackScores) -> Iterator[str]:
    """Systems that were scored on other tracks than the most complete one."""
    tracks: dict[tuple[str, str], set[str]] = {}
    for row in table.rows:
        tracks.setdefault((row.target, row.system), set()).add(row.track_id)
    for target in dict.fromkeys(target for target, _ in tracks):
        everywhere = set().union(*(names for (other, _), names in tracks.items() if other == target))
        for (other, system), names in tracks.items():
            if other == target and names != everywhere:
                yield f"{target}: {system} has {len(names)} of {len(everywhere)} tracks"
