"""Crop streams: reproducibility, uniform sampling, pairing modes, active crops and validation crops."""

import dataclasses
import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
import torch

from cyclesep.config import settings
from cyclesep.data.crops.config import AugmentConfig, CropConfig
from cyclesep.data.crops.dataset import Batch, CropStream, crop_loader, validation_crops
from cyclesep.data.shards.manifest import make_manifest, write_manifest
from cyclesep.data.shards.reading import ShardReader
from cyclesep.data.shards.writing import write_track
from cyclesep.errors import ConfigError

RATE = 1000
EVERYTHING = AugmentConfig(p_remix=0.7, p_speed=0.4, speed_percent=20)
OFF = AugmentConfig(gain_db=0.0, p_polarity=0.0, p_channel_swap=0.0, p_remix=0.0)
MUSIC = ("vocals", "drums", "bass")


def write_corpus(
    folder: Path, tracks: Sequence[tuple[Mapping[str, np.ndarray], str]], names: Sequence[str] = ()
) -> ShardReader:
    records = [
        write_track(
            folder,
            {stem: np.asarray(samples, np.float32) for stem, samples in stems.items()},
            track_id=names[number] if names else f"track {number}",
            split=split,
            sample_rate=RATE,
            segment_samples=700,
        )
        for number, (stems, split) in enumerate(tracks)
    ]
    write_manifest(folder, make_manifest(records))
    return ShardReader(folder)


def song(number: int, seconds: float, stems: Sequence[str] = MUSIC, *, mixture: bool = True) -> dict[str, np.ndarray]:
    """Return stereo noise quantized to 16 bits; the mixture is the exact sum of the stems."""
    rng = np.random.default_rng(number)
    shape = (2, round(seconds * RATE))
    parts = {stem: rng.integers(-8000, 8000, shape).astype(np.float32) / 32768 for stem in stems}
    total = {"mixture": np.sum(list(parts.values()), axis=0)} if mixture else {}
    return total | parts


def constant(number: int, seconds: float, stems: Sequence[str]) -> dict[str, np.ndarray]:
    """Return mono stems with all samples at (number + 1) / 1024, which identifies the track of a crop."""
    return {stem: np.full((1, round(seconds * RATE)), (number + 1) / 1024) for stem in stems}


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> ShardReader:
    """Shards of six training songs of 2 to 4.5 seconds and two validation songs."""
    tracks = [(song(number, 2.0 + 0.5 * number), "train") for number in range(6)]
    tracks += [(song(10 + number, 3.0), "valid") for number in range(2)]
    return write_corpus(tmp_path_factory.mktemp("songs"), tracks)


def config(**changes: object) -> CropConfig:
    return CropConfig(**({"crop_seconds": 0.5, "batch_size": 32, "augment": OFF} | changes))  # type: ignore[arg-type]


def batches(stream: CropStream) -> list[Batch]:
    return list(crop_loader(stream))


def test_batch_shapes_and_mixture_as_sum_of_stems(reader: ShardReader) -> None:
    stream = CropStream(reader, config(), targets=MUSIC, num_steps=2)
    for batch in batches(stream):
        assert batch.mixture.shape == (32, 2, 500)
        assert batch.target.shape == (32, 3, 2, 500)
        assert batch.mixture.dtype == batch.target.dtype == torch.float32
        assert batch.paired
        torch.testing.assert_close(batch.mixture, batch.target.sum(1), rtol=0, atol=1e-7)


def test_paired_targets_match_track_at_crop_location(reader: ShardReader) -> None:
    stream = CropStream(reader, config(), targets=("drums",), num_steps=1)
    (batch,) = batches(stream)
    for row, index in enumerate(stream.crop_indices(0)):
        (location,) = stream.plan(index).locations
        track = stream.samplers[0].pools[0].tracks[location.track]
        drums = song(int(track.track_id.split()[1]), track.seconds)["drums"]
        assert np.array_equal(batch.target[row, 0].numpy(), drums[:, location.start : location.start + 500])


