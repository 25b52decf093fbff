"""Descriptions of checkpoints and runs, read without loading a network."""

import json
import math
from collections.abc import Iterator
from typing import Any

import yaml
from safetensors import SafetensorError, safe_open

from cyclesep.checkpoints.metadata import CONFIG_FILE, METADATA_FILE, WEIGHTS_FILE, read_metadata
from cyclesep.checkpoints.run_folder import RunFolder, find_checkpoint, resolve_folder
from cyclesep.cli.info.descriptions import CheckpointDescription, EvaluationScores, RunDescription
from cyclesep.config import settings
from cyclesep.cyclegan.config import MethodConfig
from cyclesep.data.crops.config import CropConfig
from cyclesep.data.shards.manifest import MANIFEST_NAME
from cyclesep.errors import CheckpointError, ConfigError, ObjectNotFound
from cyclesep.storage.path import StoragePath
from cyclesep.storage.uri import display_path

SUMMARY = "summary.json"


def describe_model(path: str) -> CheckpointDescription | RunDescription:
    """Describe a checkpoint folder, or a run by its folder or name; raises ConfigError for a path that is neither."""
    folder = resolve_folder(path)
    if folder.has_file(METADATA_FILE):
        return describe_checkpoint(folder)
    if folder.has_file(RunFolder.RESULT) or folder.has_file(CONFIG_FILE):
        return describe_run(folder)
    if not folder.exists():
        # Raises an error that suggests the names of existing runs.
        find_checkpoint(path)
    raise ConfigError(
        f"{folder.uri}: not a run, a checkpoint or shards; give a folder with {RunFolder.RESULT}, "
        f"{METADATA_FILE} or {MANIFEST_NAME}"
    )


def describe_checkpoint(folder: StoragePath) -> CheckpointDescription:
    """Describe a checkpoint folder; raises CheckpointError for one that is incomplete or damaged."""
    config = _read_config(folder)
    defaults = {"crops": settings.to_dict(CropConfig()), "method": settings.to_dict(MethodConfig())}
    trained = {name: config.get(name, {}) for name in defaults}
    return CheckpointDescription(
        path=display_path(folder.uri),
        metadata=read_metadata(folder),
        separator=str(config.get("method", {}).get("separator", {}).get("name") or "waveunet"),
        parameters=_parameters(folder),
        changed_settings=dict(_changed(trained, defaults)),
        disk_bytes=folder.num_bytes(),
    )


def describe_run(folder: StoragePath) -> RunDescription:
    """Describe a run folder, finished or not; raises CheckpointError if its best checkpoint is damaged."""
    run = RunFolder(folder)
    checkpoints = run.checkpoints()
    best = run.best_checkpoint() if run.is_finished else checkpoints[-1] if checkpoints else None
    return RunDescription(
        path=display_path(folder.uri),
        best=describe_checkpoint(best) if best is not None else None,
        checkpoints=tuple(checkpoint.name for checkpoint in checkpoints),
        finished=run.is_finished,
        evaluations=tuple(_evaluations(folder)),
        disk_bytes=folder.num_bytes(),
    )


def _read_config(folder: StoragePath) -> dict[str, Any]:
    """Read config.yaml without validation, because another version of cyclesep may have written it."""
    try:
        return dict(yaml.safe_load(folder.read_text(CONFIG_FILE)))
    except (ObjectNotFound, ValueError, TypeError, yaml.YAMLError) as problem:
        file = folder.file_uri(CONFIG_FILE)
        raise CheckpointError(f"{file}: missing or damaged; copy the checkpoint again") from problem


def _changed(values: dict[str, Any], defaults: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield dotted names and values that differ from the defaults."""
    for name, value in values.items():
        default = defaults.get(name)
        if isinstance(value, dict) and isinstance(default, dict):
            yield from _changed(value, default, f"{prefix}{name}.")
        elif value != default:
            yield prefix + name, value


def _parameters(folder: StoragePath) -> int:
    """Count the parameters in the weights file from its header."""
    weights = folder.local_path(WEIGHTS_FILE) / WEIGHTS_FILE
    try:
        with safe_open(weights, framework="numpy") as file:
            return sum(math.prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118
    except (OSError, SafetensorError) as problem:
        uri = folder.file_uri(WEIGHTS_FILE)
        raise CheckpointError(f"{uri}: missing or damaged; copy the checkpoint again") from problem


def _evaluations(run: StoragePath) -> Iterator[EvaluationScores]:
    for folder in map(run.child, run.folders()):
        if not folder.has_file(SUMMARY):
            continue
        try:
            rows = json.loads(folder.read_text(SUMMARY))["scores"]
            yield EvaluationScores(path=display_path(folder.uri), rows=tuple(dict(row) for row in rows))
        except (ValueError, KeyError, TypeError) as problem:
            raise ConfigError(
                f"{folder.file_uri(SUMMARY)}: damaged; run the same `cyclesep evaluate` again"
            ) from problem
