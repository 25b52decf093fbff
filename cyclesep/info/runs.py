"""The card of a checkpoint, and what a run has come to: read without loading a network."""

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from safetensors import SafetensorError, safe_open

from cyclesep import checkpoints, files, settings
from cyclesep.checkpoints import Progress
from cyclesep.crops import CropConfig
from cyclesep.cyclegan import CycleGANConfig
from cyclesep.errors import CheckpointError, ConfigError

SUMMARY = "summary.json"


@dataclass(frozen=True, kw_only=True)
class CheckpointDescription:
    """One checkpoint: its card, its size, and in what its training differs from the defaults."""

    place: str
    card: Progress
    separator: str
    parameters: int
    changed_settings: dict[str, Any]
    disk_bytes: int
    kind: str = "checkpoint"


@dataclass(frozen=True, kw_only=True)
class Scores:
    """An evaluation that lies in a run's folder."""

    place: str
    rows: tuple[dict[str, Any], ...]
    """As in summary.json: split, target, system, and medians in dB."""


@dataclass(frozen=True, kw_only=True)
class RunDescription:
    """A run: its best checkpoint, all checkpoints, and the evaluations beside them."""

    place: str
    best: CheckpointDescription | None
    checkpoints: tuple[str, ...]
    finished: bool
    evaluations: tuple[Scores, ...]
    disk_bytes: int
    kind: str = "run"


def describe_checkpoint(folder: Path) -> CheckpointDescription:
    """Describe a checkpoint folder; raises CheckpointError for one that is incomplete or damaged."""
    config = _read_config(folder / checkpoints.CONFIG)
    defaults = {"crops": settings.to_dict(CropConfig()), "cyclegan": settings.to_dict(CycleGANConfig())}
    trained = {name: config.get(name, {}) for name in defaults}
    return CheckpointDescription(
        place=files.shown(folder),
        card=checkpoints.read_progress(folder),
        separator=str(config.get("cyclegan", {}).get("separator", {}).get("name") or "waveunet"),
        parameters=_parameters(folder / checkpoints.WEIGHTS),
        changed_settings=dict(_changed(trained, defaults)),
        disk_bytes=_disk_bytes(folder),
    )


def describe_run(folder: Path) -> RunDescription:
    """Describe a run folder, finished or not; raises CheckpointError if its best checkpoint is damaged."""
    found = sorted(path.parent for path in folder.glob(f"step-*/{checkpoints.PROGRESS}"))
    finished = (folder / checkpoints.RUN).is_file()
    best = checkpoints.find(folder) if finished else found[-1] if found else None
    return RunDescription(
        place=files.shown(folder),
        best=describe_checkpoint(best) if best is not None else None,
        checkpoints=tuple(path.name for path in found),
        finished=finished,
        evaluations=tuple(_evaluations(folder)),
        disk_bytes=_disk_bytes(folder),
    )


def _read_config(path: Path) -> dict[str, Any]:
    try:
        return dict(yaml.safe_load(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError, yaml.YAMLError) as problem:
        raise CheckpointError(f"{path}: is missing or damaged; copy the checkpoint again") from problem


def _changed(values: dict[str, Any], defaults: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        default = defaults.get(name)
        if isinstance(value, dict) and isinstance(default, dict):
            yield from _changed(value, default, f"{prefix}{name}.")
        elif value != default:
            yield prefix + name, value


def _parameters(weights: Path) -> int:
    """Numbers in the file of weights, by its header alone."""
    try:
        with safe_open(weights, framework="numpy") as file:
            return sum(math.prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118
    except (OSError, SafetensorError) as problem:
        raise CheckpointError(f"{weights}: is missing or damaged; copy the checkpoint again") from problem


def _evaluations(folder: Path) -> Iterator[Scores]:
    for path in sorted(folder.glob(f"*/{SUMMARY}")):
        try:
            rows = json.loads(path.read_text(encoding="utf-8"))["scores"]
            yield Scores(place=files.shown(path.parent), rows=tuple(dict(row) for row in rows))
        except (OSError, ValueError, KeyError, TypeError) as problem:
            raise ConfigError(f"{path}: is damaged; run the same `cyclesep evaluate` again") from problem


def _disk_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
