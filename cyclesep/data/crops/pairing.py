"""Samplers for each pairing mode: which tracks provide mixtures and which provide targets."""

import hashlib
from collections.abc import Sequence, Set
from typing import NamedTuple

import numpy as np

from cyclesep.audio.stem_names import ACCOMPANIMENT, MIXTURE
from cyclesep.data.crops.config import CropConfig
from cyclesep.data.crops.sampling import CropSampler, StemMix, TrackPool, make_pool
from cyclesep.data.shards.manifest import TrackRecord
from cyclesep.errors import ConfigError

REST = "rest"
"""Slot of the residual: the mixture minus the stems."""

# If the residual of the stems exceeds this level relative to the mixture, it becomes an additional stem.
_COMPLETE_DB = -10.0

# Mean level to which unrelated recordings are scaled before they are mixed on the fly.
_ON_THE_FLY_LEVEL_DB = -20.0


class _PoolSpec(NamedTuple):
    """Parameters that all pools of a sampler have in common."""

    config: CropConfig
    targets: Sequence[str]
    num_samples: int


def training_samplers(
    tracks: Sequence[TrackRecord], config: CropConfig, *, targets: Sequence[str], num_samples: int, seed: int
) -> tuple[CropSampler, ...]:
    """Return the samplers for `config.pairing`; semi_supervised has two, the paired one first.

    Raises ConfigError if `tracks` lack the stems for it, or if `config.p_active` is set and a target is never active.
    """
    spec = _PoolSpec(config, targets, num_samples)
    samplers: tuple[CropSampler, ...]
    if config.pairing == "unpaired":
        samplers = (_require_unpaired(tracks, spec, seed),)
    elif config.pairing == "paired":
        samplers = (_require_paired(_paired_tracks(tracks, spec), tracks, spec),)
    elif config.pairing == "on_the_fly":
        samplers = (_require_on_the_fly(tracks, spec),)
    else:
        samplers = _semi_supervised_samplers(tracks, spec, seed)
    if config.p_active > 0.0:
        _check_active(samplers, config)
    return samplers


def validation_sampler(
    tracks: Sequence[TrackRecord], config: CropConfig, *, targets: Sequence[str], num_samples: int
) -> CropSampler | None:
    """Return a sampler of mixtures with reference targets, or None if `tracks` do not provide them.

    It samples the tracks with aligned stems; if there are none, it mixes targets and accompaniments on the fly.
    """
    spec = _PoolSpec(config, targets, num_samples)
    aligned = [track for track in tracks if _is_aligned(track, targets)]
    return _paired_sampler(aligned, spec) if aligned else _on_the_fly_sampler(tracks, spec)


def _is_aligned(track: TrackRecord, targets: Sequence[str]) -> bool:
    return set(targets) <= set(track.stems) and len(track.stems) > 1


def _paired_tracks(tracks: Sequence[TrackRecord], spec: _PoolSpec) -> list[TrackRecord]:
    """Return `num_paired_tracks` tracks with aligned stems.

    The choice does not depend on the seed, and a smaller number selects a subset of a larger one.
    """
    usable = [track for track in tracks if _is_aligned(track, spec.targets)]
    number = spec.config.num_paired_tracks
    if number is None:
        return usable
    if number > len(usable):
        raise ConfigError(
            f"crops.num_paired_tracks={number}: only {len(usable)} tracks contain {' and '.join(spec.targets)} and the "
            "mixture or the other stems; set a smaller number"
        )
    chosen = set(_hash_order({track.track_id for track in usable}, "paired")[:number])
    return [track for track in usable if track.track_id in chosen]


def _require_paired(aligned: Sequence[TrackRecord], tracks: Sequence[TrackRecord], spec: _PoolSpec) -> CropSampler:
    if not aligned:
        raise ConfigError(
            f"pairing={spec.config.pairing} needs tracks that contain {' and '.join(spec.targets)} and the mixture or "
            f"the other stems; {_describe(tracks)}; set other targets, or crops.pairing=unpaired"
        )
    return _paired_sampler(aligned, spec)


def _require_on_the_fly(tracks: Sequence[TrackRecord], spec: _PoolSpec) -> CropSampler:
    sampler = _on_the_fly_sampler(tracks, spec)
    if sampler is None:
        raise ConfigError(
            f"pairing=on_the_fly needs tracks that contain only {ACCOMPANIMENT}, and others that contain "
            f"{' and '.join(spec.targets)}; {_describe(tracks)}; ingest them with corpus.kind=unpaired "
            "corpus.background_type=accompaniment, or set another crops.pairing"
        )
    return sampler


def _require_unpaired(tracks: Sequence[TrackRecord], spec: _PoolSpec, seed: int) -> CropSampler:
    sampler = _unpaired_sampler(tracks, tracks, spec, seed)
    if sampler is None:
        raise ConfigError(
            f"pairing=unpaired needs tracks that contain a mixture or {ACCOMPANIMENT}, and other tracks that contain "
            f"{' and '.join(spec.targets)}; {_describe(tracks)}"
        )
    return sampler


