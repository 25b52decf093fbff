"""Save a checkpoint, and load its training state to resume."""

import json
import pickle
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors.torch import save_file

from cyclesep.checkpoints.metadata import (
    CONFIG_FILE,
    METADATA_FILE,
    TRAINING_STATE_FILE,
    WEIGHTS_FILE,
    CheckpointMetadata,
    read_metadata,
    short_reason,
)
from cyclesep.checkpoints.run_folder import find_checkpoint
from cyclesep.config import settings
from cyclesep.cyclegan.model import CycleGAN
from cyclesep.errors import CheckpointError
from cyclesep.storage import atomic_io
from cyclesep.storage.path import StoragePath
from cyclesep.storage.uri import display_path


def save_checkpoint(folder: Path, model: CycleGAN, config: object, metadata: CheckpointMetadata) -> None:
    """Write a checkpoint into `folder`, each file atomically and metadata.json last."""
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in model.ema_separator.state_dict().items()}
    with atomic_io.replacing(folder / WEIGHTS_FILE) as partial:
        save_file(weights, partial)
    with atomic_io.replacing(folder / TRAINING_STATE_FILE) as partial:
        torch.save(model.state_dict(), partial)
    atomic_io.write_text(folder / CONFIG_FILE, settings.to_yaml(config))
    atomic_io.write_text(folder / METADATA_FILE, json.dumps(asdict(metadata), indent=2) + "\n")


def load_training_state(path: Path | str | StoragePath, model: CycleGAN) -> CheckpointMetadata:
    """Load the training state of a checkpoint, or of a run's best checkpoint, into `model`; return its metadata.

    Raises CheckpointError if it is missing or damaged, or does not fit the networks.
    """
    folder = find_checkpoint(path)
    metadata = read_metadata(folder)
    file = display_path(folder.file_uri(TRAINING_STATE_FILE))
    try:
        local = folder.local_path(TRAINING_STATE_FILE) / TRAINING_STATE_FILE
        state = torch.load(local, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as problem:
        # The messages of torch.load are long, and about torch rather than the file.
        reason = short_reason(problem) if isinstance(problem, OSError) else "cannot be unpickled"
        raise CheckpointError(f"{file}: missing or damaged ({reason}); copy the checkpoint again") from problem
    try:
        model.load_state_dict(state)
    except (RuntimeError, KeyError, ValueError) as problem:
        raise CheckpointError(
            f"{file}: does not fit the networks of this config ({short_reason(problem)}); "
            "use the config.yaml in the same folder"
        ) from problem
    return metadata
