"""Tasks of an evaluation: each track under each system, and which of them an earlier run has finished."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from cyclesep import __version__
from cyclesep.evaluation.config import EvaluateConfig
from cyclesep.evaluation.references import ReferenceTrack
from cyclesep.evaluation.results import NUM_READERS, PARTS, ResultKey, Results
from cyclesep.evaluation.systems import EstimateFolder, SeparatorSystem, System
from cyclesep.evaluation.track_scores import TrackResult, TrackRow
from cyclesep.storage.atomic_io import as_name


@dataclass(frozen=True, kw_only=True)
class EvaluationTask:
    """One track to score under one system, and where the result is saved."""

    system: System
    track: ReferenceTrack
    key: ResultKey
    results: Results
    frame_seconds: float
    save_estimates: bool
    save_excerpt: bool = False
    """Whether to save an excerpt for the report."""

    @property
    def museval_json(self) -> str:
        """Path of museval's JSON file below the output folder, in the layout of its EvalStore."""
        return f"museval/{as_name(self.system.name)}/{self.track.split}/{self._track_name}.json"

    @property
    def estimates_folder(self) -> str:
        """Path of the saved estimates below the output folder, in the layout that `estimates` reads."""
        return f"estimates/{as_name(self.system.name)}/{self.track.split}/{self._track_name}"

    def failure(self, reason: str) -> TrackResult:
        """Return the result of a failed task: a row per target, or one without a target if they are not known."""
        rows = [
            TrackRow(
                system=self.system.name,
                checkpoint=self.system.weights_digest,
                track_id=self.track.track_id,
                split=self.track.split,
                target=target,
                reason=reason,
            )
            for target in self.system.targets or ("",)
        ]
        return TrackResult(rows=tuple(rows))

    @property
    def _track_name(self) -> str:
        return as_name(self.track.track_id)


def make_tasks(
    config: EvaluateConfig, results: Results, systems: Sequence[System], tracks: Sequence[ReferenceTrack]
) -> list[EvaluationTask]:
    """Return a task for each system and track, in this order; warn of missing estimates."""
    for system in systems:
        if isinstance(system, EstimateFolder):
            system.warn_missing_estimates(tracks)
    settings = [__version__, config.frame_seconds]
    return [
        EvaluationTask(
            system=system,
            track=track,
            key=ResultKey.of(system.name, track.track_id, [*system.digest(track), *settings]),
            results=results,
            frame_seconds=config.frame_seconds,
            save_estimates=config.save_estimates,
            save_excerpt=isinstance(system, SeparatorSystem | EstimateFolder)
            and config.may_need_excerpt(track.track_id),
        )
        for system in systems
        for track in tracks
    ]


def load_finished(results: Results, tasks: Sequence[EvaluationTask]) -> dict[ResultKey, TrackResult]:
    """Return the results of tasks that an earlier run has finished, with all files that are requested now."""
    sizes = results.folder.sizes(PARTS)
    folders = {task.museval_json.rpartition("/")[0] for task in tasks}
    museval_files = {f"{folder}/{name}" for folder in folders for name in results.folder.sizes(folder)}

    def load(task: EvaluationTask) -> TrackResult | None:
        if task.museval_json not in museval_files:
            return None
        if task.save_estimates and not results.folder.sizes(task.estimates_folder):
            return None
        return results.load_track_result(task.key, sizes)

    with ThreadPoolExecutor(NUM_READERS) as pool:
        loaded = zip(tasks, pool.map(load, tasks), strict=True)
        return {task.key: result for task, result in loaded if result is not None}
