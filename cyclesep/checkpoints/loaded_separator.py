"""Load the separator of a checkpoint for inference; imports only what inference needs."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import safetensors
import torch
import yaml
from safetensors.torch import load_file
from torch import nn

from cyclesep.checkpoints.metadata import (
    CONFIG_FILE,
    SEPARATOR_FILES,
    WEIGHTS_FILE,
    damaged,
    read_metadata,
    short_reason,
)
from cyclesep.checkpoints.run_folder import find_checkpoint
from cyclesep.config import settings
from cyclesep.errors import CheckpointError, ConfigError, ObjectNotFound
from cyclesep.models.separators.config import SeparatorConfig
from cyclesep.models.separators.separator import build_separator
from cyclesep.storage.path import StoragePath
from cyclesep.storage.uri import display_path


@dataclass(frozen=True, kw_only=True)
class LoadedSeparator:
    """A trained separator in evaluation mode."""

    module: nn.Module
    targets: tuple[str, ...]
    sample_rate: int
    channels: int
    digest: str
    """SHA-256 of the weights file."""
    path: Path
    """The checkpoint folder, or its local copy."""
    uri: str
    """The checkpoint's path, or s3://bucket/prefix."""


def load_separator(path: Path | str | StoragePath, device: torch.device | str = "cpu") -> LoadedSeparator:
    """Load the separator of a checkpoint folder, or of a run's best checkpoint, on `device`.

    Raises CheckpointError if there is no checkpoint, or its weights are damaged or of another network.
    """
    folder = find_checkpoint(path)
    metadata = read_metadata(folder)
    module = build_separator(
        _read_separator_config(folder),
        targets=len(metadata.targets),
        channels=metadata.channels,
        sample_rate=metadata.sample_rate,
    )
    local = folder.local_path(*SEPARATOR_FILES)
    weights = local / WEIGHTS_FILE
    try:
        module.load_state_dict(load_file(weights))
    except (OSError, safetensors.SafetensorError) as problem:
        raise damaged(folder, WEIGHTS_FILE, problem) from problem
    except RuntimeError as problem:
        file, reason = display_path(folder.file_uri(WEIGHTS_FILE)), short_reason(problem)
        raise CheckpointError(
            f"{file}: does not fit the network in its {CONFIG_FILE} ({reason}); copy the checkpoint again"
        ) from problem
    return LoadedSeparator(
        module=module.to(device).eval(),
        targets=metadata.targets,
        sample_rate=metadata.sample_rate,
        channels=metadata.channels,
        digest=hashlib.sha256(weights.read_bytes()).hexdigest(),
        path=local,
        uri=folder.uri,
    )


def _read_separator_config(folder: StoragePath) -> SeparatorConfig:
    try:
        values = yaml.safe_load(folder.read_text(CONFIG_FILE))
        return settings.build(SeparatorConfig, values["method"]["separator"])
    except (ObjectNotFound, yaml.YAMLError, KeyError, TypeError) as problem:
        raise damaged(folder, CONFIG_FILE, problem) from problem
    except ConfigError as problem:
        file = display_path(folder.file_uri(CONFIG_FILE))
        raise CheckpointError(f"{file}: was written by another version of cyclesep ({problem})") from problem
