"""What there is to do, and what of it an earlier run has done."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from cyclesep import __version__
from cyclesep.evaluation import excerpt_selection
from cyclesep.evaluation.config import EvaluateConfig
from cyclesep.evaluation.references import ReferenceTrack
from cyclesep.evaluation.results import NUM_READERS, PARTS, Part, Results
from cyclesep.evaluation.systems import EstimateFolder, System
from cyclesep.evaluation.track_result import TrackResult
from cyclesep.evaluation.worker import Item


def items_of(
    config: EvaluateConfig, results: Results, systems: Sequence[System], tracks: Sequence[ReferenceTrack]
) -> list[Item]:
    """Each track under each system, in the order of systems; warns of estimates that are missing."""
    for system in systems:
        if isinstance(system, EstimateFolder):
            system.warn_missing_estimates(tracks)
    decisive = [__version__, config.frame_seconds]
    return [
        Item(
            system=system,
            track=track,
            part=Part.of(system.name, track.track_id, [*system.digest(track), *decisive]),
            results=results,
            frame_seconds=config.frame_seconds,
            save_estimates=config.save_estimates,
            keep_excerpt=excerpt_selection.may_be_heard(config, system, track),
        )
        for system in systems
        for track in tracks
    ]


def kept_of(results: Results, items: Sequence[Item]) -> dict[Part, TrackResult]:
    """What an earlier run has left of items, where that is all that is asked for now."""
    parts = results.folder.sizes(PARTS)
    places = {item.museval_json.rpartition("/")[0] for item in items}
    museval = {f"{place}/{name}" for place in places for name in results.folder.sizes(place)}

    def read(item: Item) -> TrackResult | None:
        if item.museval_json not in museval or (
            item.save_estimates and not results.folder.sizes(item.estimates_folder)
        ):
            return None
        return results.read_outcome(item.part, parts)

    with ThreadPoolExecutor(NUM_READERS) as pool:
        found = zip(items, pool.map(read, items), strict=True)
        return {item.part: outcome for item, outcome in found if outcome is not None}
