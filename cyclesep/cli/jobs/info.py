"""`cyclesep info`: describe runs, checkpoints and shards."""

import dataclasses
import json

from cyclesep.cli.info.config import InfoConfig
from cyclesep.cli.job import Flag, Job


def run(config: InfoConfig) -> int:
    """Print a description of each path, or with `json` one JSON document: an object, or a list for several paths."""
    from rich.console import Console

    from cyclesep.cli.info.describe import describe
    from cyclesep.cli.info.show import show

    descriptions = [describe(path, config) for path in config.paths]
    if config.json:
        documents = [{"kind": each.kind, **dataclasses.asdict(each)} for each in descriptions]
        print(json.dumps(documents if len(documents) > 1 else documents[0], indent=2, ensure_ascii=False))
        return 0
    console = Console(highlight=False)
    for number, description in enumerate(descriptions):
        if number:
            console.print()
        show(description, console)
    return 0


JOB = Job(
    name="info",
    description="Show details of a run, a checkpoint or shards: model card, scores, corpus, loudness, disk space.",
    config=InfoConfig,
    run=run,
    examples=("quickstart", "runs/quickstart/step-00001000", "data/quickstart --audio", "s3://music/musdb18 --json"),
    positional="paths",
    flags=(
        Flag(
            name="--audio",
            description="read the audio of shards and report its LUFS (slower)",
            overrides=("audio=true",),
        ),
        Flag(name="--json", description="print one JSON document on stdout", overrides=("json=true",)),
    ),
)
