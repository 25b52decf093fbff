"""The jobs as the command line runs them: connect to Ray, do the work, print the outcome, give the exit status."""

import sys

from rich.console import Console

from cyclesep import evaluation, ingestion, report, separation, training
from cyclesep.checkpoints import Progress
from cyclesep.cluster import connect
from cyclesep.evaluation import EvaluateConfig
from cyclesep.files import shown
from cyclesep.ingestion import IngestConfig
from cyclesep.separation import SeparateConfig
from cyclesep.training import TrainConfig


def ingest(config: IngestConfig) -> int:
    """Turn music into shards; the status is 1 if a track failed."""
    with connect():
        done = ingestion.ingest(config)
    print(done.summary())
    return 1 if done.failed else 0


def train(config: TrainConfig) -> int:
    """Train a separator, or go on with a run."""
    with connect():
        done = training.fit(config)
    folder = shown(done.folder)
    print(f"{folder}: {_told(done.progress)}")
    print(f"best checkpoint {done.best.name}, last {done.last.name}; separate with checkpoint={folder}")
    return 0


def separate(config: SeparateConfig) -> int:
    """Separate audio files in this process; the status is 1 if a file failed."""
    done = separation.separate_paths(config)
    for file in done.separated:
        softer = f" (all {file.gain:.3f} times as loud, to fit)" if file.gain < 1 else ""
        print(f"{file.source}: {', '.join(str(path) for path in file.stems.values())}{softer}")
    for failure in done.failed:
        print(f"cyclesep separate: error: {failure.reason}", file=sys.stderr)
    return 1 if done.failed else 0


def evaluate(config: EvaluateConfig) -> int:
    """Separate and score a test split; the status is 1 if a track failed."""
    with connect():
        done = evaluation.evaluate(config)
    report.print_summary(done.table, console=Console())
    for failure in done.failed:
        print(f"failed: {failure}")
    return 1 if done.failed else 0


def _told(progress: Progress) -> str:
    """One line about a run: how far, how long, how good."""
    told = f"{progress.step} steps in {progress.training_seconds:.0f} s on {progress.hardware}"
    if "validation/sdr" in progress.metrics:
        sdr, gain = progress.metrics["validation/sdr"], progress.metrics["validation/si_sdr_gain"]
        told += f"; validation SDR {sdr:.2f} dB, SI-SDR {gain:+.2f} dB against the mixture"
    return told
