"""`cyclesep verify`: check shards for damage."""

import sys

from cyclesep.cli.job import Job
from cyclesep.data.shards.config import VerifyConfig
from cyclesep.errors import ShardError


def run(config: VerifyConfig) -> int:
    """Check corpora one after the other and print the results; the exit status is 1 if one is damaged or missing."""
    from cyclesep.data.shards.verification import REMEDY, check

    damaged = 0
    for folder in config.shards:
        try:
            result = check(folder, num_threads=config.num_threads)
            print(result.summary())
            if result.damage:
                raise ShardError(f"{folder}: {result.num_damaged} of {len(result.shards)} shards are damaged; {REMEDY}")
        except ShardError as problem:
            print(f"cyclesep verify: error: {problem}", file=sys.stderr)
            damaged += 1
    return 1 if damaged else 0


JOB = Job(
    name="verify",
    description="Check every byte of shards, and name each damaged file, track and segment.",
    config=VerifyConfig,
    run=run,
    examples=("data/musdb18", "data/musdb18 data/mine num_threads=4"),
    positional="shards",
)
