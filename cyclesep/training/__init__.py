"""Training: a cycle-GAN under DDP, one Ray Train worker per GPU or CPU share, fed from the shards."""

from cyclesep.training.config import TrainConfig
from cyclesep.training.fit import TrainingReport, fit
from cyclesep.training.worker import train_worker

__all__ = ["TrainConfig", "TrainingReport", "fit", "train_worker"]
