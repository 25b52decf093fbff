"""Metadata of a checkpoint for tests."""

from cyclesep.checkpoints.metadata import CheckpointMetadata

METADATA = CheckpointMetadata(
    step=3, targets=("vocals", "drums"), sample_rate=8000, channels=1, metrics={"validation/sdr": 1.5}
)
