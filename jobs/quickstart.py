"""From nothing to scored stems in under ten minutes on two cores: compose, ingest, train, separate, score.

All jobs run as their commands do, on one local Ray cluster, with the settings in `jobs/configs/quickstart/`.
"""

import sys
import time
from pathlib import Path
from typing import Any

import stempeg
from rich.console import Console

from cyclesep.cli.error_handling import run_with_error_handling
from cyclesep.cli.job import Job
from cyclesep.cli.jobs import evaluate, ingest, separate, train
from cyclesep.cluster.environment import loopback_by_default
from cyclesep.config import settings
from cyclesep.storage.uri import display_path

CONFIGS = Path(__file__).parent / "configs" / "quickstart"
SONGS, EXCERPT, RUN = "data/quickstart", "data/excerpt", "runs/quickstart"

# A real MUSDB18 test track, 6 s of "The Easton Ellises - Falcon 69", which stempeg includes for its own tests.
REAL_MUSIC = str(stempeg.example_stem_path())

console = Console(highlight=False)


def main() -> int:
    """Run all steps until one fails; return the exit status."""
    with loopback_by_default():
        return run_steps()


def run_steps() -> int:
    """Run all steps on one local Ray cluster until one fails; return the exit status."""
    # Imported here: Ray must not be imported before `loopback_by_default`.
    from cyclesep.cluster.connect import connect

    started = time.monotonic()
    with connect():
        for number, (title, step) in enumerate(STEPS, start=1):
            console.rule(f"{number}/{len(STEPS)}  {title}", align="left")
            status = step()
            if status != 0:
                return status
    console.rule(f"done in {(time.monotonic() - started) / 60:.1f} minutes", align="left")
    print(WHAT_NEXT)
    return 0


def ingest_songs() -> int:
    return _run(ingest.JOB, "ingest.yaml")


def ingest_excerpt() -> int:
    corpus = {"corpus.kind": "musdb18", "corpus.path": REAL_MUSIC}
    return _run(ingest.JOB, "ingest.yaml", output=EXCERPT, **corpus)


def train_separator() -> int:
    return _run(train.JOB, "train.yaml")


def evaluate_songs() -> int:
    return _run(evaluate.JOB, "evaluate.yaml")


def evaluate_excerpt() -> int:
    return _run(evaluate.JOB, "evaluate.yaml", shards=EXCERPT, output=f"{RUN}/test-excerpt")


def separate_excerpt() -> int:
    config = separate.JOB.config(checkpoint=RUN, inputs=(REAL_MUSIC,), output=f"{RUN}/separated", sample_format="pcm16")
    return separate.run(config)


STEPS = (
    ("compose songs and convert them to shards, one Ray task per song", ingest_songs),
    ("convert a real MUSDB18 test track to shards", ingest_excerpt),
    ("train a cycle-consistent adversarial separator on two Ray Train workers", train_separator),
    ("separate and score synthetic songs of the test split", evaluate_songs),
    ("separate and score the real track", evaluate_excerpt),
    ("separate the real file at its own 44.1 kHz stereo", separate_excerpt),
)

WHAT_NEXT = f"""\
shards        {SONGS}, {EXCERPT}
checkpoints   {RUN} (curves: .venv/bin/tensorboard --logdir {RUN}/tensorboard)
scores        {RUN}/test-songs and {RUN}/test-excerpt: scores.parquet, museval JSON per track, summary.json
wavs          {RUN}/test-songs/estimates, {RUN}/separated
reports       {RUN}/test-songs/report.html, {RUN}/test-excerpt/report.html and {RUN}/report.html:
              open them in a browser to see the scores of every track and to listen to excerpts

what to try next:
  separate your own music          .venv/bin/cyclesep separate song.mp3 checkpoint={RUN}
  train twice as long              .venv/bin/cyclesep train {display_path(CONFIGS)}/train.yaml name=longer steps=2000
  train its supervised baseline    .venv/bin/cyclesep train {display_path(CONFIGS)}/supervised-baseline.yaml
  MUSDB18, your own stems, unpaired recordings, a cluster: README.md"""


def _run(job: Job, file: str, **values: Any) -> int:
    return job.run(settings.replace(settings.load(job.config, [CONFIGS / file]), values))


if __name__ == "__main__":
    sys.exit(run_with_error_handling("quickstart", main))
