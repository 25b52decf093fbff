"""The job `evaluate`: prepare the tasks, run them on Ray, collect the results, write the summary."""

import hashlib
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cyclesep import __version__
from cyclesep.cluster import run_metadata
from cyclesep.cluster.connect import connect
from cyclesep.config import settings
from cyclesep.errors import ScoringError, StorageError
from cyclesep.evaluation import score_display
from cyclesep.evaluation.config import EvaluateConfig
from cyclesep.evaluation.excerpt_selection import check_excerpts, select_excerpts
from cyclesep.evaluation.references import ReferenceTrack, find_references
from cyclesep.evaluation.results import CONFIG, PARTS, SUMMARY, ResultKey, Results
from cyclesep.evaluation.scheduler import Scheduler
from cyclesep.evaluation.systems import System, find_systems
from cyclesep.evaluation.tasks import EvaluationTask, load_finished, make_tasks
from cyclesep.evaluation.track_progress import EvaluationProgress
from cyclesep.evaluation.track_scores import TrackResult, TrackScores
from cyclesep.metrics import ScoreTable
from cyclesep.storage.path import StoragePath


@dataclass(frozen=True, kw_only=True)
class EvaluationPlan:
    """What to evaluate, and what an earlier run has finished of it."""

    config: EvaluateConfig
    references: list[ReferenceTrack]
    systems: list[System]
    results: Results
    tasks: list[EvaluationTask]
    finished: dict[ResultKey, TrackResult]

    @property
    def remaining(self) -> list[EvaluationTask]:
        return [task for task in self.tasks if task.key not in self.finished]


@dataclass(frozen=True, kw_only=True)
class EvaluationReport:
    """The scores of all systems on all tracks."""

    results: Results
    track_results: tuple[TrackResult, ...]
    """One per system and track, in this order."""
    num_reused: int
    """How many of them an earlier run had finished."""
    wall_seconds: float

    @property
    def output(self) -> str:
        """The output folder: an absolute path, or s3://bucket/prefix."""
        return self.results.folder.uri

    @property
    def tracks(self) -> TrackScores:
        """The table with a row per track and target."""
        return TrackScores.of(self.track_results)

    @property
    def table(self) -> ScoreTable:
        """The table with a row per frame, read from the output folder."""
        return self.results.read_scores()

    @property
    def failed(self) -> tuple[TrackResult, ...]:
        """Results of tracks without scores; a job with any of them exits non-zero."""
        return tuple(result for result in self.track_results if result.failed)


def evaluate(config: EvaluateConfig) -> EvaluationReport:
    """Separate and score a split on the Ray cluster that this process is connected to, or on a local one.

    Writes `evaluation.yaml` (the config), `scores.parquet` (per frame), `tracks.parquet`, `summary.json` and museval's
    JSON files to `output`. Results of an earlier run into the same folder with the same separator, audio and settings
    are reused. A track that fails gets a result with the reason, and the others continue.

    Raises ConfigError for settings that contradict each other or that the cluster cannot satisfy, CheckpointError,
    CorpusError or ShardError if there is nothing to evaluate, ScoringError if no track could be scored, and
    StorageError if `output` cannot be written or is not the same folder on all machines.
    """
    start = time.monotonic()
    plan = prepare(config)
    track_results = plan.finished | run_tasks(plan)
    report = collect(plan, track_results, wall_seconds=time.monotonic() - start)
    write_summary(plan, report)
    return report


def prepare(config: EvaluateConfig) -> EvaluationPlan:
    """Find references, systems, tasks and finished results, and write the config to the output folder."""
    references, systems = find_references(config), find_systems(config)
    check_excerpts(config, references)
    results = Results(folder=StoragePath.of(config.output))
    results.folder.remove_stale()
    tasks = make_tasks(config, results, systems, references)
    finished = load_finished(results, tasks)
    # Fails here, before any work is done, if the folder is not writable.
    results.folder.write_text(CONFIG, settings.to_yaml(config))
    if not results.folder.is_remote:
        # Created by this machine: an NFS client that has just looked it up in vain may not see for a while that another
        # machine created it.
        Path(results.folder.file_uri(PARTS)).mkdir(exist_ok=True)
    return EvaluationPlan(
        config=config, references=references, systems=systems, results=results, tasks=tasks, finished=finished
    )


