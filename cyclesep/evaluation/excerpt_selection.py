"""Selection of the tracks that can be played in the report: candidates are saved while scoring, the others deleted."""

import math
from collections.abc import Sequence

from cyclesep.errors import ConfigError
from cyclesep.evaluation.config import EXCERPT_QUANTILES, EvaluateConfig
from cyclesep.evaluation.excerpts import delete_excerpts, display_order, finished_excerpts
from cyclesep.evaluation.references import ReferenceTrack
from cyclesep.evaluation.tasks import EvaluationTask
from cyclesep.evaluation.track_scores import TrackResult


def check_excerpts(config: EvaluateConfig, tracks: Sequence[ReferenceTrack]) -> None:
    """Raise ConfigError for a name in `excerpts` that is not the name of a track."""
    known = {track.track_id for track in tracks} | EXCERPT_QUANTILES.keys()
    unknown = next((name for name in config.excerpts if name not in known), None)
    if unknown is not None:
        raise ConfigError(
            f"excerpts: track {unknown!r} not found in the {config.split} split; give names of its tracks, or best, "
            f"median or worst"
        )


def select_excerpts(config: EvaluateConfig, results: Sequence[tuple[EvaluationTask, TrackResult]]) -> list[str]:
    """Return the names of the excerpts of the report, in the order of `config.excerpts`, and delete all others.

    Tracks are ranked by the SDR of the first system's vocals, or of its first target without vocals. Tracks that an
    earlier run scored may have no excerpt.
    """
    tasks = [task for task, _ in results if task.save_excerpt]
    if not tasks:
        return []
    folder = tasks[0].results.folder
    finished = finished_excerpts(folder)
    candidates = [(task, result) for task, result in results if task.key.name in finished and not result.failed]
    ranked = [result for task, result in candidates if task.system.name == tasks[0].system.name]
    names = [
        task.key.name
        for track_id in _selected_tracks(config, ranked)
        for task, _ in candidates
        if task.track.track_id == track_id
    ]
    delete_excerpts(folder, finished - set(names))
    return names


def _selected_tracks(config: EvaluateConfig, results: Sequence[TrackResult]) -> list[str]:
    finite = [result for result in results if math.isfinite(_sdr(result))]
    ranked = [result.track_id for result in sorted(finite, key=_sdr)]
    selected = []
    for name in config.excerpts:
        if name not in EXCERPT_QUANTILES:
            selected.append(name)
        elif ranked:
            selected.append(ranked[round(EXCERPT_QUANTILES[name] * (len(ranked) - 1))])
    return list(dict.fromkeys(selected))


def _sdr(result: TrackResult) -> float:
    target = display_order(row.target for row in result.rows)[0]
    return next(row for row in result.rows if row.target == target).values.get("SDR", math.nan)
