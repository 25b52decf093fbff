"""Throughput of the driver of an evaluation for a large catalogue of generated tracks without audio.

Tracks are scheduled through Ray as in an evaluation, but tasks return immediately, with results as long as real ones.
The rates are upper bounds of what one driver can schedule and record, independent of the number of machines.
"""

import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, TypeVar

from annotated_types import Ge
from typing_extensions import override

from benchmarks.scheduler_tracks import SYSTEM, frames_of, outcome_of, records, table_of
from benchmarks.table import Row, Table
from cyclesep.cluster.connect import connect
from cyclesep.data.shards.manifest import MANIFEST_NAME, make_manifest, write_manifest
from cyclesep.evaluation import score_display
from cyclesep.evaluation.cluster_resources import Capacity, Cluster
from cyclesep.evaluation.config import EvaluateConfig
from cyclesep.evaluation.references import find_references
from cyclesep.evaluation.resource_usage import peak_bytes, reset_peak_memory
from cyclesep.evaluation.results import SUMMARY, Results
from cyclesep.evaluation.scheduler import Scheduler
from cyclesep.evaluation.tasks import EvaluationTask, load_finished, make_tasks
from cyclesep.evaluation.track_scores import TrackResult, TrackScores
from cyclesep.metrics import to_museval_json
from cyclesep.storage.path import StoragePath

UNIT = "tracks/s"
READ = "read the manifest"

_Answer = TypeVar("_Answer")


@dataclass(frozen=True, kw_only=True)
class SchedulerBenchmark:
    """Configuration of the scheduler benchmark."""

    tracks: Annotated[int, Ge(1)] = 10_000
    """Tracks of the manifest: four minutes of 44.1 kHz stereo, a mixture and four stems, as in MUSDB18."""
    parts: Annotated[int, Ge(1)] = 2_000
    """Tracks whose results are written, found and joined."""
    scheduled: Annotated[int, Ge(1)] = 5_000
    """Tracks that are scheduled through Ray for each cluster size."""
    cpus: tuple[Annotated[int, Ge(1)], ...] = (2, 64, 1_000, 10_000)
    """Cluster sizes reported to the scheduler, which keeps two tasks per CPU in flight."""
    folder: str = ""
    """Folder for temporary files; default: the system's temporary folder."""


class _FakeCluster(Cluster):
    """A cluster that reports a given number of CPUs."""

    def __init__(self, cpus: int) -> None:
        self._cpus = cpus

    @property
    @override
    def capacity(self) -> Capacity:
        return Capacity(cpus=self._cpus, gpus=0, node_memory=0, object_store=0)


class _Stages:
    """A row per stage with its time, the resident memory it retains, and its peak memory."""

    def __init__(self) -> None:
        self.rows: list[Row] = []

    def timed(self, stage: str, num_tracks: int, action: Callable[[], _Answer]) -> _Answer:
        before = _resident_bytes()
        began = time.perf_counter()
        answer = action()
        seconds = time.perf_counter() - began
        peak = peak_bytes()
        per_10_000 = 1e4 / num_tracks / 1e6
        columns = {
            "s per 100,000": 1e5 * seconds / num_tracks,
            "MB retained per 10,000": max(0, _resident_bytes() - before) * per_10_000,
            "MB at the peak": max(0, peak - before) * per_10_000,
        }
        self.rows.append(Row(method=stage, rate=num_tracks / seconds, columns=columns))
        return answer


def _resident_bytes() -> int:
    """Return the resident memory of this process, which becomes its peak memory."""
    reset_peak_memory()
    return peak_bytes()


def run(config: SchedulerBenchmark) -> Sequence[Table]:
    """Return a table of the work before and after the tracks, and one of scheduling them, by cluster size."""
    with tempfile.TemporaryDirectory(dir=config.folder or None) as folder:
        tasks, stages = _before_and_after(config, Path(folder))
    with connect():
        return [stages, _scheduling(config, tasks)]


def _before_and_after(config: SchedulerBenchmark, folder: Path) -> tuple[list[EvaluationTask], Table]:
    shards, results = folder / "shards", Results(folder=StoragePath.of(folder / "output"))
    shards.mkdir()
    stages, number = _Stages(), config.tracks
    stages.timed(
        "write the manifest (in ingest)", number, lambda: write_manifest(shards, make_manifest(records(number)))
    )
    asked = EvaluateConfig(shards=str(shards))
    tracks = stages.timed(READ, number, lambda: find_references(asked))
    tasks = stages.timed("make tasks", number, lambda: make_tasks(asked, results, [SYSTEM], tracks))
    some = tasks[: config.parts]
    stages.timed("save results (in tasks)", len(some), lambda: _keep(results, some))
    stages.timed("find results of an earlier run", len(some), lambda: load_finished(results, some))
    outcomes = stages.timed("outcomes", number, lambda: [outcome_of(task) for task in tasks])
    stages.timed("join the frames", len(some), lambda: results.join_scores(task.key for task in some))
    stages.timed("tables of tracks", number, lambda: _write_tables(results, outcomes))
    kilobytes = (shards / MANIFEST_NAME).stat().st_size / number / 1e3
    kept = sum(file.stat().st_size for file in (folder / "output").rglob("*/*") if file.is_file()) / len(some) / 1e3
    title = (
        f"work of one driver: a manifest of {number:,} tracks ({kilobytes:.1f} kB each), results of "
        f"{len(some):,} ({kept:.0f} kB each) under one system; a local folder"
    )
    return tasks, Table(title=title, unit=UNIT, baseline=READ, rows=tuple(stages.rows))


def _keep(results: Results, tasks: Sequence[EvaluationTask]) -> None:
    for task in tasks:
        results.folder.write_text(task.museval_json, to_museval_json(frames_of(task.track)))
        results.save_track_result(task.key, table_of(task), outcome_of(task))


def _write_tables(results: Results, outcomes: Sequence[TrackResult]) -> None:
    table = TrackScores.of(outcomes)
    results.write_tracks(table)
    results.folder.write_text(SUMMARY, score_display.summary_json(table))


def _scheduling(config: SchedulerBenchmark, tasks: Sequence[EvaluationTask]) -> Table:
    some = tasks[: config.scheduled]
    # Warm-up: Ray starts its workers on first use.
    _schedule(some[:100], cpus=2)
    rows = []
    for cpus in config.cpus:
        before = time.process_time()
        seconds = _schedule(some, cpus=cpus)
        columns = {"driver's CPU ms per track": 1e3 * (time.process_time() - before) / len(some)}
        columns["s per 100,000"] = 1e5 * seconds / len(some)
        rows.append(Row(method=f"{cpus:,} CPUs", rate=len(some) / seconds, columns=columns))
    title = f"{len(some):,} tracks scheduled and recorded, by number of CPUs; tasks do nothing"
    return Table(title=title, unit=UNIT, baseline=rows[0].method, rows=tuple(rows))


def _schedule(tasks: Sequence[EvaluationTask], *, cpus: int) -> float:
    """Schedule the tasks and return the seconds until all have a result."""
    made: dict[str, TrackResult] = {}
    began = time.perf_counter()
    scheduler = Scheduler(EvaluateConfig(), tasks, score_function=outcome_of, cluster=_FakeCluster(cpus))
    scheduler.run(lambda task, outcome: made.update({task.key.name: outcome}))
    seconds = time.perf_counter() - began
    assert len(made) == len(tasks)
    return seconds
