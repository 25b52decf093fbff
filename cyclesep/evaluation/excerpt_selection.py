"""Which tracks the report lets one hear: excerpts are kept of all that may be chosen, and those not chosen deleted."""

import math
from collections.abc import Sequence

from cyclesep.errors import ConfigError
from cyclesep.evaluation.config import EvaluateConfig
from cyclesep.evaluation.excerpts import delete_excerpts, display_order, finished_excerpts
from cyclesep.evaluation.references import ReferenceTrack
from cyclesep.evaluation.systems import EstimateFolder, Separator, System
from cyclesep.evaluation.track_result import TrackResult
from cyclesep.evaluation.worker import Item

# By SDR, from 0 (worst) to 1 (best).
RANKS = {"best": 1.0, "median": 0.5, "worst": 0.0}


def refuse_unknown(config: EvaluateConfig, tracks: Sequence[ReferenceTrack]) -> None:
    """Raise ConfigError for a name in `heard` that is no track's."""
    known = {track.track_id for track in tracks} | RANKS.keys()
    unknown = [name for name in config.excerpts if name not in known]
    if unknown:
        raise ConfigError(
            f"heard: the {config.split} split holds no track {unknown[0]!r}; name its tracks, or best, median or worst"
        )


def may_be_heard(config: EvaluateConfig, system: System, track: ReferenceTrack) -> bool:
    """Whether an excerpt has to be kept, as far as is known before the scores: of separators, not of yardsticks."""
    wanted = any(name in RANKS or name == track.track_id for name in config.excerpts)
    return wanted and isinstance(system, (Separator, EstimateFolder))


def choose(config: EvaluateConfig, scored: Sequence[tuple[Item, TrackResult]]) -> list[str]:
    """The names of the excerpts to be heard, in the order of `config.heard`; the others of these items are deleted.

    The SDR is that of the first system's vocals, or else first target. What an earlier run has scored may have none.
    """
    items = [item for item, _ in scored if item.keep_excerpt]
    if not items:
        return []
    folder = items[0].results.folder
    finished = finished_excerpts(folder)
    kept = [(item, outcome) for item, outcome in scored if item.part.name in finished and not outcome.failed]
    tracks = _chosen_tracks(config, [outcome for item, outcome in kept if item.system.name == items[0].system.name])
    names = [item.part.name for track in tracks for item, _ in kept if item.track.track_id == track]
    delete_excerpts(folder, finished - set(names))
    return names


def _chosen_tracks(config: EvaluateConfig, outcomes: Sequence[TrackResult]) -> list[str]:
    by_sdr = sorted(
        (outcome for outcome in outcomes if math.isfinite(_sdr(outcome))), key=lambda outcome: _sdr(outcome)
    )
    ranked = [outcome.track_id for outcome in by_sdr]
    chosen = []
    for name in config.excerpts:
        if name not in RANKS:
            chosen.append(name)
        elif ranked:
            chosen.append(ranked[round(RANKS[name] * (len(ranked) - 1))])
    return list(dict.fromkeys(chosen))


def _sdr(outcome: TrackResult) -> float:
    target = display_order(row.target for row in outcome.rows)[0]
    return next(row for row in outcome.rows if row.target == target).values.get("SDR", math.nan)
