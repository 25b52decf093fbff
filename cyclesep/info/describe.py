"""Which kind of thing a place is, and its description."""

import dataclasses
import json
from typing import Any

from rich.console import Console

from cyclesep import checkpoints, storage
from cyclesep.errors import ConfigError
from cyclesep.info.config import InfoConfig
from cyclesep.info.corpus import CorpusDescription, describe_shards
from cyclesep.info.runs import CheckpointDescription, RunDescription, describe_checkpoint, describe_run
from cyclesep.info.show import show
from cyclesep.shards.manifest import MANIFEST_NAME

Description = CorpusDescription | CheckpointDescription | RunDescription


def run(config: InfoConfig) -> int:
    """Describe all places, for people or as JSON (a list, if there are several)."""
    descriptions = [describe(place, config) for place in config.places]
    if config.json:
        told = [_plain(each) for each in descriptions]
        print(json.dumps(told if len(told) > 1 else told[0], indent=2, ensure_ascii=False))
        return 0
    console = Console(highlight=False)
    for number, description in enumerate(descriptions):
        if number:
            console.print()
        show(description, console)
    return 0


def describe(place: str, config: InfoConfig) -> Description:
    """Describe a run, a checkpoint or shards; raises ConfigError for a place that is none of them."""
    if storage.is_remote(place):
        return describe_shards(place, silent_below_db=config.silent_below_db, audio=config.audio)
    folder = checkpoints.run_folder(place)
    if (folder / MANIFEST_NAME).is_file():
        return describe_shards(str(folder), silent_below_db=config.silent_below_db, audio=config.audio)
    if (folder / checkpoints.PROGRESS).is_file():
        return describe_checkpoint(folder)
    if (folder / checkpoints.RUN).is_file() or (folder / checkpoints.CONFIG).is_file():
        return describe_run(folder)
    if not folder.exists():
        # Its message knows the runs that are there.
        checkpoints.find(place)
    raise ConfigError(
        f"{folder}: is no run, no checkpoint and no shards; give a folder that holds {checkpoints.RUN}, "
        f"{checkpoints.PROGRESS} or {MANIFEST_NAME}"
    )


def _plain(description: Description) -> dict[str, Any]:
    return {"kind": description.kind, **dataclasses.asdict(description)}
