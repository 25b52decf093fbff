"""Layouts: which tracks of a corpus give the mixtures and which the targets, aligned or never from one track."""

import hashlib
from collections.abc import Sequence, Set
from typing import NamedTuple

import numpy as np

from cyclesep.data.crops.config import CropConfig
from cyclesep.data.crops.sampling import Layout, Pool, Recipe, make_pool
from cyclesep.data.shards.manifest import MIXTURE, TrackRecord
from cyclesep.errors import ConfigError

ACCOMPANIMENT = "accompaniment"
REST = "rest"

# Stems whose sum misses more of the mixture than this are not all of it: what they leave over becomes one more stem.
_COMPLETE_DB = -10.0

# Recordings that never played together are brought to this mean level before they are composed.
_COMPOSED_LEVEL_DB = -20.0


class _Wanted(NamedTuple):
    """What every pool is made for."""

    config: CropConfig
    targets: Sequence[str]
    num_samples: int


def training_layouts(
    tracks: Sequence[TrackRecord], config: CropConfig, *, targets: Sequence[str], num_samples: int, seed: int
) -> tuple[Layout, ...]:
    """The layouts of `config.pairing`, the paired one first where there are two.

    Raises ConfigError if `tracks` hold too little for it, or nothing active where crops have to contain the target.
    """
    wanted = _Wanted(config, targets, num_samples)
    layouts: tuple[Layout, ...]
    if config.pairing == "unpaired":
        layouts = (_unpaired_layout(tracks, wanted, seed),)
    elif config.pairing == "paired":
        layouts = (_required_pairs(_aligned(tracks, wanted), tracks, wanted),)
    elif config.pairing == "on_the_fly":
        layouts = (_required_composed(tracks, wanted),)
    else:
        layouts = _semi_supervised_layouts(tracks, wanted, seed)
    if config.p_active > 0.0:
        _refuse_inactive(layouts, config)
    return layouts


def validation_layout(
    tracks: Sequence[TrackRecord], config: CropConfig, *, targets: Sequence[str], num_samples: int
) -> Layout | None:
    """Pools whose mixtures have known targets: aligned stems, or recordings to compose; none where there are none."""
    wanted = _Wanted(config, targets, num_samples)
    aligned = [track for track in tracks if _is_aligned(track, targets)]
    return _paired_layout(aligned, wanted) if aligned else _composed_layout(tracks, wanted)


def _is_aligned(track: TrackRecord, targets: Sequence[str]) -> bool:
    return set(targets) <= set(track.stems) and len(track.stems) > 1


def _aligned(tracks: Sequence[TrackRecord], wanted: _Wanted) -> list[TrackRecord]:
    """The tracks that give aligned stems; fewer of them are always among more of them, whatever the seed."""
    able = [track for track in tracks if _is_aligned(track, wanted.targets)]
    number = wanted.config.num_paired_tracks
    if number is None:
        return able
    if number > len(able):
        raise ConfigError(
            f"crops.num_paired_tracks={number}: only {len(able)} tracks hold {' and '.join(wanted.targets)} and the "
            "mixture or the other stems; ask for fewer"
        )
    chosen = set(_shuffled({track.track_id for track in able}, "paired")[:number])
    return [track for track in able if track.track_id in chosen]


def _required_pairs(
    aligned: Sequence[TrackRecord],
    tracks: Sequence[TrackRecord],
    wanted: _Wanted,
) -> Layout:
    if not aligned:
        raise ConfigError(
            f"pairing={wanted.config.pairing} needs tracks that hold {' and '.join(wanted.targets)} and the mixture or "
            f"the other stems; {_holdings(tracks)}; name other targets, or set crops.pairing=unpaired"
        )
    return _paired_layout(aligned, wanted)


def _required_composed(tracks: Sequence[TrackRecord], wanted: _Wanted) -> Layout:
    layout = _composed_layout(tracks, wanted)
    if layout is None:
        raise ConfigError(
            f"pairing=on_the_fly needs tracks that hold {ACCOMPANIMENT} alone, and others that hold "
            f"{' and '.join(wanted.targets)}; {_holdings(tracks)}; ingest them with corpus.kind=unpaired "
            "corpus.background_type=accompaniment, or set another crops.pairing"
        )
    return layout