@pytest.mark.parametrize("world_size", [2, 4, 8, 16])
@pytest.mark.parametrize("pairing", ["paired", "unpaired", "semi_supervised"])
def test_crops_do_not_depend_on_number_of_workers(reader: ShardReader, pairing: str, world_size: int) -> None:
    chosen = config(pairing=pairing, num_paired_tracks=3, batch_size=16, augment=EVERYTHING)
    whole = batches(CropStream(reader, chosen, targets=("vocals",), seed=3, num_steps=3))
    for rank in range(world_size):
        stream = CropStream(reader, chosen, targets=("vocals",), seed=3, num_steps=3, rank=rank, world_size=world_size)
        for part, expected in zip(batches(stream), whole, strict=True):
            assert part.paired == expected.paired
            assert torch.equal(part.mixture, expected.mixture[rank::world_size])
            assert torch.equal(part.target, expected.target[rank::world_size])


@pytest.mark.parametrize("augmentation", [OFF, EVERYTHING])
def test_resumed_stream_continues_with_same_crops(reader: ShardReader, augmentation: AugmentConfig) -> None:
    chosen = config(batch_size=16, augment=augmentation)
    whole = batches(CropStream(reader, chosen, targets=("vocals",), num_steps=5))
    later = batches(CropStream(reader, chosen, targets=("vocals",), start_step=3, num_steps=2))
    for original, resumed in zip(whole[3:], later, strict=True):
        assert torch.equal(original.mixture, resumed.mixture)
        assert torch.equal(original.target, resumed.target)
    assert not torch.equal(whole[0].mixture, whole[1].mixture)


@pytest.mark.parametrize("pairing", ["paired", "semi_supervised"])
def test_mixtures_are_sum_of_augmented_stems(reader: ShardReader, pairing: str) -> None:
    chosen = config(pairing=pairing, num_paired_tracks=4, batch_size=8, augment=EVERYTHING)
    paired = [batch for batch in batches(CropStream(reader, chosen, targets=MUSIC, num_steps=8)) if batch.paired]
    assert len(paired) > 1
    for batch in paired:
        torch.testing.assert_close(batch.mixture, batch.target.sum(1), rtol=0, atol=1e-6)
        assert float(batch.mixture.square().mean((1, 2)).min()) > 1e-4


def test_loader_processes_preserve_order(reader: ShardReader) -> None:
    chosen = config(batch_size=8, augment=EVERYTHING)
    stream = CropStream(reader, chosen, targets=("vocals",), start_step=1, num_steps=5)
    prefetched = list(crop_loader(stream, num_processes=2))
    assert len(prefetched) == 5
    assert all(torch.equal(a.mixture, b.mixture) for a, b in zip(batches(stream), prefetched, strict=True))


@pytest.mark.parametrize("speed_percent", [None, 10])
def test_starts_are_uniform_over_all_tracks(reader: ShardReader, speed_percent: int | None) -> None:
    """Chi-square over 60 equal parts of all songs, also for the other excerpt lengths of a changed speed."""
    changes = dataclasses.replace(OFF, p_speed=1.0, speed_percent=speed_percent or 0)
    stream = CropStream(reader, config(augment=changes if speed_percent else OFF), targets=("vocals",), seed=11)
    (pool,) = stream.samplers[0].pools
    plans = [stream.plan(number) for number in range(20_000)]
    parts = np.zeros(60)
    expected = np.zeros(60)
    for length in {plan.num_samples for plan in plans}:
        chosen = [plan.locations[0] for plan in plans if plan.num_samples == length]
        valid = np.array([track.num_samples - length + 1 for track in pool.tracks])
        before = np.concatenate([[0], np.cumsum(valid)])
        starts, tracks = (
            np.array([location.start for location in chosen]),
            np.array([location.track for location in chosen]),
        )
        assert (starts >= 0).all()
        assert (starts < valid[tracks]).all()
        edges = np.linspace(0, before[-1], 61)
        parts += np.histogram(before[tracks] + starts, bins=edges)[0]
        # Starts are integers, so the expected count of each bin follows exactly from its edges.
        expected += np.diff(np.ceil(edges)) / before[-1] * len(chosen)
    assert len({plan.num_samples for plan in plans}) == (2 * speed_percent + 1 if speed_percent else 1)
    assert scipy.stats.chisquare(parts, expected).pvalue > 0.001


