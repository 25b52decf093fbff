"""What a run, a checkpoint or shards are, in one screen or as JSON."""

from cyclesep.info.config import InfoConfig
from cyclesep.info.corpus import describe_shards
from cyclesep.info.describe import describe, run

__all__ = ["InfoConfig", "describe", "describe_shards", "run"]