def _composed_layout(tracks: Sequence[TrackRecord], wanted: _Wanted) -> Layout | None:
    """Mixtures of recordings that never played together, whose targets are known; None without such recordings."""
    alone = _alone(tracks)
    voices = _by_target(tracks, wanted.targets)
    if not alone or not all(voices):
        return None
    pools = _composed_pools(alone, voices, wanted)
    return Layout(pools=tuple(pools), mixture=slice(None), target=slice(1, None), paired=True)


def _semi_supervised_layouts(tracks: Sequence[TrackRecord], wanted: _Wanted, seed: int) -> tuple[Layout, Layout]:
    """Aligned tracks, and the others unpaired; where the others lack mixtures or targets, aligned tracks give them."""
    aligned = _aligned(tracks, wanted)
    paired = _required_pairs(aligned, tracks, wanted)
    chosen = {track.track_id for track in aligned}
    others = [track for track in tracks if track.track_id not in chosen]
    for givers, takers in ((others, others), (others, aligned), (aligned, others)):
        unpaired = _pooled_apart(givers, takers, wanted, seed)
        if unpaired is not None:
            return paired, unpaired
    raise ConfigError(
        f"pairing=semi_supervised: beside the {len(aligned)} paired tracks none hold a mixture, {ACCOMPANIMENT} or "
        f"{' and '.join(wanted.targets)}; {_holdings(tracks)}; set crops.num_paired_tracks, or crops.pairing=paired"
    )


def _refuse_inactive(layouts: Sequence[Layout], config: CropConfig) -> None:
    silent = [target for layout in layouts for pool in layout.pools for target in pool.silent_targets]
    if silent:
        raise ConfigError(
            f"crops.p_active={config.p_active:g}: no second of {silent[0]} is as loud as crops.active_threshold_db="
            f"{config.active_threshold_db:g} in the tracks that give it; lower active_threshold_db, or set p_active=0"
        )


def _paired_layout(usable: Sequence[TrackRecord], wanted: _Wanted) -> Layout:
    others = {stem for track in usable for stem in track.stems} - {*wanted.targets, MIXTURE}
    named = (*wanted.targets, *(sorted(others) if wanted.config.mixture == "sum" else ()))
    resting = [
        MIXTURE in track.stems and (wanted.config.mixture == "recorded" or _incomplete(track)) for track in usable
    ]
    slots = (*named, REST) if any(resting) else named
    recipes = [_recipe(track, slots, rest=rest) for track, rest in zip(usable, resting, strict=True)]
    pool = make_pool(
        usable,
        recipes,
        num_samples=wanted.num_samples,
        targets=wanted.targets,
        active_threshold_db=wanted.config.active_threshold_db,
    )
    return Layout(pools=(pool,), mixture=slice(None), target=slice(0, len(wanted.targets)), paired=True)


def _incomplete(track: TrackRecord) -> bool:
    return track.residual_db is not None and track.residual_db > _COMPLETE_DB


def _recipe(track: TrackRecord, slots: Sequence[str], *, rest: bool) -> Recipe:
    """Each slot is the stem of its name (or silence); REST is what the mixture holds beside the stems read."""
    stems = tuple(stem for stem in slots if stem in track.stems)
    if stems == tuple(slots):
        return Recipe(stems)
    weights = np.array([[float(slot == stem) for stem in stems] for slot in slots], dtype=np.float32)
    if rest:
        stems, weights = (*stems, MIXTURE), np.pad(weights, ((0, 0), (0, 1)))
        weights[-1] = [-1.0] * (len(stems) - 1) + [1.0]
    return Recipe(stems, weights)


def _unpaired_layout(tracks: Sequence[TrackRecord], wanted: _Wanted, seed: int) -> Layout:
    layout = _pooled_apart(tracks, tracks, wanted, seed)
    if layout is None:
        raise ConfigError(
            f"pairing=unpaired needs tracks that hold a mixture or {ACCOMPANIMENT}, and other tracks that hold "
            f"{' and '.join(wanted.targets)}; {_holdings(tracks)}"
        )
    return layout