def _semi_supervised_samplers(
    tracks: Sequence[TrackRecord], spec: _PoolSpec, seed: int
) -> tuple[CropSampler, CropSampler]:
    """Return a sampler of the paired tracks and an unpaired sampler of the others.

    If the others lack mixtures or targets, the unpaired sampler takes those from the paired tracks.
    """
    aligned = _paired_tracks(tracks, spec)
    paired = _require_paired(aligned, tracks, spec)
    chosen = {track.track_id for track in aligned}
    others = [track for track in tracks if track.track_id not in chosen]
    for mixture_tracks, target_tracks in ((others, others), (others, aligned), (aligned, others)):
        unpaired = _unpaired_sampler(mixture_tracks, target_tracks, spec, seed)
        if unpaired is not None:
            return paired, unpaired
    raise ConfigError(
        f"pairing=semi_supervised: apart from the {len(aligned)} paired tracks, no track contains a mixture, "
        f"{ACCOMPANIMENT} or {' and '.join(spec.targets)}; {_describe(tracks)}; set crops.num_paired_tracks, or "
        "crops.pairing=paired"
    )


def _check_active(samplers: Sequence[CropSampler], config: CropConfig) -> None:
    """Raise ConfigError if a target is never active in the tracks that provide it."""
    silent = [target for sampler in samplers for pool in sampler.pools for target in pool.silent_targets]
    if silent:
        raise ConfigError(
            f"crops.p_active={config.p_active:g}: no second of {silent[0]} reaches crops.active_threshold_db="
            f"{config.active_threshold_db:g} in the tracks that provide it; lower active_threshold_db, or set "
            "p_active=0"
        )


def _paired_sampler(tracks: Sequence[TrackRecord], spec: _PoolSpec) -> CropSampler:
    others = {stem for track in tracks for stem in track.stems} - {*spec.targets, MIXTURE}
    named = (*spec.targets, *(sorted(others) if spec.config.mixture == "sum" else ()))
    with_rest = [
        MIXTURE in track.stems and (spec.config.mixture == "recorded" or _is_incomplete(track)) for track in tracks
    ]
    slots = (*named, REST) if any(with_rest) else named
    stem_mixes = [_stem_mix(track, slots, rest=rest) for track, rest in zip(tracks, with_rest, strict=True)]
    pool = make_pool(
        tracks,
        stem_mixes,
        num_samples=spec.num_samples,
        targets=spec.targets,
        active_threshold_db=spec.config.active_threshold_db,
    )
    return CropSampler(pools=(pool,), mixture_slots=slice(None), target_slots=slice(0, len(spec.targets)), paired=True)


def _is_incomplete(track: TrackRecord) -> bool:
    return track.residual_db is not None and track.residual_db > _COMPLETE_DB


def _stem_mix(track: TrackRecord, slots: Sequence[str], *, rest: bool) -> StemMix:
    """Return the mix that fills each slot with the stem of that name, or silence, and REST with the residual."""
    stems = tuple(stem for stem in slots if stem in track.stems)
    if stems == tuple(slots):
        return StemMix(stems)
    weights = np.array([[float(slot == stem) for stem in stems] for slot in slots], dtype=np.float32)
    if rest:
        stems, weights = (*stems, MIXTURE), np.pad(weights, ((0, 0), (0, 1)))
        weights[-1] = [-1.0] * (len(stems) - 1) + [1.0]
    return StemMix(stems, weights)


def _unpaired_sampler(
    mixture_tracks: Sequence[TrackRecord], target_tracks: Sequence[TrackRecord], spec: _PoolSpec, seed: int
) -> CropSampler | None:
    """Return a sampler of mixtures from `mixture_tracks` and targets from `target_tracks`, never from the same track.

    Tracks that could provide both are split between the two. Without mixtures, accompaniments are mixed with targets on
    the fly. Returns None if no tracks remain for the mixtures or for a target.
    """
    with_mixture = [track for track in mixture_tracks if MIXTURE in track.stems or len(track.stems) > 1]
    with_target = [track for track in target_tracks if set(spec.targets) & set(track.stems)]
    accompaniments = _accompaniment_only(mixture_tracks)
    sources = with_mixture or [track for track in mixture_tracks if set(spec.targets) & set(track.stems)]
    either = {track.track_id for track in with_target} & {track.track_id for track in sources}
    for_mixtures = _split_tracks(
        either,
        spec.config.mixture_track_fraction,
        seed,
        num_others=(len(sources) - len(either), len(with_target) - len(either)),
    )
    sources = [track for track in sources if track.track_id in for_mixtures or track.track_id not in either]
    targets = _by_target([track for track in with_target if track.track_id not in for_mixtures], spec.targets)
    mixed_targets = _by_target(sources, spec.targets)
    if not all(targets) or not (sources if with_mixture else accompaniments and all(mixed_targets)):
        return None
    if with_mixture:
        pools, level_db = [_mixture_pool(sources, spec)], None
    else:
        pools, level_db = _on_the_fly_pools(accompaniments, mixed_targets, spec), _ON_THE_FLY_LEVEL_DB
    num_mixture_slots = sum(pool.num_slots for pool in pools)
    pools += [_stem_pool(tracks, target, spec, level_db) for tracks, target in zip(targets, spec.targets, strict=True)]
    return CropSampler(
        pools=tuple(pools),
        mixture_slots=slice(0, num_mixture_slots),
        target_slots=slice(num_mixture_slots, None),
        paired=False,
    )