def test_single_starts_are_equally_frequent(tmp_path: Path) -> None:
    """Chi-square over single starts, which detects a missing first or last start."""
    tracks = [
        (constant(number, seconds, ("vocals", "drums")), "train") for number, seconds in enumerate((0.51, 0.5, 0.53))
    ]
    stream = CropStream(write_corpus(tmp_path, tracks), config(), targets=("vocals",), seed=5)
    locations = [stream.plan(number).locations[0] for number in range(9000)]
    counts: Counter[tuple[int, int]] = Counter((location.track, location.start) for location in locations)
    every = [(0, start) for start in range(11)] + [(1, 0)] + [(2, start) for start in range(31)]
    assert set(counts) == set(every)
    assert scipy.stats.chisquare([counts[start] for start in every]).pvalue > 0.001


def test_excerpts_of_changed_speed_are_within_the_track_without_silence(tmp_path: Path) -> None:
    """Crops of 0.5 s need 0.4 to 0.6 s: tracks of 0.65, 1 and 3 s are long enough, a track of 0.39 s is not."""
    tone = [
        {"vocals": np.sin(np.arange(round(1000 * seconds)) * 0.9)[None] * 0.5} for seconds in (0.65, 1.0, 3.0, 0.39)
    ]
    tracks = [(stems | {"drums": stems["vocals"] * 0.5}, "train") for stems in tone]
    always = dataclasses.replace(OFF, p_speed=1.0, speed_percent=20)
    stream = CropStream(write_corpus(tmp_path, tracks), config(augment=always), targets=("vocals",))
    (pool,) = stream.samplers[0].pools
    needed = set()
    for number in range(300):
        plan = stream.plan(number)
        (location,) = plan.locations
        assert 0 <= location.start <= pool.tracks[location.track].num_samples - plan.num_samples
        assert plan.speed == 100 or pool.tracks[location.track].num_samples > 390
        needed.add(plan.num_samples)
    assert (min(needed), max(needed)) == (400, 600)
    for batch in itertools.islice(iter(stream), 4):
        assert float(batch.target.unfold(-1, 20, 20).square().mean(-1).min()) > 0.02


def test_speed_stays_unchanged_if_no_track_is_long_enough(tmp_path: Path) -> None:
    reader = write_corpus(tmp_path, [(constant(0, 0.2, ("vocals", "drums")), "train")])
    always = dataclasses.replace(OFF, p_speed=1.0)
    changed = CropStream(reader, config(augment=always), targets=("vocals",), num_steps=1)
    recorded = CropStream(reader, config(), targets=("vocals",), num_steps=1)
    assert {changed.plan(number).num_samples for number in range(32)} == {500}
    assert torch.equal(batches(changed)[0].mixture, batches(recorded)[0].mixture)


def test_stems_share_speed_before_remix(tmp_path: Path) -> None:
    """All stems of song n are the same tone: after the remix, each has one of the changed pitches of the songs."""
    time = np.arange(3000) / RATE
    songs = [
        ({stem: 0.3 * np.sin(2 * np.pi * (40 + 10 * n) * time)[None] for stem in MUSIC}, "train") for n in range(4)
    ]
    augmentation = dataclasses.replace(OFF, p_remix=1.0, p_speed=0.5, speed_percent=16)
    chosen = config(batch_size=8, augment=augmentation)
    stream = CropStream(write_corpus(tmp_path, songs), chosen, targets=MUSIC, num_steps=6)
    spectra = torch.fft.rfft(torch.cat([batch.target for batch in batches(stream)])[:, :, 0], n=1 << 15).abs()
    found = spectra.argmax(-1) * RATE / (1 << 15)
    expected = {
        round((40 + 10 * plan.locations[0].track) * plan.speed / 100, 3)
        for plan in (stream.plan(number) for number in range(48))
    }
    distance = (found[:, :, None] - torch.tensor(sorted(expected))).abs().amin(-1)
    assert float(distance.max()) < 0.25
    assert (found.amax(1) - found.amin(1) > 5).float().mean() > 0.5