def _pooled_apart(
    givers: Sequence[TrackRecord],
    takers: Sequence[TrackRecord],
    wanted: _Wanted,
    seed: int,
) -> Layout | None:
    """Mixtures (or what they are composed of) from `givers`, targets from `takers`, never both from one track.

    Tracks that could give both are dealt to one side each. None if a side would be left empty.
    """
    mixed = [track for track in givers if MIXTURE in track.stems or len(track.stems) > 1]
    targeted = [track for track in takers if set(wanted.targets) & set(track.stems)]
    alone = _alone(givers)
    sources = mixed or [track for track in givers if set(wanted.targets) & set(track.stems)]
    either = {track.track_id for track in targeted} & {track.track_id for track in sources}
    mixing = _dealt(
        either,
        wanted.config.mixture_track_fraction,
        seed,
        spare=(len(sources) - len(either), len(targeted) - len(either)),
    )
    giving = [track for track in sources if track.track_id in mixing or track.track_id not in either]
    by_target = _by_target([track for track in targeted if track.track_id not in mixing], wanted.targets)
    voices = _by_target(giving, wanted.targets)
    if not all(by_target) or not (giving if mixed else alone and all(voices)):
        return None
    if mixed:
        pools = [_mixture_pool(giving, wanted)]
    else:
        pools = _composed_pools(alone, voices, wanted)
    level_db = None if mixed else _COMPOSED_LEVEL_DB
    parts = sum(pool.slots for pool in pools)
    pools += [_stem_pool(*part, wanted, level_db) for part in zip(by_target, wanted.targets, strict=True)]
    return Layout(pools=tuple(pools), mixture=slice(0, parts), target=slice(parts, None), paired=False)


def _alone(tracks: Sequence[TrackRecord]) -> list[TrackRecord]:
    return [track for track in tracks if set(track.stems) == {ACCOMPANIMENT}]


def _by_target(tracks: Sequence[TrackRecord], targets: Sequence[str]) -> list[list[TrackRecord]]:
    return [[track for track in tracks if target in track.stems] for target in targets]


def _dealt(track_ids: Set[str], share: float, seed: int, *, spare: tuple[int, int]) -> set[str]:
    """The tracks that give mixtures: a seeded choice that leaves neither side empty, unless it has `spare` tracks."""
    order = _shuffled(track_ids, str(seed))
    least, most = int(spare[0] == 0), len(order) - int(spare[1] == 0)
    return set(order[: max(0, min(max(round(share * len(order)), least), most))])


def _shuffled(track_ids: Set[str], salt: str) -> list[str]:
    """In the order of a hash of the names."""
    return sorted(track_ids, key=lambda track_id: hashlib.blake2b(f"{salt}/{track_id}".encode()).digest())


def _mixture_pool(tracks: Sequence[TrackRecord], wanted: _Wanted) -> Pool:
    recipes = [
        Recipe((MIXTURE,))
        if MIXTURE in track.stems
        else Recipe(track.stems, np.ones((1, len(track.stems)), np.float32))
        for track in tracks
    ]
    return make_pool(
        tracks,
        recipes,
        num_samples=wanted.num_samples,
        targets=wanted.targets,
        active_threshold_db=wanted.config.active_threshold_db,
    )


def _composed_pools(
    alone: Sequence[TrackRecord],
    voices: Sequence[Sequence[TrackRecord]],
    wanted: _Wanted,
) -> list[Pool]:
    """One pool of accompaniments, then one for each target; a crop of each, at a random ratio, makes a mixture."""
    below = _stem_pool(alone, ACCOMPANIMENT, wanted, _COMPOSED_LEVEL_DB)
    above = [
        _stem_pool(tracks, target, wanted, _COMPOSED_LEVEL_DB, spread_db=wanted.config.max_level_offset_db)
        for tracks, target in zip(voices, wanted.targets, strict=True)
    ]
    return [below, *above]


def _stem_pool(
    tracks: Sequence[TrackRecord],
    stem: str,
    wanted: _Wanted,
    level_db: float | None,
    spread_db: float = 0.0,
) -> Pool:
    return make_pool(
        tracks,
        [Recipe((stem,))] * len(tracks),
        num_samples=wanted.num_samples,
        targets=() if stem == ACCOMPANIMENT else (stem,),
        active_threshold_db=wanted.config.active_threshold_db,
        level_db=level_db,
        spread_db=spread_db,
    )


def _holdings(tracks: Sequence[TrackRecord]) -> str:
    kinds = sorted({"+".join(track.stems) for track in tracks})
    return f"{len(tracks)} tracks were found, holding {' | '.join(kinds[:5]) or 'nothing'}"