def _accompaniment_only(tracks: Sequence[TrackRecord]) -> list[TrackRecord]:
    return [track for track in tracks if set(track.stems) == {ACCOMPANIMENT}]


def _by_target(tracks: Sequence[TrackRecord], targets: Sequence[str]) -> list[list[TrackRecord]]:
    return [[track for track in tracks if target in track.stems] for target in targets]


def _split_tracks(track_ids: Set[str], fraction: float, seed: int, *, num_others: tuple[int, int]) -> set[str]:
    """Return the tracks used for mixtures: a random `fraction`, such that neither mixtures nor targets are empty.

    `num_others` is the number of further tracks for mixtures and for targets. Only where it is 0, at least one of
    `track_ids` is reserved.
    """
    order = _hash_order(track_ids, str(seed))
    least, most = int(num_others[0] == 0), len(order) - int(num_others[1] == 0)
    return set(order[: max(0, min(max(round(fraction * len(order)), least), most))])


def _hash_order(track_ids: Set[str], salt: str) -> list[str]:
    """Return the names in the order of their salted hashes."""
    return sorted(track_ids, key=lambda track_id: hashlib.blake2b(f"{salt}/{track_id}".encode()).digest())


def _mixture_pool(tracks: Sequence[TrackRecord], spec: _PoolSpec) -> TrackPool:
    """Return a pool of recorded mixtures, or the sum of the stems of tracks without one."""
    stem_mixes = [
        StemMix((MIXTURE,))
        if MIXTURE in track.stems
        else StemMix(track.stems, np.ones((1, len(track.stems)), np.float32))
        for track in tracks
    ]
    return make_pool(
        tracks,
        stem_mixes,
        num_samples=spec.num_samples,
        targets=spec.targets,
        active_threshold_db=spec.config.active_threshold_db,
    )


def _on_the_fly_sampler(tracks: Sequence[TrackRecord], spec: _PoolSpec) -> CropSampler | None:
    """Return a sampler of mixtures of unrelated recordings, with their targets; None without such recordings."""
    accompaniments = _accompaniment_only(tracks)
    target_tracks = _by_target(tracks, spec.targets)
    if not accompaniments or not all(target_tracks):
        return None
    pools = _on_the_fly_pools(accompaniments, target_tracks, spec)
    return CropSampler(pools=tuple(pools), mixture_slots=slice(None), target_slots=slice(1, None), paired=True)


def _on_the_fly_pools(
    accompaniments: Sequence[TrackRecord], target_tracks: Sequence[Sequence[TrackRecord]], spec: _PoolSpec
) -> list[TrackPool]:
    """Return a pool of accompaniments and one per target; a mixture is the sum of crops at random levels from each."""
    accompaniment_pool = _stem_pool(accompaniments, ACCOMPANIMENT, spec, _ON_THE_FLY_LEVEL_DB)
    target_pools = [
        _stem_pool(tracks, target, spec, _ON_THE_FLY_LEVEL_DB, max_offset_db=spec.config.max_level_offset_db)
        for tracks, target in zip(target_tracks, spec.targets, strict=True)
    ]
    return [accompaniment_pool, *target_pools]


def _stem_pool(
    tracks: Sequence[TrackRecord], stem: str, spec: _PoolSpec, level_db: float | None, max_offset_db: float = 0.0
) -> TrackPool:
    return make_pool(
        tracks,
        [StemMix((stem,))] * len(tracks),
        num_samples=spec.num_samples,
        targets=() if stem == ACCOMPANIMENT else (stem,),
        active_threshold_db=spec.config.active_threshold_db,
        level_db=level_db,
        max_offset_db=max_offset_db,
    )


def _describe(tracks: Sequence[TrackRecord]) -> str:
    """Return the number of tracks and their combinations of stems, for an error message."""
    kinds = sorted({"+".join(track.stems) for track in tracks})
    return f"found {len(tracks)} tracks, which contain {' | '.join(kinds[:5]) or 'nothing'}"
