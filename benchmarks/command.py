"""`cyclesep benchmark NAME [FILE.yaml ...] [name=value ...] [--json FILE]`: which benchmarks there are."""

import difflib
import sys
from collections.abc import Sequence

from cyclesep.cli.main import Job, fail, run_words

BENCHMARKS = {
    "crops": Job(
        sentence="Crops per second out of shards, beside the seed's way, other loaders, files and a memory map.",
        config="benchmarks.crops:CropsBenchmark",
        function="benchmarks.crops:run",
        examples=("--json crops.json", "narrow.tracks=2 wide.tracks=1 rounds=3 peers=false"),
        gives_tables=True,
    ),
    "ingest": Job(
        sentence="Hours of music per hour into shards, beside a plain musdb loop that writes the same.",
        config="benchmarks.ingest:IngestBenchmark",
        function="benchmarks.ingest:run",
        examples=("--json ingest.json", "tracks=2 track_seconds=20"),
        gives_tables=True,
    ),
    "scoring": Job(
        sentence="Songs scored per hour by BSS Eval v4, beside museval.",
        config="benchmarks.scoring:ScoringBenchmark",
        function="benchmarks.scoring:run",
        examples=("--json scoring.json",),
        gives_tables=True,
    ),
    "scheduler": Job(
        sentence="Tracks per second that the driver of an evaluation hands out and records, for a large catalogue.",
        config="benchmarks.scheduler:SchedulerBenchmark",
        function="benchmarks.scheduler:run",
        examples=("--json scheduler.json", "tracks=100000 cpus=[64]"),
        gives_tables=True,
    ),
    "step": Job(
        sentence="Training steps per second, and where the time of a step goes.",
        config="benchmarks.step:StepBenchmark",
        function="benchmarks.step:run",
        examples=("--json step.json",),
        gives_tables=True,
    ),
    "scaling": Job(
        sentence="Crops per second of a training run on one, two and more workers.",
        config="benchmarks.scaling:ScalingBenchmark",
        function="benchmarks.scaling:run",
        examples=("--json scaling.json", "workers=[1,2,4,8] train.use_gpu=true shards=data/musdb18"),
        gives_tables=True,
    ),
    "recipes": Job(
        sentence="The recipes side by side: what a step of each costs and what it learns.",
        config="benchmarks.recipes:RecipesBenchmark",
        function="benchmarks.recipes:run",
        examples=("--json recipes.json",),
        gives_tables=True,
    ),
}


def run_benchmark(words: Sequence[str] | None = None) -> None:
    """Run the benchmark that the first word names (default: of this process's words); exit with its status."""
    words = list(sys.argv[1:] if words is None else words)
    if not words or words[0] in ("-h", "--help", "help"):
        print(_overview())
        sys.exit(0)
    name = words[0]
    if name not in BENCHMARKS:
        near = difflib.get_close_matches(name, BENCHMARKS, n=1)
        hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(BENCHMARKS)}"
        fail("cyclesep benchmark", f"there is no benchmark {name!r}; {hint}")
    run_words(f"benchmark {name}", BENCHMARKS[name], words[1:])


def _overview() -> str:
    rows = [f"  {name:<9} {job.sentence}" for name, job in BENCHMARKS.items()]
    lines = ["usage: cyclesep benchmark NAME [FILE.yaml ...] [name=value ...] [--json FILE]", "", *rows, ""]
    return "\n".join([*lines, "`cyclesep benchmark NAME --help` lists a benchmark's settings."])
