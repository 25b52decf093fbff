"""From nothing to scored stems in under ten minutes on two cores: compose, ingest, train, separate, score.

Everything runs as a user would run it, on one private Ray cluster; `jobs/configs/quickstart/` holds the settings.
"""

import sys
import time
from pathlib import Path
from typing import Any

import stempeg
from rich.console import Console

from cyclesep.cli import commands
from cyclesep.cli.main import run_with_error_handling
from cyclesep.cluster.connect import connect
from cyclesep.config import settings
from cyclesep.data.ingest import IngestConfig
from cyclesep.evaluation.config import EvaluateConfig
from cyclesep.inference.config import SeparateConfig
from cyclesep.storage.atomic_io import shown
from cyclesep.training.config import TrainConfig

CONFIGS = Path(__file__).parent / "configs" / "quickstart"
SONGS, EXCERPT, RUN = "data/quickstart", "data/excerpt", "runs/quickstart"

# A real MUSDB18 test track, 6 s of "The Easton Ellises - Falcon 69", that stempeg carries for its own tests.
REAL_MUSIC = str(stempeg.example_stem_path())

console = Console(highlight=False)


def main() -> int:
    """Run all steps; the status is that of the first one that fails."""
    began = time.monotonic()
    with connect():
        for number, (title, step) in enumerate(STEPS, start=1):
            console.rule(f"{number}/{len(STEPS)}  {title}", align="left")
            status = step()
            if status != 0:
                return status
    console.rule(f"done in {(time.monotonic() - began) / 60:.1f} minutes", align="left")
    print(WHAT_NEXT)
    return 0


def compose_and_ingest() -> int:
    return commands.ingest(_config(IngestConfig, "ingest.yaml"))


def ingest_excerpt() -> int:
    return commands.ingest(
        _config(IngestConfig, "ingest.yaml", output=EXCERPT, **{"corpus.kind": "musdb18", "corpus.path": REAL_MUSIC})
    )


def train() -> int:
    return commands.train(_config(TrainConfig, "train.yaml"))


def evaluate_songs() -> int:
    return commands.evaluate(_config(EvaluateConfig, "evaluate.yaml"))


def evaluate_excerpt() -> int:
    return commands.evaluate(_config(EvaluateConfig, "evaluate.yaml", shards=EXCERPT, output=f"{RUN}/test-excerpt"))


def separate_excerpt() -> int:
    return commands.separate(
        SeparateConfig(checkpoint=RUN, inputs=(REAL_MUSIC,), output=f"{RUN}/separated", sample_format="pcm16")
    )


STEPS = (
    ("compose songs and turn them into shards, one Ray task per song", compose_and_ingest),
    ("the same for a real MUSDB18 test track", ingest_excerpt),
    ("train a cycle-consistent adversarial separator on two Ray Train workers", train),
    ("separate and score synthetic songs that it never heard", evaluate_songs),
    ("separate and score the real track", evaluate_excerpt),
    ("separate the real file at its own 44.1 kHz stereo", separate_excerpt),
)

WHAT_NEXT = f"""\
shards        {SONGS}, {EXCERPT}
checkpoints   {RUN} (curves: .venv/bin/tensorboard --logdir {RUN}/tensorboard)
scores        {RUN}/test-songs and {RUN}/test-excerpt: scores.parquet, museval JSON per track, summary.json
wavs          {RUN}/test-songs/estimates, {RUN}/separated
reports       {RUN}/test-songs/report.html, {RUN}/test-excerpt/report.html and {RUN}/report.html:
              open them in a browser, to see every track and to hear the best, the median and the worst

what to try next:
  separate your own music      .venv/bin/cyclesep separate song.mp3 checkpoint={RUN}
  train twice as long          .venv/bin/cyclesep train {shown(CONFIGS)}/train.yaml name=longer steps=2000
  train its supervised baseline    .venv/bin/cyclesep train {shown(CONFIGS)}/supervised-baseline.yaml
  MUSDB18, your own stems, unpaired recordings, a cluster: README.md"""


def _config(config_class: type, file: str, **values: Any) -> Any:
    return settings.replace(settings.load(config_class, [CONFIGS / file], []), values)


if __name__ == "__main__":
    sys.exit(run_with_error_handling("quickstart", main))
