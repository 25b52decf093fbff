"""What the tests of evaluations share: an untrained separator, and windows short enough for songs of seconds."""

from pathlib import Path

from cyclesep import checkpoints
from cyclesep.config import settings
from cyclesep.cyclegan.model import CycleGAN
from cyclesep.inference.chunked_inference import SeparationConfig
from cyclesep.training.config import TrainConfig

WINDOWS = SeparationConfig(segment_seconds=1.5, context_seconds=0.2, overlap_seconds=0.05, device="cpu")


def save_separator(folder: Path) -> Path:
    """A checkpoint of a separator of vocals, mono at 8 kHz."""
    config = settings.replace(
        TrainConfig(),
        {"method.separator.name": "waveunet", "method.separator.channels": 8, "method.separator.depth": 2},
    )
    model = CycleGAN(config.method, targets=("vocals",), channels=1, sample_rate=8000)
    progress = checkpoints.CheckpointMetadata(step=0, targets=("vocals",), sample_rate=8000, channels=1)
    checkpoints.save(folder, model, config, progress)
    return folder
