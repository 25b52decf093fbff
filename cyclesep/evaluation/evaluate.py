"""The job: what is missing is separated and scored on the cluster, then all is put together."""

import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cyclesep import __version__
from cyclesep.cluster import run_metadata
from cyclesep.cluster.connect import connect
from cyclesep.config import settings
from cyclesep.errors import ScoringError, StorageError
from cyclesep.evaluation import excerpt_selection, score_display
from cyclesep.evaluation.config import EvaluateConfig
from cyclesep.evaluation.references import ReferenceTrack, find_references
from cyclesep.evaluation.results import PARTS, Part, Results
from cyclesep.evaluation.schedule import Schedule
from cyclesep.evaluation.systems import System, find_systems
from cyclesep.evaluation.tasks import items_of, kept_of
from cyclesep.evaluation.track_progress import Display
from cyclesep.evaluation.track_result import TrackResult
from cyclesep.evaluation.track_scores import SUMMARY, TrackScores
from cyclesep.evaluation.worker import Item
from cyclesep.metrics import ScoreTable
from cyclesep.storage.path import StoragePath

ASKED = "evaluation.yaml"


@dataclass(frozen=True, kw_only=True)
class EvaluationReport:
    """The scores of all systems on all tracks."""

    results: Results
    outcomes: tuple[TrackResult, ...]
    """One for each track under each system, in the order of systems and tracks."""
    num_kept: int
    """How many of them an earlier run had finished."""
    wall_seconds: float

    @property
    def output(self) -> str:
        """Where everything lies: an absolute path, or s3://bucket/prefix."""
        return self.results.folder.place

    @property
    def tracks(self) -> TrackScores:
        """A row for each track and target."""
        return TrackScores(rows=tuple(row for outcome in self.outcomes for row in outcome.rows))

    @property
    def table(self) -> ScoreTable:
        """A row for each frame, read from where it was written."""
        return self.results.read_joined()

    @property
    def failed(self) -> tuple[TrackResult, ...]:
        """Tracks without scores; whoever evaluates exits non-zero if there are any."""
        return tuple(outcome for outcome in self.outcomes if outcome.failed)


def evaluate(config: EvaluateConfig) -> EvaluationReport:
    """Separate and score a split on the Ray cluster that this process is connected to, else on one of its own.

    Writes `evaluation.yaml` (what was asked), `scores.parquet` (per frame), `tracks.parquet`, `summary.json` and
    museval's JSON files below `output`. What an earlier run into the same folder has finished, with the same separator,
    audio and settings, is kept. A track that fails is an outcome with its reason, and the others go on.

    Raises ConfigError for settings that do not fit each other or the cluster, CheckpointError, CorpusError or
    ShardError where there is nothing to evaluate, ScoringError if no track could be scored, and StorageError if
    `output` cannot be written or is not the same folder everywhere.
    """
    began = time.monotonic()
    tracks, systems = find_references(config), find_systems(config)
    results = Results(folder=StoragePath.of(config.output))
    results.folder.sweep()
    excerpt_selection.refuse_unknown(config, tracks)
    items = items_of(config, results, systems, tracks)
    kept = kept_of(results, items)
    # Before anything costs time: a place that cannot be written is told here.
    results.folder.write_text(ASKED, settings.to_yaml(config))
    if not results.folder.is_remote:
        # By this machine: on NFS one that has just looked for it in vain may not see for a while that another made it.
        Path(results.folder.path_of(PARTS)).mkdir(exist_ok=True)
    outcomes = kept | _made(config, [item for item in items if item.part not in kept], num_kept=len(kept))
    evaluated = EvaluationReport(
        results=results,
        outcomes=tuple(outcomes[item.part] for item in items),
        num_kept=len(kept),
        wall_seconds=time.monotonic() - began,
    )
    if len(evaluated.failed) == len(items):
        raise ScoringError(f"none of {len(tracks)} tracks could be scored; {evaluated.failed[0]}")
    results.join_scores(item.part for item in items if not outcomes[item.part].failed)
    results.write_tracks(evaluated.tracks)
    excerpts = excerpt_selection.choose(config, [(item, outcomes[item.part]) for item in items])
    about = _about(evaluated, config, systems, tracks) | {"excerpts": excerpts}
    results.folder.write_text(SUMMARY, score_display.summary_json(evaluated.tracks, **about))
    return evaluated


def _made(config: EvaluateConfig, missing: Sequence[Item], *, num_kept: int) -> dict[Part, TrackResult]:
    """Do what is missing."""
    made: dict[Part, TrackResult] = {}
    if not missing:
        return made
    with connect(), Display(Path(config.output).name, total=len(missing) + num_kept, num_kept=num_kept) as display:

        def finished(item: Item, outcome: TrackResult) -> None:
            if not outcome.failed and not _is_shared(item):
                raise StorageError(
                    f"{item.results.folder.place}: does not hold what another machine has written there; set output "
                    f"to a folder that all machines share, or to s3://bucket/prefix"
                )
            made[item.part] = outcome
            display.advance(outcome)

        Schedule(config, missing).run(finished)
    return made


def _is_shared(item: Item) -> bool:
    """Whether this process finds what another one has written."""
    folder = item.results.folder
    return folder.is_remote or Path(folder.path_of(f"{PARTS}/{item.part.outcome}")).is_file()


def _about(
    done: EvaluationReport, config: EvaluateConfig, systems: Sequence[System], tracks: Sequence[ReferenceTrack]
) -> dict[str, Any]:
    """What summary.json tells beside the scores."""
    scored = [outcome.rows[0] for outcome in done.outcomes if not outcome.failed]
    references = sorted({(row.track_id, row.references) for row in scored})
    named = [
        {"name": s.name, "kind": type(s).__name__, "checkpoint": s.weights_digest, "card": s.card()} for s in systems
    ]
    return {
        "version": __version__,
        "commit": run_metadata.commit(),
        "hardware": run_metadata.machine(),
        "config": settings.to_dict(config),
        "systems": named,
        "tracks": len(tracks),
        "corpus_digest": hashlib.sha256(json.dumps(references).encode()).hexdigest(),
        "failed": [str(outcome) for outcome in done.failed],
        "num_reused": done.num_kept,
        "wall_seconds": round(done.wall_seconds, 3),
        "audio_seconds": round(sum(row.seconds for row in scored), 3),
        "separation_seconds": round(sum(row.separation_seconds for row in scored), 3),
        "scoring_seconds": round(sum(row.scoring_seconds for row in scored), 3),
        "separation_cpu_seconds": round(sum(row.separation_cpu_seconds for row in scored), 3),
        "scoring_cpu_seconds": round(sum(row.scoring_cpu_seconds for row in scored), 3),
        "separation_peak_bytes": max(row.separation_peak_bytes for row in scored),
        "scoring_peak_bytes": max(row.scoring_peak_bytes for row in scored),
    }
