"""Helpers of evaluation tests: an untrained separator, and segments short enough for songs of a few seconds."""

from pathlib import Path

from cyclesep.checkpoints.metadata import CheckpointMetadata
from cyclesep.checkpoints.save_restore import save_checkpoint
from cyclesep.config import settings
from cyclesep.cyclegan.model import CycleGAN
from cyclesep.inference.config import SeparationConfig
from cyclesep.training.config import TrainConfig

SHORT_SEGMENTS = SeparationConfig(segment_seconds=1.5, context_seconds=0.2, overlap_seconds=0.05, device="cpu")


def save_separator(folder: Path) -> Path:
    """Save a checkpoint of an untrained separator of vocals, mono at 8 kHz; return its folder."""
    config = settings.replace(
        TrainConfig(),
        {"method.separator.name": "waveunet", "method.separator.channels": 8, "method.separator.depth": 2},
    )
    model = CycleGAN(config.method, targets=("vocals",), channels=1, sample_rate=8000)
    metadata = CheckpointMetadata(step=0, targets=("vocals",), sample_rate=8000, channels=1)
    save_checkpoint(folder, model, config, metadata)
    return folder
