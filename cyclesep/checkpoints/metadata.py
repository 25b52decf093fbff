"""The files of a checkpoint folder, and its metadata.json; imports no torch.

A checkpoint is a folder that holds data only, never code:

separator.safetensors   weights of the separator: the exponential moving average, used for inference
training_state.pt       all weights, optimizer states and counters, for an exact resume
config.yaml             the resolved config of the run
metadata.json           step, metrics and origin; written last, so it marks a complete checkpoint
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cyclesep.config import settings
from cyclesep.errors import CheckpointError, ConfigError, ObjectNotFound
from cyclesep.storage import atomic_io
from cyclesep.storage.path import StoragePath
from cyclesep.storage.uri import display_path

WEIGHTS_FILE = "separator.safetensors"
TRAINING_STATE_FILE = "training_state.pt"
CONFIG_FILE = "config.yaml"
METADATA_FILE = "metadata.json"
# All files that inference needs.
SEPARATOR_FILES = (WEIGHTS_FILE, CONFIG_FILE, METADATA_FILE)


@dataclass(frozen=True, kw_only=True)
class CheckpointMetadata:
    """Step, metrics and origin of a checkpoint."""

    step: int
    """Optimizer steps done."""
    targets: tuple[str, ...]
    """Stems that the separator extracts, in the order of its outputs."""
    sample_rate: int
    """Sample rate of the separator in Hz."""
    channels: int
    """Audio channels of the separator's input and output."""
    metrics: dict[str, float] = field(default_factory=dict)
    """Metrics of the last validation."""
    manifest_digest: str = ""
    """SHA-256 of the shards' manifest, which identifies the training data."""
    commit: str = ""
    """Git commit of the code, with a plus sign if the working tree had changes."""
    version: str = ""
    """Version of cyclesep."""
    hardware: str = ""
    """Hardware that it was trained on."""
    training_seconds: float = 0.0
    """Wall-clock seconds of training so far, over all resumes."""


def read_metadata(folder: Path | str | StoragePath) -> CheckpointMetadata:
    """Read metadata.json of a checkpoint folder; raise CheckpointError if it is missing, damaged or incompatible."""
    folder = folder if isinstance(folder, StoragePath) else StoragePath.of(folder)
    file = display_path(folder.file_uri(METADATA_FILE))
    try:
        metadata = settings.build(CheckpointMetadata, read_json(folder, METADATA_FILE))
    except ConfigError as problem:
        raise CheckpointError(f"{file}: was written by another version of cyclesep ({problem})") from problem
    for target in metadata.targets:
        # Targets become file names.
        if not atomic_io.is_name(target):
            raise CheckpointError(f"{file}: target {target!r} is not a valid name; do not use this checkpoint")
    return metadata


def format_validation(metrics: Mapping[str, float]) -> str:
    """Format validation scores; empty without validation. SI-SDRi is the improvement of SI-SDR over the mixture."""
    if "validation/sdr" not in metrics:
        return ""
    sdr, si_sdr, improvement = (metrics[f"validation/{name}"] for name in ("sdr", "si_sdr", "si_sdri"))
    return f"SDR {sdr:.2f} dB, SI-SDR {si_sdr:.2f} dB (SI-SDRi {improvement:+.2f})"


def read_json(folder: StoragePath, name: str) -> dict[str, Any]:
    """Read a JSON object of a checkpoint or run; raise CheckpointError if it is missing or damaged."""
    try:
        return dict(json.loads(folder.read_text(name)))
    except (ObjectNotFound, ValueError, TypeError) as problem:
        raise damaged(folder, name, problem) from problem


def damaged(folder: StoragePath, name: str, problem: BaseException) -> CheckpointError:
    """Return the error for a file that cannot be read."""
    file = display_path(folder.file_uri(name))
    return CheckpointError(f"{file}: missing or damaged ({short_reason(problem)}); copy the checkpoint again")


def short_reason(problem: BaseException) -> str:
    """Return the message of an error in one short line."""
    if isinstance(problem, ObjectNotFound):
        return "file not found"
    if isinstance(problem, OSError) and problem.strerror:
        return problem.strerror
    return " ".join(str(problem).split())[:160]
