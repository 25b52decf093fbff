"""The card of a checkpoint, and what a run has come to: read without loading a network."""

import json
import math
from collections.abc import Iterator
from typing import Any

import yaml
from safetensors import SafetensorError, safe_open

from cyclesep import checkpoints, storage
from cyclesep.cli.info.descriptions import CheckpointDescription, RunDescription, Scores
from cyclesep.config import settings
from cyclesep.cyclegan.config import MethodConfig
from cyclesep.data.crops.config import CropConfig
from cyclesep.data.shards.manifest import MANIFEST_NAME
from cyclesep.errors import CheckpointError, ConfigError
from cyclesep.storage.path import StoragePath

SUMMARY = "summary.json"


def describe_model(place: str) -> CheckpointDescription | RunDescription:
    """Describe a checkpoint folder, or a run by its folder or name; raises ConfigError for what is neither."""
    folder = checkpoints.run_folder(place)
    if folder.holds(checkpoints.METADATA):
        return describe_checkpoint(folder)
    if folder.holds(checkpoints.RUN) or folder.holds(checkpoints.CONFIG):
        return describe_run(folder)
    if not folder.exists():
        # Its message knows the runs that are there.
        checkpoints.located(place)
    raise ConfigError(
        f"{folder.place}: is no run, no checkpoint and no shards; give a folder that holds {checkpoints.RUN}, "
        f"{checkpoints.METADATA} or {MANIFEST_NAME}"
    )


def describe_checkpoint(folder: StoragePath) -> CheckpointDescription:
    """Describe a checkpoint folder; raises CheckpointError for one that is incomplete or damaged."""
    config = _read_config(folder)
    defaults = {"crops": settings.to_dict(CropConfig()), "cyclegan": settings.to_dict(MethodConfig())}
    trained = {name: config.get(name, {}) for name in defaults}
    return CheckpointDescription(
        place=storage.shown(folder.place),
        card=checkpoints.read_metadata(folder),
        separator=str(config.get("cyclegan", {}).get("separator", {}).get("name") or "waveunet"),
        parameters=_parameters(folder),
        changed_settings=dict(_changed(trained, defaults)),
        disk_bytes=folder.num_bytes(),
    )


def describe_run(folder: StoragePath) -> RunDescription:
    """Describe a run folder, finished or not; raises CheckpointError if its best checkpoint is damaged."""
    found = checkpoints.steps_of(folder)
    finished = folder.holds(checkpoints.RUN)
    best = checkpoints.located(folder) if finished else folder.below(found[-1]) if found else None
    return RunDescription(
        place=storage.shown(folder.place),
        best=describe_checkpoint(best) if best is not None else None,
        checkpoints=tuple(found),
        finished=finished,
        evaluations=tuple(_evaluations(folder)),
        disk_bytes=folder.num_bytes(),
    )


def _read_config(folder: StoragePath) -> dict[str, Any]:
    try:
        return dict(yaml.safe_load(folder.read_text(checkpoints.CONFIG)))
    except (storage.ObjectNotFound, ValueError, TypeError, yaml.YAMLError) as problem:
        told = folder.path_of(checkpoints.CONFIG)
        raise CheckpointError(f"{told}: is missing or damaged; copy the checkpoint again") from problem


def _changed(values: dict[str, Any], defaults: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        default = defaults.get(name)
        if isinstance(value, dict) and isinstance(default, dict):
            yield from _changed(value, default, f"{prefix}{name}.")
        elif value != default:
            yield prefix + name, value


def _parameters(folder: StoragePath) -> int:
    """Numbers in the file of weights, by its header alone."""
    weights = folder.local_path(checkpoints.WEIGHTS) / checkpoints.WEIGHTS
    try:
        with safe_open(weights, framework="numpy") as file:
            return sum(math.prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118
    except (OSError, SafetensorError) as problem:
        told = folder.path_of(checkpoints.WEIGHTS)
        raise CheckpointError(f"{told}: is missing or damaged; copy the checkpoint again") from problem


def _evaluations(folder: StoragePath) -> Iterator[Scores]:
    for place in map(folder.below, folder.folders()):
        if not place.holds(SUMMARY):
            continue
        try:
            rows = json.loads(place.read_text(SUMMARY))["scores"]
            yield Scores(place=storage.shown(place.place), rows=tuple(dict(row) for row in rows))
        except (ValueError, KeyError, TypeError) as problem:
            told = place.path_of(SUMMARY)
            raise ConfigError(f"{told}: is damaged; run the same `cyclesep evaluate` again") from problem
