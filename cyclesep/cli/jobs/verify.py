"""`cyclesep verify`: check shards for damage."""

import sys
from typing import TYPE_CHECKING

from cyclesep.cli.job import Job
from cyclesep.data.shards.config import VerifyConfig
from cyclesep.errors import ShardError

if TYPE_CHECKING:
    from cyclesep.data.shards.verification import Verification


def run(config: VerifyConfig) -> int:
    """Check corpora one after the other and print the results; the exit status is 1 if one is damaged or missing."""
    from cyclesep.data.shards.verification import REMEDY

    damaged = 0
    for folder in config.shards:
        try:
            result = _check_with_progress(folder, config.num_threads)
            print(result.summary())
            if result.damage:
                raise ShardError(f"{folder}: {result.num_damaged} of {len(result.shards)} shards are damaged; {REMEDY}")
        except ShardError as problem:
            print(f"cyclesep verify: error: {problem}", file=sys.stderr)
            damaged += 1
    return 1 if damaged else 0


def _check_with_progress(folder: str, num_threads: int | None) -> "Verification":
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    from cyclesep.data.shards.reading import ShardReader
    from cyclesep.data.shards.verification import check

    total = sum(shard.bytes for track in ShardReader(folder).manifest.tracks for shard in track.shards)
    console = Console(stderr=True)
    columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(
        TextColumn("{task.description}"), *columns, console=console, transient=True, disable=not console.is_terminal
    ) as progress:
        bar = progress.add_task("verify", total=total)
        return check(folder, num_threads=num_threads, advance=lambda num_bytes: progress.advance(bar, num_bytes))


JOB = Job(
    name="verify",
    description="Check every byte of shards, and name each damaged file, track and segment.",
    config=VerifyConfig,
    run=run,
    examples=("data/musdb18", "data/musdb18 data/mine num_threads=4"),
    positional="shards",
)