def test_start_index_includes_first_and_last_start_of_each_track(reader: ShardReader) -> None:
    (pool,) = CropStream(reader, config(), targets=("vocals",)).samplers[0].pools
    every = [pool.starts[number] for number in range(len(pool.starts))]
    assert every == [
        (index, start) for index, track in enumerate(pool.tracks) for start in range(track.num_samples - 499)
    ]


def test_short_track_is_zero_padded_at_random_offset(tmp_path: Path) -> None:
    reader = write_corpus(tmp_path, [(constant(0, 0.1, ("vocals", "drums")), "train")])
    stream = CropStream(reader, config(), targets=("vocals",), num_steps=4)
    firsts = set()
    for batch in batches(stream):
        for crop in batch.target[:, 0, 0]:
            nonzero = torch.nonzero(crop).flatten()
            assert len(nonzero) == 100
            assert nonzero[-1] - nonzero[0] == 99
            firsts.add(int(nonzero[0]))
    assert len(firsts) > 64
    assert min(firsts) < 20
    assert max(firsts) > 380


def tones(number: int, stems: Sequence[str]) -> dict[str, np.ndarray]:
    """Return tones of 10 * (number + 3) Hz, which identify the track despite gain, polarity and channel swap."""
    tone = 0.25 * np.sin(2 * np.pi * 10 * (number + 3) * np.arange(1200) / RATE)
    return {stem: np.stack([tone, 0.5 * tone]) for stem in stems}


