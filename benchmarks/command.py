"""`python jobs/benchmark.py NAME [FILE.yaml ...] [name=value ...] [--json FILE]`: the table of benchmarks."""

import argparse
import importlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.table import publish
from cyclesep.cli.error_handling import fail
from cyclesep.cli.job import Flag, Job
from cyclesep.cli.main import execute
from cyclesep.config.suggestions import did_you_mean

PROGRAM = "python jobs/benchmark.py"


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """A benchmark: a module with a config dataclass and a function `run(config)` that returns tables."""

    description: str
    module: str
    config: str
    """Name of the config dataclass in the module, which is imported when the benchmark is chosen."""
    examples: tuple[str, ...]

    def job(self, name: str, json_path: Path | None = None) -> Job:
        """Return the benchmark as a job that prints its tables, and with `json_path` writes their rows there."""
        module = importlib.import_module(self.module)

        def run(config: Any) -> int:
            publish(module.run(config), json_path)
            return 0

        return Job(
            name=name,
            description=self.description,
            config=getattr(module, self.config),
            run=run,
            examples=self.examples,
            # Parsed by run_benchmark; here for the help.
            flags=(Flag(name="--json", description="write the rows of all tables as JSON", value="FILE"),),
            program=PROGRAM,
        )


BENCHMARKS = {
    "crops": Benchmark(
        description="Crops per second from shards, compared with the notebook, other loaders, files and a memory map.",
        module="benchmarks.crops",
        config="CropsBenchmark",
        examples=("--json crops.json", "narrow.tracks=2 wide.tracks=1 rounds=3 peers=false"),
    ),
    "ingest": Benchmark(
        description="Hours of music per hour ingested into shards, compared with a plain musdb loop.",
        module="benchmarks.ingest",
        config="IngestBenchmark",
        examples=("--json ingest.json", "tracks=2 track_seconds=20"),
    ),
    "scoring": Benchmark(
        description="Songs scored per hour by BSS Eval v4, compared with museval.",
        module="benchmarks.scoring",
        config="ScoringBenchmark",
        examples=("--json scoring.json",),
    ),
    "scheduler": Benchmark(
        description="Tracks per second that the driver of an evaluation schedules and records, for a large catalogue.",
        module="benchmarks.scheduler",
        config="SchedulerBenchmark",
        examples=("--json scheduler.json", "tracks=100000 cpus=[64]"),
    ),
    "step": Benchmark(
        description="Training steps per second, and the time that each part of a step takes.",
        module="benchmarks.step",
        config="StepBenchmark",
        examples=("--json step.json",),
    ),
    "scaling": Benchmark(
        description="Crops per second of a training run on one, two and more workers.",
        module="benchmarks.scaling",
        config="ScalingBenchmark",
        examples=("--json scaling.json", "workers=[1,2,4,8] train.use_gpu=true shards=data/musdb18"),
    ),
    "recipes": Benchmark(
        description="Training recipes compared: the cost of a step and the separation quality reached.",
        module="benchmarks.recipes",
        config="RecipesBenchmark",
        examples=("--json recipes.json",),
    ),
}


def run_benchmark(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark named by the first argument (default: of this process) and exit with its status."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(_overview())
        sys.exit(0)
    name = arguments[0]
    if name not in BENCHMARKS:
        fail(PROGRAM, f"no benchmark named {name!r}; {did_you_mean(name, BENCHMARKS)}")
    parser = argparse.ArgumentParser(prog=f"{PROGRAM} {name}", add_help=False, allow_abbrev=False)
    parser.add_argument("--json", type=Path)
    chosen, rest = parser.parse_known_args(arguments[1:])
    execute(BENCHMARKS[name].job(name, chosen.json), rest)


def _overview() -> str:
    rows = [f"  {name:<9} {benchmark.description}" for name, benchmark in BENCHMARKS.items()]
    usage = f"usage: {PROGRAM} NAME [FILE.yaml ...] [name=value ...] [--json FILE]"
    return "\n".join([usage, "", *rows, "", f"`{PROGRAM} NAME --help` lists a benchmark's settings."])