def run_tasks(plan: EvaluationPlan) -> dict[ResultKey, TrackResult]:
    """Run the remaining tasks on Ray and return their results."""
    track_results: dict[ResultKey, TrackResult] = {}
    if not plan.remaining:
        return track_results
    run_name = Path(plan.config.output).name
    with (
        connect(),
        EvaluationProgress(run_name, total=len(plan.tasks), num_reused=len(plan.finished)) as progress,
    ):

        def on_result(task: EvaluationTask, result: TrackResult) -> None:
            if not result.failed:
                _check_shared(task)
            track_results[task.key] = result
            progress.advance(result)

        Scheduler(plan.config, plan.remaining).run(on_result)
    return track_results


def collect(
    plan: EvaluationPlan, track_results: Mapping[ResultKey, TrackResult], *, wall_seconds: float
) -> EvaluationReport:
    """Write the tables of frames and of tracks; raises ScoringError if no track could be scored."""
    report = EvaluationReport(
        results=plan.results,
        track_results=tuple(track_results[task.key] for task in plan.tasks),
        num_reused=len(plan.finished),
        wall_seconds=wall_seconds,
    )
    if len(report.failed) == len(plan.tasks):
        raise ScoringError(f"none of {len(plan.references)} tracks could be scored; {report.failed[0]}")
    plan.results.join_scores(task.key for task in plan.tasks if not track_results[task.key].failed)
    plan.results.write_tracks(report.tracks)
    return report


def write_summary(plan: EvaluationPlan, report: EvaluationReport) -> None:
    """Select the excerpts for the report, then write summary.json, the last file."""
    excerpts = select_excerpts(plan.config, list(zip(plan.tasks, report.track_results, strict=True)))
    metadata = _metadata(plan, report) | {"excerpts": excerpts}
    plan.results.folder.write_text(SUMMARY, score_display.summary_json(report.tracks, **metadata))


def _check_shared(task: EvaluationTask) -> None:
    """Raise StorageError if this process does not see a file that another one has just written."""
    folder = task.results.folder
    if not folder.is_remote and not Path(folder.file_uri(f"{PARTS}/{task.key.result_file}")).is_file():
        raise StorageError(
            f"{folder.uri}: a result that another machine wrote here is missing; set output to a folder that all "
            f"machines share, or to s3://bucket/prefix"
        )


def _metadata(plan: EvaluationPlan, report: EvaluationReport) -> dict[str, Any]:
    """Return the content of summary.json except excerpts and scores."""
    scored = [result.rows[0] for result in report.track_results if not result.failed]
    references = sorted({(row.track_id, row.references) for row in scored})
    systems = [
        {"name": system.name, "kind": type(system).__name__, "checkpoint": system.weights_digest, "card": system.card()}
        for system in plan.systems
    ]
    return {
        "version": __version__,
        "commit": run_metadata.commit(),
        "hardware": run_metadata.machine(),
        "config": settings.to_dict(plan.config),
        "systems": systems,
        "tracks": len(plan.references),
        "corpus_digest": hashlib.sha256(json.dumps(references).encode()).hexdigest(),
        "failed": [str(result) for result in report.failed],
        "num_reused": report.num_reused,
        "wall_seconds": round(report.wall_seconds, 3),
        "audio_seconds": round(sum(row.seconds for row in scored), 3),
        "separation_seconds": round(sum(row.separation_seconds for row in scored), 3),
        "scoring_seconds": round(sum(row.scoring_seconds for row in scored), 3),
        "separation_cpu_seconds": round(sum(row.separation_cpu_seconds for row in scored), 3),
        "scoring_cpu_seconds": round(sum(row.scoring_cpu_seconds for row in scored), 3),
        "separation_peak_bytes": max(row.separation_peak_bytes for row in scored),
        "scoring_peak_bytes": max(row.scoring_peak_bytes for row in scored),
    }
