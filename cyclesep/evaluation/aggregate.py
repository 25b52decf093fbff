"""Tables of museval's JSON files, averaged over frames and then over tracks.

Folders have the layout of museval and SiSEC 2018: SYSTEM/SPLIT/TRACK.json, one system or a folder of them.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cyclesep.errors import ConfigError, ScoringError
from cyclesep.evaluation.config import AggregateConfig
from cyclesep.evaluation.track_scores import TrackRow, TrackScores, average, summary_rows
from cyclesep.metrics import FRAME_METRICS


@dataclass(frozen=True, kw_only=True)
class AggregateTable:
    """The table, and warnings about rows that are hard to compare."""

    rows: tuple[dict[str, Any], ...]
    """Best SDR first within each target; metrics in dB, None without a finite value."""
    warnings: tuple[str, ...]

    def to_json(self) -> str:
        """Return the table as strict JSON."""
        plain = {"warnings": self.warnings, "scores": self.rows}
        return json.dumps(plain, indent=2, allow_nan=False, ensure_ascii=False) + "\n"


def aggregate(config: AggregateConfig) -> AggregateTable:
    """Return a table with one row per system and target.

    Raises ScoringError for a folder without museval's files or a file that is not in museval's format, ConfigError for
    a target that no file contains or two systems with the same name.
    """
    rows = tuple(
        row
        for system, folder in _find_systems(config).items()
        for path in sorted((folder / config.split).glob("*.json"))
        for row in _track_rows(config, system, path)
    )
    available = list(dict.fromkeys(row.target for row in rows))
    unknown = next((target for target in config.targets if target not in available), None)
    if unknown is not None:
        raise ConfigError(f"targets: {unknown!r} not found in any file; available: {', '.join(available)}")
    targets = [target for target in available if not config.targets or target in config.targets]
    selected = TrackScores(rows=tuple(row for row in rows if row.target in targets))
    summary = summary_rows(selected, dict.fromkeys(FRAME_METRICS, config.over_tracks))
    summary.sort(key=lambda row: (targets.index(row["target"]), -(row["SDR"] if row["SDR"] is not None else np.inf)))
    for row in summary:
        # museval's files do not name it.
        del row["scoring_group"]
    return AggregateTable(rows=tuple(summary), warnings=tuple(_warnings(selected)))


def _find_systems(config: AggregateConfig) -> dict[str, Path]:
    """Return the folder of each system by its name."""
    systems: dict[str, Path] = {}
    for text in config.folders:
        folders = _system_folders(Path(text), config.split)
        if not folders:
            raise ScoringError(
                f"{text}: no {config.split}/TRACK.json found, in it or in its folders; give SYSTEM folders as museval "
                f"writes them, or choose another split"
            )
        for folder in folders:
            name = folder.resolve().name
            if systems.get(name, folder).resolve() != folder.resolve():
                raise ConfigError(f"folders: {systems[name]} and {folder} are both named {name!r}; rename one")
            systems[name] = folder
    return systems


def _system_folders(folder: Path, split: str) -> list[Path]:
    if (folder / "museval").is_dir():
        folder = folder / "museval"
    if any((folder / split).glob("*.json")):
        return [folder]
    children = sorted(folder.iterdir()) if folder.is_dir() else []
    return [child for child in children if any((child / split).glob("*.json"))]


def _track_rows(config: AggregateConfig, system: str, path: Path) -> Iterator[TrackRow]:
    for target, times, values in _read_museval_json(path):
        yield TrackRow(
            system=system,
            track_id=path.stem,
            split=config.split,
            target=target,
            values={metric: average(frames, config.over_frames) for metric, frames in values.items()},
            frames=len(times),
            nan_frames=int((~np.isfinite(values["SDR"])).sum()) if "SDR" in values else 0,
        )


def _read_museval_json(path: Path) -> list[tuple[str, NDArray[np.float64], dict[str, NDArray[np.float64]]]]:
    """Return name, frame times in seconds and values by metric of each target in a JSON file of museval.

    Metrics that the first frame lacks are missing. Raises ScoringError for a file that is not in museval's format.
    """
    targets = []
    try:
        for target in json.loads(path.read_text(encoding="utf-8"))["targets"]:
            frames = target["frames"]
            metrics = [metric for metric in FRAME_METRICS if not frames or metric in frames[0]["metrics"]]
            values = {metric: np.array([float(frame["metrics"][metric]) for frame in frames]) for metric in metrics}
            times = np.array([frame["time"] for frame in frames], dtype=np.float64)
            targets.append((target["name"], times, values))
    except (OSError, ValueError, KeyError, TypeError) as problem:
        raise ScoringError(f"{path}: is not museval's JSON ({problem!r}); write it again or exclude it") from problem
    return targets


def _warnings(table: TrackScores) -> Iterator[str]:
    """Yield a warning for each system that lacks tracks which other systems have."""
    tracks: dict[str, dict[str, set[str]]] = {}
    for row in table.rows:
        tracks.setdefault(row.target, {}).setdefault(row.system, set()).add(row.track_id)
    for target, by_system in tracks.items():
        all_tracks = set().union(*by_system.values())
        for system, names in by_system.items():
            if names != all_tracks:
                yield f"{target}: {system} has {len(names)} of {len(all_tracks)} tracks"
