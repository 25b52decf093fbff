"""The jobs as the command line runs them: connect to Ray, do the work, print the outcome, give the exit status."""

import sys
from collections.abc import Sequence

from rich.console import Console

from cyclesep.checkpoints import CheckpointMetadata
from cyclesep.cluster.connect import connect
from cyclesep.data import ingest as ingest_module
from cyclesep.data.corpora.corpus import find_tracks
from cyclesep.data.ingest import IngestConfig
from cyclesep.data.shards.reading import ShardReader
from cyclesep.evaluation import aggregate as aggregate_module
from cyclesep.evaluation import compare as compare_module
from cyclesep.evaluation import evaluate as evaluate_module
from cyclesep.evaluation import score_display
from cyclesep.evaluation.aggregate import AggregateConfig
from cyclesep.evaluation.compare import CompareConfig
from cyclesep.evaluation.config import EvaluateConfig
from cyclesep.inference.config import SeparateConfig
from cyclesep.inference.separate import separate_paths
from cyclesep.reports.evaluation_report import write_evaluation_report
from cyclesep.reports.report import write_report
from cyclesep.reports.training_report import write_training_report
from cyclesep.storage import shown
from cyclesep.storage.path import StoragePath
from cyclesep.training.config import TrainConfig
from cyclesep.training.fit import fit


def ingest(config: IngestConfig) -> int:
    """Turn music into shards; the status is 1 if a track failed."""
    # What is most often wrong, before Ray, which takes seconds to start.
    tracks = find_tracks(config.corpus)
    StoragePath.of(config.output).exists()
    with connect():
        done = ingest_module.ingest(config, tracks)
    print(done.summary())
    return 1 if done.failed else 0


def train(config: TrainConfig) -> int:
    """Train a separator, or go on with a run."""
    # What is most often wrong, before Ray, which takes seconds to start.
    ShardReader(config.shards)
    StoragePath.of(config.output_dir).exists()
    with connect():
        done = fit(config)
    folder = shown(done.folder.place)
    print(f"{folder}: {_told(done.progress)}")
    print(f"best checkpoint {done.best.name}, last {done.last.name}; separate with checkpoint={folder}")
    write_report(done.folder, write_training_report)
    return 0


def separate(config: SeparateConfig) -> int:
    """Separate audio files in this process; the status is 1 if a file failed."""
    done = separate_paths(config)
    for file in () if config.json else done.separated:
        softer = f" (all {file.gain:.3f} times as loud, to fit)" if file.gain < 1 else ""
        print(f"{file.source}: {', '.join(str(path) for path in file.stems.values())}{softer}")
    if config.json:
        print(done.to_json())
    for failure in done.failed:
        print(f"cyclesep separate: error: {failure.reason}", file=sys.stderr)
    if done.failed and done.separated:
        told = f"{len(done.failed)} of {len(done.failed) + len(done.separated)} files failed"
        print(f"cyclesep separate: {told}; the stems of the others are written", file=sys.stderr)
    return 1 if done.failed else 0


def evaluate(config: EvaluateConfig) -> int:
    """Separate and score a test split; the status is 1 if a track failed."""
    done = evaluate_module.evaluate(config)
    score_display.print_summary(done.tracks, console=Console())
    for failure in done.failed:
        print(f"failed: {failure}")
    write_report(done.output, write_evaluation_report)
    return 1 if done.failed else 0


def compare(config: CompareConfig) -> int:
    """Put evaluations side by side; what makes them hard to compare is told on stderr."""
    done = compare_module.compare(config)
    score_display.print_comparison(done, min_effect_db=config.min_effect_db, console=Console())
    return _published(done.warnings, done.to_json(), config.output)


def aggregate(config: AggregateConfig) -> int:
    """Make a table of museval's JSON files."""
    done = aggregate_module.aggregate(config)
    averages = {"over_frames": config.over_frames, "over_tracks": config.over_tracks}
    score_display.print_aggregate(done, **averages, console=Console())
    return _published(done.warnings, done.to_json(), config.output)


def _published(warnings: Sequence[str], text: str, output: str | None) -> int:
    for warning in warnings:
        print(f"warning: {warning}", file=sys.stderr)
    if output is not None:
        place, _, name = output.rpartition("/")
        StoragePath.of(place or ".").write_text(name, text)
    return 0


def _told(progress: CheckpointMetadata) -> str:
    """One line about a run: how far, how long, how good."""
    told = f"{progress.step} steps in {progress.training_seconds:.0f} s on {progress.hardware}"
    if "validation/sdr" in progress.metrics:
        sdr, gain = progress.metrics["validation/sdr"], progress.metrics["validation/si_sdr_gain"]
        told += f"; validation SDR {sdr:.2f} dB, SI-SDR {gain:+.2f} dB against the mixture"
    return told
