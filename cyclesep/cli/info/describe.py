"""Which kind of thing a place is, and its description."""

import dataclasses
import json
from typing import Any

from rich.console import Console

from cyclesep.cli.info.config import InfoConfig
from cyclesep.cli.info.descriptions import Description
from cyclesep.cli.info.shards import describe_shards
from cyclesep.cli.info.show import show
from cyclesep.data.shards.manifest import MANIFEST_NAME
from cyclesep.storage.path import StoragePath


def run(config: InfoConfig) -> int:
    """Describe all places, for people or as JSON (a list, if there are several)."""
    descriptions = [describe(place, config) for place in config.paths]
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
    if StoragePath.of(place).holds(MANIFEST_NAME):
        return describe_shards(place, silence_threshold_db=config.silence_threshold_db, audio=config.audio)
    # Here, because it imports torch, which takes seconds and of which shards know nothing.
    from cyclesep.cli.info.runs import describe_model

    return describe_model(place)


def _plain(description: Description) -> dict[str, Any]:
    return {"kind": description.kind, **dataclasses.asdict(description)}
