"""The job: what is missing is separated by actors and scored by tasks, bounded in number, then all is put together."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cyclesep import __version__, provenance, report, settings
from cyclesep.errors import ScoringError
from cyclesep.evaluation.config import EvaluateConfig
from cyclesep.evaluation.outcomes import Part, TrackOutcome, write_outcomes
from cyclesep.evaluation.progress import Display
from cyclesep.evaluation.references import ReferenceTrack, find_references
from cyclesep.evaluation.schedule import Schedule
from cyclesep.evaluation.systems import System, find_systems
from cyclesep.evaluation.work import Item
from cyclesep.scoring import ScoreTable


@dataclass(frozen=True, kw_only=True)
class EvaluationReport:
    """The scores of all systems on all tracks."""

    output: Path
    table: ScoreTable
    outcomes: tuple[TrackOutcome, ...]
    """One for each track under each system, in the order of systems and tracks."""
    num_kept: int
    """How many of them an earlier run had finished."""
    wall_seconds: float

    @property
    def failed(self) -> tuple[TrackOutcome, ...]:
        """Tracks without scores; whoever evaluates exits non-zero if there are any."""
        return tuple(outcome for outcome in self.outcomes if outcome.failed)


def evaluate(config: EvaluateConfig) -> EvaluationReport:
    """Separate and score a split on the Ray cluster that this process is connected to.

    Writes `scores.parquet` (per frame), `tracks.parquet`, `summary.json` and museval's JSON files below `output`. What
    an earlier run into the same folder has finished, with the same separator, audio and settings, is kept. A track that
    fails is an outcome with its reason, and the others go on.

    Raises ConfigError for settings that do not fit each other or the cluster, CheckpointError, CorpusError or
    ShardError where there is nothing to evaluate, and ScoringError if no track could be scored.
    """
    began = time.monotonic()
    tracks = find_references(config)
    items = _items(config, find_systems(config), tracks)
    kept = {item.part: part for item in items if (part := _finished(item)) is not None}
    missing = [item for item in items if item.part not in kept]
    made: dict[Part, TrackOutcome] = {}
    if missing:
        with Display(total=len(items), num_kept=len(kept)) as display:
            made = Schedule(config, missing).run(display)
    done = kept | {item.part: part for item in missing if (part := item.part.read()) is not None}
    evaluated = EvaluationReport(
        output=_output(config),
        table=ScoreTable.concatenate(done[item.part][0] for item in items if item.part in done),
        outcomes=tuple(made[item.part] if item.part in made else kept[item.part][1] for item in items),
        num_kept=len(kept),
        wall_seconds=time.monotonic() - began,
    )
    if len(evaluated.failed) == len(items):
        raise ScoringError(f"none of {len(tracks)} tracks could be scored; {evaluated.failed[0]}")
    _write(evaluated, config, tracks)
    return evaluated


def _items(config: EvaluateConfig, systems: Sequence[System], tracks: Sequence[ReferenceTrack]) -> list[Item]:
    output = _output(config)
    decisive = [__version__, config.window_seconds]
    return [
        Item(
            system=system,
            track=track,
            part=Part.of(output / "parts", system.name, track.track_id, [*system.digest(track), *decisive]),
            output=output,
            window_seconds=config.window_seconds,
            save_estimates=config.save_estimates,
        )
        for system in systems
        for track in tracks
    ]


def _finished(item: Item) -> tuple[ScoreTable, TrackOutcome] | None:
    """What an earlier run has left of an item, if that is all that is asked for now."""
    wanted = [item.museval_json, *([item.estimates_folder] if item.save_estimates else [])]
    return item.part.read() if all(path.exists() for path in wanted) else None


def _write(done: EvaluationReport, config: EvaluateConfig, tracks: Sequence[ReferenceTrack]) -> None:
    done.table.write(done.output / "scores.parquet")
    write_outcomes(done.output / "tracks.parquet", done.outcomes)
    report.write_summary(
        done.output / "summary.json",
        done.table,
        config=settings.to_dict(config),
        version=__version__,
        commit=provenance.commit(),
        tracks=len(tracks),
        failed=[str(outcome) for outcome in done.failed],
    )


def _output(config: EvaluateConfig) -> Path:
    return Path(config.output).expanduser().absolute()