def track_numbers(crops: torch.Tensor) -> set[int]:
    """Return the track numbers of crops `(..., 500)` of `tones`."""
    return set((torch.fft.rfft(crops).abs().argmax(-1).flatten() // 5 - 3).tolist())


@pytest.mark.parametrize("pairing", ["unpaired", "semi_supervised"])
def test_unpaired_mixtures_and_targets_use_disjoint_tracks(tmp_path: Path, pairing: str) -> None:
    """No track is used for both mixtures and targets, over all workers and steps, with augmentation."""
    stems = ("mixture", "vocals", "drums")
    reader = write_corpus(tmp_path, [(tones(number, stems), "train") for number in range(12)])
    augmentation = AugmentConfig(p_remix=1.0)
    for seed in range(3):
        chosen = config(pairing=pairing, num_paired_tracks=3, batch_size=16, augment=augmentation)
        mixed: set[int] = set()
        targeted: set[int] = set()
        for rank in range(4):
            stream = CropStream(reader, chosen, targets=("vocals",), seed=seed, num_steps=10, rank=rank, world_size=4)
            for batch in batches(stream):
                if not batch.paired:
                    mixed |= track_numbers(batch.mixture)
                    targeted |= track_numbers(batch.target)
        assert not mixed & targeted
        assert len(mixed | targeted) == (12 if pairing == "unpaired" else 9)


def test_unpaired_tracks_are_disjoint_with_changed_speed(reader: ShardReader) -> None:
    stream = CropStream(reader, config(pairing="unpaired", augment=EVERYTHING), targets=("vocals",), seed=2)
    for number in range(500):
        plan = stream.plan(number)
        mixture, target = (
            pool.tracks[location.track].track_id
            for pool, location in zip(plan.sampler.pools, plan.locations, strict=True)
        )
        assert mixture in {track.track_id for track in stream.samplers[0].pools[0].tracks}
        assert target in {track.track_id for track in stream.samplers[0].pools[1].tracks}
        assert mixture != target


def test_mixture_track_fraction_and_seed_select_mixture_tracks(tmp_path: Path) -> None:
    reader = write_corpus(tmp_path, [(constant(number, 1.0, ("mixture", "vocals")), "train") for number in range(10)])

    def mixture_tracks(fraction: float, seed: int) -> frozenset[str]:
        chosen = config(pairing="unpaired", mixture_track_fraction=fraction)
        pools = CropStream(reader, chosen, targets=("vocals",), seed=seed).samplers[0].pools
        return frozenset(track.track_id for track in pools[0].tracks)

    assert [len(mixture_tracks(fraction, 0)) for fraction in (0.0, 0.3, 0.8, 1.0)] == [1, 3, 8, 9]
    assert mixture_tracks(0.5, 0) == mixture_tracks(0.5, 0)
    assert len({mixture_tracks(0.5, seed) for seed in range(6)}) > 3


def test_unpaired_uses_all_tracks_of_disjoint_kinds(tmp_path: Path) -> None:
    tracks = [
        (constant(0, 1.0, ("mixture",)), "train"),
        (constant(1, 1.0, ("piano",)), "train"),
        (constant(2, 1.0, ("piano",)), "train"),
    ]
    reader = write_corpus(tmp_path, tracks)
    pools = CropStream(reader, config(pairing="unpaired"), targets=("piano",)).samplers[0].pools
    assert [[track.track_id for track in pool.tracks] for pool in pools] == [["track 0"], ["track 1", "track 2"]]


def pool_names(stream: CropStream) -> list[list[set[str]]]:
    """Return the track names of each pool of each sampler."""
    return [[{track.track_id for track in pool.tracks} for pool in sampler.pools] for sampler in stream.samplers]


def test_semi_supervised_steps_follow_paired_fraction_seed_and_step(reader: ShardReader) -> None:
    def paired_steps(fraction: float, seed: int, start: int = 0) -> list[bool]:
        chosen = config(pairing="semi_supervised", num_paired_tracks=2, paired_fraction=fraction)
        stream = CropStream(reader, chosen, targets=("vocals",), seed=seed, start_step=start)
        return [stream.sampler(step).paired for step in range(start, 1000)]

    assert [np.mean(paired_steps(fraction, 0)) for fraction in (0.1, 0.5, 0.9)] == pytest.approx(
        [0.1, 0.5, 0.9], abs=0.05
    )
    assert paired_steps(0.5, 0)[400:] == paired_steps(0.5, 0, start=400)
    assert paired_steps(0.5, 0) != paired_steps(0.5, 1)


def test_semi_supervised_pools_are_disjoint_and_use_all_tracks(reader: ShardReader) -> None:
    chosen = config(pairing="semi_supervised", num_paired_tracks=2)
    names = pool_names(CropStream(reader, chosen, targets=("vocals",)))
    (paired,), (mixed, targeted) = names
    assert (len(paired), len(mixed), len(targeted)) == (2, 2, 2)
    assert paired | mixed | targeted == {f"track {number}" for number in range(6)}


def test_fewer_paired_tracks_are_a_subset_for_any_seed(reader: ShardReader) -> None:
    def paired(number: int | None, seed: int, pairing: str) -> set[str]:
        chosen = config(pairing=pairing, num_paired_tracks=number)
        return pool_names(CropStream(reader, chosen, targets=("vocals",), seed=seed))[0][0]

    assert paired(1, 0, "paired") < paired(2, 1, "semi_supervised") < paired(4, 2, "paired") < paired(None, 0, "paired")


@pytest.mark.parametrize(
    ("others", "mixed", "targeted"),
    [
        (("mixture",), {"track 2", "track 3"}, {"track 0", "track 1"}),
        (("vocals",), {"track 0", "track 1"}, {"track 2", "track 3"}),
    ],
)
def test_semi_supervised_takes_missing_unpaired_tracks_from_paired_ones(
    tmp_path: Path, others: Sequence[str], mixed: set[str], targeted: set[str]
) -> None:
    """With multitracks and only mixtures, or only solo recordings, the unpaired pools are still disjoint."""
    tracks = [(constant(number, 1.0, ("mixture", "vocals", "drums")), "train") for number in range(2)]
    tracks += [(constant(number, 1.0, others), "train") for number in (2, 3)]
    stream = CropStream(write_corpus(tmp_path, tracks), config(pairing="semi_supervised"), targets=("vocals",))
    assert pool_names(stream) == [[{"track 0", "track 1"}], [mixed, targeted]]


def on_the_fly_corpus(folder: Path) -> ShardReader:
    rng = np.random.default_rng(0)
    tracks = [({"piano": rng.normal(0, 0.02, (1, 3000))}, "train") for _ in range(4)]
    tracks += [({"accompaniment": rng.normal(0, 0.3, (1, 2000)).clip(-1, 1)}, "train") for _ in range(3)]
    return write_corpus(folder, tracks + [(stems, "valid") for stems, _ in (tracks[0], tracks[5])])


def test_unpaired_mixes_on_the_fly_with_other_targets_at_random_levels(tmp_path: Path) -> None:
    reader = on_the_fly_corpus(tmp_path)
    stream = CropStream(reader, config(pairing="unpaired", max_level_offset_db=4.0), targets=("piano",))
    accompaniment, mixed_target, real_target = stream.samplers[0].pools
    assert {track.stems for track in accompaniment.tracks} == {("accompaniment",)}
    assert not {track.track_id for track in mixed_target.tracks} & {track.track_id for track in real_target.tracks}
    assert len(mixed_target.tracks) == len(real_target.tracks) == 2
    ratios = []
    for number in range(64):
        stems = stream.samplers[0].read(reader, [stream.plan(number).locations], 500)[0]
        ratios.append(float(10 * torch.log10(stems[1].square().mean() / stems[0].square().mean())))
    assert -5.0 < min(ratios) < -2.0
    assert 2.0 < max(ratios) < 5.0
    mixture, target = validation_crops(reader, config(), targets=("piano",), count=4) or (None, None)
    assert mixture is not None
    assert target is not None
    assert float(10 * torch.log10((mixture - target[:, 0]).square().mean() / target.square().mean())) == pytest.approx(
        0, abs=0.5
    )


def test_on_the_fly_batches_are_paired_mixtures_of_unrelated_recordings(tmp_path: Path) -> None:
    reader = on_the_fly_corpus(tmp_path)
    stream = CropStream(reader, config(pairing="on_the_fly", batch_size=4), targets=("piano",), num_steps=3)
    (sampler,) = stream.samplers
    accompaniment, target = sampler.pools
    assert {track.stems for track in accompaniment.tracks} == {("accompaniment",)}
    assert {track.stems for track in target.tracks} == {("piano",)}
    for batch in batches(stream):
        assert batch.paired
        residual = batch.mixture - batch.target[:, 0]
        assert float(residual.square().mean()) > 1e-4
        assert float(batch.target.square().mean()) > 1e-4
    with pytest.raises(ConfigError, match="pairing=on_the_fly needs tracks that contain only accompaniment"):
        CropStream(reader, config(pairing="on_the_fly"), targets=("guitar",))


def test_recorded_mixture_includes_residual_of_stems(tmp_path: Path) -> None:
    stems = song(0, 2.0)
    stems["mixture"] = stems["mixture"] + song(99, 2.0, ("hall",), mixture=False)["hall"] / 16
    reader = write_corpus(tmp_path, [(stems, "train")])

    def first(mixture: str) -> tuple[np.ndarray, int]:
        stream = CropStream(reader, config(mixture=mixture), targets=("vocals",), num_steps=1)
        return batches(stream)[0].mixture[0].numpy(), stream.plan(0).locations[0].start

    for mixture, expected in (("recorded", stems["mixture"]), ("sum", sum(stems[stem] for stem in MUSIC))):
        crop, start = first(mixture)
        # The hall pushes the mixture beyond full scale; the stored gain of 2 doubles the rounding error.
        np.testing.assert_allclose(crop, expected[:, start : start + 500], atol=4 * 2**-16)


def test_incomplete_stems_are_completed_from_the_mixture(tmp_path: Path) -> None:
    whole = song(0, 2.0)
    reader = write_corpus(tmp_path, [({"mixture": whole["mixture"], "vocals": whole["vocals"]}, "train")])
    stream = CropStream(reader, config(), targets=("vocals",), num_steps=1)
    start = stream.plan(0).locations[0].start
    np.testing.assert_allclose(
        batches(stream)[0].mixture[0].numpy(), whole["mixture"][:, start : start + 500], atol=1e-6
    )


def test_slots_of_missing_stems_are_silent(tmp_path: Path) -> None:
    tracks = [(song(0, 2.0, ("vocals", "guitar")), "train"), (song(1, 2.0, ("vocals", "violin")), "train")]
    stream = CropStream(write_corpus(tmp_path, tracks), config(), targets=("vocals",))
    assert stream.samplers[0].num_slots == 3
    stems = stream.samplers[0].read(stream._reader, [stream.plan(number).locations for number in range(40)], 500)
    silent = stems.square().sum((2, 3)) == 0
    assert silent.sum(1).tolist() == [1] * 40
    assert not silent[:, 0].any()


def test_p_active_of_crops_contain_the_target(tmp_path: Path) -> None:
    def sparse(number: int) -> dict[str, np.ndarray]:
        stems = song(number, 20.0, ("vocals", "drums"))
        stems["vocals"][:, :12_000] = stems["vocals"][:, 14_000:] = 0
        return stems

    reader = write_corpus(tmp_path, [(sparse(number), "train") for number in range(3)])

    def active_fraction(p_active: float) -> float:
        stream = CropStream(reader, config(p_active=p_active), targets=("vocals",), num_steps=8)
        active = [batch.target.square().sum((1, 2, 3)) > 0 for batch in batches(stream)]
        return float(torch.cat(active).float().mean())

    assert active_fraction(0.0) == pytest.approx(2.5 / 19.5, abs=0.06)
    assert active_fraction(0.5) == pytest.approx(0.5 + 0.5 * 2.5 / 19.5, abs=0.09)
    assert active_fraction(1.0) == 1.0


def test_active_starts_overlap_an_active_second_by_half_the_crop(tmp_path: Path) -> None:
    stems = song(0, 6.0, ("vocals", "drums"))
    stems["vocals"][:, :2000] = stems["vocals"][:, 3000:5000] = 0
    pool = CropStream(write_corpus(tmp_path, [(stems, "train")]), config(), targets=("vocals",)).samplers[0].pools[0]
    starts = {pool.active_starts[0][number] for number in range(len(pool.active_starts[0]))}
    assert starts == {(0, start) for start in [*range(1750, 2751), *range(4750, 5501)]}


def test_incomplete_last_second_counts_with_its_length(tmp_path: Path) -> None:
    """For 0.3 s of vocals at the end of 3.3 s, a crop must overlap 0.15 s of them; a crop of 0.2 s, 0.1 s."""
    stems = song(0, 3.3, ("vocals", "drums"))
    stems["vocals"][:, :3000] = 0
    reader = write_corpus(tmp_path, [(stems, "train")])
    for seconds, first, last in ((2.0, 1150, 1300), (0.5, 2650, 2800), (0.2, 2900, 3100)):
        pool = CropStream(reader, config(crop_seconds=seconds), targets=("vocals",)).samplers[0].pools[0]
        starts = [pool.active_starts[0][number] for number in range(len(pool.active_starts[0]))]
        assert starts == [(0, start) for start in range(first, last + 1)]


def test_short_track_is_active_at_all_offsets(tmp_path: Path) -> None:
    stems = song(0, 1.5, ("vocals", "drums"))
    stems["vocals"][:, :1000] = 0
    reader = write_corpus(tmp_path, [(stems, "train")])
    pool = CropStream(reader, config(crop_seconds=2.0), targets=("vocals",)).samplers[0].pools[0]
    assert [pool.active_starts[0][number] for number in range(len(pool.active_starts[0]))] == [
        (0, start) for start in range(-500, 1)
    ]


def test_active_crops_contain_target_with_changed_speed(tmp_path: Path) -> None:
    stems = song(0, 8.0, ("vocals", "drums"))
    stems["vocals"][:, :4000] = stems["vocals"][:, 5000:] = 0
    always = dataclasses.replace(OFF, p_speed=1.0)
    chosen = config(p_active=1.0, augment=always)
    stream = CropStream(write_corpus(tmp_path, [(stems, "train")]), chosen, targets=("vocals",), num_steps=3)
    for number in range(96):
        plan = stream.plan(number)
        start = plan.locations[0].start
        overlap = min(5000, start + plan.num_samples) - max(4000, start)
        assert overlap >= min(1000, plan.num_samples) // 2
    assert all((batch.target.square().mean((1, 2, 3)) > 1e-4).all() for batch in batches(stream))


def test_p_active_without_active_tracks_raises(tmp_path: Path) -> None:
    stems = song(0, 2.0, ("vocals", "drums"))
    stems["vocals"][:] = 0
    reader = write_corpus(tmp_path, [(stems, "train"), (song(1, 2.0, ("drums", "bass")), "train")])
    assert CropStream(reader, config(), targets=("vocals",)).samplers[0].pools[0].silent_targets == ["vocals"]
    with pytest.raises(ConfigError, match=r"p_active=0.5: no second of vocals reaches .*active_threshold_db=-50"):
        CropStream(reader, config(p_active=0.5), targets=("vocals",))


def test_validation_crops_are_fixed_aligned_and_spread(reader: ShardReader) -> None:
    crops = validation_crops(reader, config(augment=AugmentConfig()), targets=MUSIC, count=8)
    again = validation_crops(reader, config(), targets=MUSIC, count=8)
    assert crops is not None
    assert again is not None
    assert torch.equal(crops[0], again[0])
    assert crops[0].shape == (8, 2, 500)
    torch.testing.assert_close(crops[0], crops[1].sum(1), rtol=0, atol=1e-7)
    assert len({float(crop[0, 0]) for crop in crops[0]}) == 8


def test_no_validation_crops_without_references(tmp_path: Path) -> None:
    reader = write_corpus(
        tmp_path, [(constant(0, 1.0, ("mixture",)), "valid"), (constant(1, 1.0, ("piano",)), "valid")]
    )
    assert validation_crops(reader, config(), targets=("piano",)) is None


def test_errors_name_missing_and_found_stems(reader: ShardReader, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"contain piano .*mixture\+vocals\+drums\+bass"):
        CropStream(reader, config(), targets=("piano",))
    with pytest.raises(ConfigError, match="found 0 tracks"):
        CropStream(reader, config(), targets=("vocals",), split="test")
    single = write_corpus(tmp_path, [(constant(0, 1.0, ("mixture", "vocals")), "train")])
    with pytest.raises(ConfigError, match="pairing=unpaired needs"):
        CropStream(single, config(pairing="unpaired"), targets=("vocals",))
    with pytest.raises(
        ConfigError, match=r"pairing=semi_supervised: apart from the 6 paired tracks, no track .*num_paired_tracks"
    ):
        CropStream(reader, config(pairing="semi_supervised"), targets=("vocals",))
    with pytest.raises(ConfigError, match="num_paired_tracks=7: only 6 tracks contain vocals"):
        CropStream(reader, config(num_paired_tracks=7), targets=("vocals",))
    with pytest.raises(ConfigError, match=r"paired_fraction.*greater than 0"):
        settings.build(CropConfig, {"paired_fraction": 0.0})
    with pytest.raises(ConfigError, match="not a multiple of 3 workers"):
        CropStream(reader, config(), targets=("vocals",), world_size=3)


def test_batch_to_moves_all_tensors(reader: ShardReader) -> None:
    (batch,) = batches(CropStream(reader, config(), targets=("vocals",), num_steps=1))
    moved = batch.to("meta")
    assert moved.mixture.device.type == moved.target.device.type == "meta"
    assert moved.paired
