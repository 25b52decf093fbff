"""Description of a path: shards, a checkpoint or a run."""

from cyclesep.cli.info.config import InfoConfig
from cyclesep.cli.info.descriptions import Description
from cyclesep.cli.info.shards import describe_shards
from cyclesep.data.shards.manifest import MANIFEST_NAME
from cyclesep.storage.path import StoragePath


def describe(path: str, config: InfoConfig) -> Description:
    """Describe a run, a checkpoint or shards; raises ConfigError for a path that is none of them."""
    if StoragePath.of(path).has_file(MANIFEST_NAME):
        return describe_shards(path, silence_threshold_db=config.silence_threshold_db, audio=config.audio)
    # torch takes seconds to import, and shards do not need it.
    from cyclesep.cli.info.runs import describe_model

    return describe_model(path)
