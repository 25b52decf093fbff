"""Crops: pure functions of seed and number, uniform over all starts, paired or from disjoint tracks."""

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
EVERYTHING = AugmentConfig(p_remix=0.7, p_pitch_tempo=0.4, tempo_percent=20)
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
    """Noise of two channels on the 16-bit grid; the mixture is the exact sum."""
    rng = np.random.default_rng(number)
    shape = (2, round(seconds * RATE))
    parts = {stem: rng.integers(-8000, 8000, shape).astype(np.float32) / 32768 for stem in stems}
    total = {"mixture": np.sum(list(parts.values()), axis=0)} if mixture else {}
    return total | parts


def level(number: int, seconds: float, stems: Sequence[str]) -> dict[str, np.ndarray]:
    """Stems whose every sample is (number + 1) / 1024, so that a crop tells its track."""
    return {stem: np.full((1, round(seconds * RATE)), (number + 1) / 1024) for stem in stems}


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> ShardReader:
    """Six songs of 2 to 5 seconds to train on, two to validate with."""
    tracks = [(song(number, 2.0 + 0.5 * number), "train") for number in range(6)]
    tracks += [(song(10 + number, 3.0), "valid") for number in range(2)]
    return write_corpus(tmp_path_factory.mktemp("songs"), tracks)


def config(**changes: object) -> CropConfig:
    return CropConfig(**({"crop_seconds": 0.5, "batch_size": 32, "augment": OFF} | changes))  # type: ignore[arg-type]


def batches(stream: CropStream) -> list[Batch]:
    return list(crop_loader(stream))


def test_a_batch_has_its_shapes_and_its_mixture_is_the_sum_of_the_stems(reader: ShardReader) -> None:
    stream = CropStream(reader, config(), targets=MUSIC, num_steps=2)
    for batch in batches(stream):
        assert batch.mixture.shape == (32, 2, 500)
        assert batch.target.shape == (32, 3, 2, 500)
        assert batch.mixture.dtype == batch.target.dtype == torch.float32
        assert batch.paired
        torch.testing.assert_close(batch.mixture, batch.target.sum(1), rtol=0, atol=1e-7)


def test_paired_targets_are_the_samples_of_their_track_at_the_drawn_start(reader: ShardReader) -> None:
    stream = CropStream(reader, config(), targets=("drums",), num_steps=1)
    (batch,) = batches(stream)
    for row, number in enumerate(stream.numbers(0)):
        (draw,) = stream.place(number).draws
        track = stream.layouts[0].pools[0].tracks[draw.track]
        drums = song(int(track.track_id.split()[1]), track.seconds)["drums"]
        assert np.array_equal(batch.target[row, 0].numpy(), drums[:, draw.start : draw.start + 500])


@pytest.mark.parametrize("world_size", [2, 4, 8, 16])
@pytest.mark.parametrize("pairing", ["paired", "unpaired", "semi_supervised"])
def test_workers_share_the_same_crops_whatever_their_number(reader: ShardReader, pairing: str, world_size: int) -> None:
    chosen = config(pairing=pairing, num_paired_tracks=3, batch_size=16, augment=EVERYTHING)
    whole = batches(CropStream(reader, chosen, targets=("vocals",), seed=3, num_steps=3))
    for rank in range(world_size):
        share = CropStream(reader, chosen, targets=("vocals",), seed=3, num_steps=3, rank=rank, world_size=world_size)
        for mine, all_of_it in zip(batches(share), whole, strict=True):
            assert mine.paired == all_of_it.paired
            assert torch.equal(mine.mixture, all_of_it.mixture[rank::world_size])
            assert torch.equal(mine.target, all_of_it.target[rank::world_size])


@pytest.mark.parametrize("augmentation", [OFF, EVERYTHING])
def test_a_resumed_run_sees_the_crops_it_would_have_seen(reader: ShardReader, augmentation: AugmentConfig) -> None:
    chosen = config(batch_size=16, augment=augmentation)
    whole = batches(CropStream(reader, chosen, targets=("vocals",), num_steps=5))
    later = batches(CropStream(reader, chosen, targets=("vocals",), start_step=3, num_steps=2))
    for seen, resumed in zip(whole[3:], later, strict=True):
        assert torch.equal(seen.mixture, resumed.mixture)
        assert torch.equal(seen.target, resumed.target)
    assert not torch.equal(whole[0].mixture, whole[1].mixture)


@pytest.mark.parametrize("pairing", ["paired", "semi_supervised"])
def test_mixtures_are_the_sum_of_their_stems_whatever_was_done_to_them(reader: ShardReader, pairing: str) -> None:
    chosen = config(pairing=pairing, num_paired_tracks=4, batch_size=8, augment=EVERYTHING)
    paired = [batch for batch in batches(CropStream(reader, chosen, targets=MUSIC, num_steps=8)) if batch.paired]
    assert len(paired) > 1
    for batch in paired:
        torch.testing.assert_close(batch.mixture, batch.target.sum(1), rtol=0, atol=1e-6)
        assert float(batch.mixture.square().mean((1, 2)).min()) > 1e-4


def test_loader_processes_keep_the_order_exact(reader: ShardReader) -> None:
    chosen = config(batch_size=8, augment=EVERYTHING)
    stream = CropStream(reader, chosen, targets=("vocals",), start_step=1, num_steps=5)
    ahead = list(crop_loader(stream, num_processes=2))
    assert len(ahead) == 5
    assert all(torch.equal(a.mixture, b.mixture) for a, b in zip(batches(stream), ahead, strict=True))


@pytest.mark.parametrize("tempo_percent", [None, 10])
def test_starts_are_uniform_over_all_valid_starts_of_all_tracks(reader: ShardReader, tempo_percent: int | None) -> None:
    """Chi-square over 60 equal parts of all songs; for the longer pieces of a changed tempo just the same."""
    changes = dataclasses.replace(OFF, p_pitch_tempo=1.0, tempo_percent=tempo_percent or 0, pitch_semitones=0.0)
    stream = CropStream(reader, config(augment=changes if tempo_percent else OFF), targets=("vocals",), seed=11)
    (pool,) = stream.layouts[0].pools
    places = [stream.place(number) for number in range(20_000)]
    parts = np.zeros(60)
    expected = np.zeros(60)
    for length in {place.num_samples for place in places}:
        chosen = [place.draws[0] for place in places if place.num_samples == length]
        valid = np.array([track.num_samples - length + 1 for track in pool.tracks])
        before = np.concatenate([[0], np.cumsum(valid)])
        starts, tracks = np.array([draw.start for draw in chosen]), np.array([draw.track for draw in chosen])
        assert (starts >= 0).all()
        assert (starts < valid[tracks]).all()
        edges = np.linspace(0, before[-1], 61)
        parts += np.histogram(before[tracks] + starts, bins=edges)[0]
        # np.histogram counts whole starts: how many fall into each bin is exact.
        expected += np.diff(np.ceil(edges)) / before[-1] * len(chosen)
    assert len({place.num_samples for place in places}) == (2 * tempo_percent + 1 if tempo_percent else 1)
    assert scipy.stats.chisquare(parts, expected).pvalue > 0.001


def test_every_start_of_a_small_corpus_comes_equally_often(tmp_path: Path) -> None:
    """Chi-square over single starts, so that a missing first or last start would show."""
    tracks = [
        (level(number, seconds, ("vocals", "drums")), "train") for number, seconds in enumerate((0.51, 0.5, 0.53))
    ]
    stream = CropStream(write_corpus(tmp_path, tracks), config(), targets=("vocals",), seed=5)
    draws = [stream.place(number).draws[0] for number in range(9000)]
    counts: Counter[tuple[int, int]] = Counter((draw.track, draw.start) for draw in draws)
    every = [(0, start) for start in range(11)] + [(1, 0)] + [(2, start) for start in range(31)]
    assert set(counts) == set(every)
    assert scipy.stats.chisquare([counts[start] for start in every]).pvalue > 0.001


def test_what_pitch_and_tempo_need_lies_inside_the_track_and_holds_no_silence(tmp_path: Path) -> None:
    """Crops of 0.5 s need 0.656 to 0.856 s, which tracks of 0.95, 1 and 3 s hold, and one of 0.6 s does not."""
    tone = [{"vocals": np.sin(np.arange(round(1000 * seconds)) * 0.9)[None] * 0.5} for seconds in (0.95, 1.0, 3.0, 0.6)]
    tracks = [(stems | {"drums": stems["vocals"] * 0.5}, "train") for stems in tone]
    always = dataclasses.replace(OFF, p_pitch_tempo=1.0, tempo_percent=20)
    stream = CropStream(write_corpus(tmp_path, tracks), config(augment=always), targets=("vocals",))
    (pool,) = stream.layouts[0].pools
    needed = set()
    for number in range(300):
        place = stream.place(number)
        (draw,) = place.draws
        assert 0 <= draw.start <= pool.tracks[draw.track].num_samples - place.num_samples
        assert pool.tracks[draw.track].num_samples > 600
        needed.add(place.num_samples)
    assert (min(needed), max(needed)) == (656, 856)
    for batch in itertools.islice(iter(stream), 4):
        assert float(batch.target.unfold(-1, 20, 20).square().mean(-1).min()) > 0.02


def test_crops_stay_as_recorded_where_no_track_is_long_enough_for_another_tempo(tmp_path: Path) -> None:
    reader = write_corpus(tmp_path, [(level(0, 0.52, ("vocals", "drums")), "train")])
    always = dataclasses.replace(OFF, p_pitch_tempo=1.0)
    changed = CropStream(reader, config(augment=always), targets=("vocals",), num_steps=1)
    recorded = CropStream(reader, config(), targets=("vocals",), num_steps=1)
    assert {changed.place(number).num_samples for number in range(32)} == {500}
    assert torch.equal(batches(changed)[0].mixture, batches(recorded)[0].mixture)


def test_stems_of_a_song_change_pitch_together_and_keep_it_when_they_are_remixed(tmp_path: Path) -> None:
    """All stems of song n are one tone: after the remix each has one of the pitches that the songs were given."""
    time = np.arange(3000) / RATE
    songs = [
        ({stem: 0.3 * np.sin(2 * np.pi * (40 + 10 * n) * time)[None] for stem in MUSIC}, "train") for n in range(4)
    ]
    augmentation = dataclasses.replace(OFF, p_remix=1.0, p_pitch_tempo=0.5, pitch_semitones=3.0)
    chosen = config(batch_size=8, augment=augmentation)
    stream = CropStream(write_corpus(tmp_path, songs), chosen, targets=MUSIC, num_steps=6)
    spectra = torch.fft.rfft(torch.cat([batch.target for batch in batches(stream)])[:, :, 0], n=1 << 15).abs()
    found = spectra.argmax(-1) * RATE / (1 << 15)
    expected = {
        round((40 + 10 * place.draws[0].track) * 2 ** (place.pitch_tempo.semitones / 12), 3)
        for place in (stream.place(number) for number in range(48))
    }
    distance = (found[:, :, None] - torch.tensor(sorted(expected))).abs().amin(-1)
    assert float(distance.max()) < 0.25
    assert (found.amax(1) - found.amin(1) > 5).float().mean() > 0.5


def test_the_first_and_the_last_start_of_every_track_can_be_drawn(reader: ShardReader) -> None:
    (pool,) = CropStream(reader, config(), targets=("vocals",)).layouts[0].pools
    every = [pool.starts[number] for number in range(len(pool.starts))]
    assert every == [
        (index, start) for index, track in enumerate(pool.tracks) for start in range(track.num_samples - 499)
    ]


def test_a_track_shorter_than_a_crop_lies_anywhere_inside_it_between_zeros(tmp_path: Path) -> None:
    reader = write_corpus(tmp_path, [(level(0, 0.1, ("vocals", "drums")), "train")])
    stream = CropStream(reader, config(), targets=("vocals",), num_steps=4)
    firsts = set()
    for batch in batches(stream):
        for crop in batch.target[:, 0, 0]:
            sounding = torch.nonzero(crop).flatten()
            assert len(sounding) == 100
            assert sounding[-1] - sounding[0] == 99
            firsts.add(int(sounding[0]))
    assert len(firsts) > 64
    assert min(firsts) < 20
    assert max(firsts) > 380


def tones(number: int, stems: Sequence[str]) -> dict[str, np.ndarray]:
    """Stems that are one tone of 10 * (number + 3) Hz: gain, polarity and channels do not hide which track it is."""
    tone = 0.25 * np.sin(2 * np.pi * 10 * (number + 3) * np.arange(1200) / RATE)
    return {stem: np.stack([tone, 0.5 * tone]) for stem in stems}


def track_numbers(crops: torch.Tensor) -> set[int]:
    """The tracks of `tones` that crops `(..., 500)` come from."""
    return set((torch.fft.rfft(crops).abs().argmax(-1).flatten() // 5 - 3).tolist())


@pytest.mark.parametrize("pairing", ["unpaired", "semi_supervised"])
def test_no_step_of_an_unpaired_run_holds_mixtures_and_targets_of_one_track(tmp_path: Path, pairing: str) -> None:
    """Over all workers and steps, whatever is augmented: what gives mixtures never gives targets."""
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


def test_unpaired_steps_stay_apart_with_pitch_and_tempo_changed(reader: ShardReader) -> None:
    stream = CropStream(reader, config(pairing="unpaired", augment=EVERYTHING), targets=("vocals",), seed=2)
    for number in range(500):
        place = stream.place(number)
        mixture, target = (
            pool.tracks[draw.track].track_id for pool, draw in zip(place.layout.pools, place.draws, strict=True)
        )
        assert mixture in {track.track_id for track in stream.layouts[0].pools[0].tracks}
        assert target in {track.track_id for track in stream.layouts[0].pools[1].tracks}
        assert mixture != target


def test_the_share_of_tracks_that_give_mixtures_is_the_configured_one_and_the_seed_chooses_them(tmp_path: Path) -> None:
    reader = write_corpus(tmp_path, [(level(number, 1.0, ("mixture", "vocals")), "train") for number in range(10)])

    def givers(share: float, seed: int) -> frozenset[str]:
        chosen = config(pairing="unpaired", mixture_track_fraction=share)
        pools = CropStream(reader, chosen, targets=("vocals",), seed=seed).layouts[0].pools
        return frozenset(track.track_id for track in pools[0].tracks)

    assert [len(givers(share, 0)) for share in (0.0, 0.3, 0.8, 1.0)] == [1, 3, 8, 9]
    assert givers(0.5, 0) == givers(0.5, 0)
    assert len({givers(0.5, seed) for seed in range(6)}) > 3


def test_natural_pools_are_taken_whole(tmp_path: Path) -> None:
    tracks = [
        (level(0, 1.0, ("mixture",)), "train"),
        (level(1, 1.0, ("piano",)), "train"),
        (level(2, 1.0, ("piano",)), "train"),
    ]
    reader = write_corpus(tmp_path, tracks)
    pools = CropStream(reader, config(pairing="unpaired"), targets=("piano",)).layouts[0].pools
    assert [[track.track_id for track in pool.tracks] for pool in pools] == [["track 0"], ["track 1", "track 2"]]


def pool_names(stream: CropStream) -> list[list[set[str]]]:
    """The names of the tracks of each pool of each layout."""
    return [[{track.track_id for track in pool.tracks} for pool in layout.pools] for layout in stream.layouts]


def test_semi_supervised_steps_are_paired_or_unpaired_as_seed_and_step_decide(reader: ShardReader) -> None:
    def kinds(share: float, seed: int, start: int = 0) -> list[bool]:
        chosen = config(pairing="semi_supervised", num_paired_tracks=2, paired_fraction=share)
        stream = CropStream(reader, chosen, targets=("vocals",), seed=seed, start_step=start)
        return [stream.layout(step).paired for step in range(start, 1000)]

    assert [np.mean(kinds(share, 0)) for share in (0.1, 0.5, 0.9)] == pytest.approx([0.1, 0.5, 0.9], abs=0.05)
    assert kinds(0.5, 0)[400:] == kinds(0.5, 0, start=400)
    assert kinds(0.5, 0) != kinds(0.5, 1)


def test_semi_supervised_pools_share_no_track_and_use_them_all(reader: ShardReader) -> None:
    chosen = config(pairing="semi_supervised", num_paired_tracks=2)
    names = pool_names(CropStream(reader, chosen, targets=("vocals",)))
    (paired,), (mixed, targeted) = names
    assert (len(paired), len(mixed), len(targeted)) == (2, 2, 2)
    assert paired | mixed | targeted == {f"track {number}" for number in range(6)}


def test_fewer_paired_tracks_are_among_more_of_them_whatever_the_seed(reader: ShardReader) -> None:
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
def test_paired_tracks_give_the_unpaired_side_that_the_others_lack(
    tmp_path: Path, others: Sequence[str], mixed: set[str], targeted: set[str]
) -> None:
    """Many mixtures beside a few multitracks, or many solo recordings: the unpaired pools still share no track."""
    tracks = [(level(number, 1.0, ("mixture", "vocals", "drums")), "train") for number in range(2)]
    tracks += [(level(number, 1.0, others), "train") for number in (2, 3)]
    stream = CropStream(write_corpus(tmp_path, tracks), config(pairing="semi_supervised"), targets=("vocals",))
    assert pool_names(stream) == [[{"track 0", "track 1"}], [mixed, targeted]]


def composing_corpus(folder: Path) -> ShardReader:
    rng = np.random.default_rng(0)
    tracks = [({"piano": rng.normal(0, 0.02, (1, 3000))}, "train") for _ in range(4)]
    tracks += [({"accompaniment": rng.normal(0, 0.3, (1, 2000)).clip(-1, 1)}, "train") for _ in range(3)]
    return write_corpus(folder, tracks + [(stems, "valid") for stems, _ in (tracks[0], tracks[5])])


def test_without_mixtures_they_are_composed_at_a_random_ratio_from_other_targets_than_the_real_ones(
    tmp_path: Path,
) -> None:
    reader = composing_corpus(tmp_path)
    stream = CropStream(reader, config(pairing="unpaired", max_level_offset_db=4.0), targets=("piano",))
    below, above, real = stream.layouts[0].pools
    assert {track.stems for track in below.tracks} == {("accompaniment",)}
    assert not {track.track_id for track in above.tracks} & {track.track_id for track in real.tracks}
    assert len(above.tracks) == len(real.tracks) == 2
    ratios = []
    for number in range(64):
        stems = stream.layouts[0].read(reader, [stream.place(number).draws], 500)[0]
        ratios.append(float(10 * torch.log10(stems[1].square().mean() / stems[0].square().mean())))
    assert -5.0 < min(ratios) < -2.0
    assert 2.0 < max(ratios) < 5.0
    mixture, target = validation_crops(reader, config(), targets=("piano",), count=4) or (None, None)
    assert mixture is not None
    assert target is not None
    assert float(10 * torch.log10((mixture - target[:, 0]).square().mean() / target.square().mean())) == pytest.approx(
        0, abs=0.5
    )


def test_composed_pairs_are_mixtures_of_recordings_that_never_played_together_with_their_targets(
    tmp_path: Path,
) -> None:
    reader = composing_corpus(tmp_path)
    stream = CropStream(reader, config(pairing="on_the_fly", batch_size=4), targets=("piano",), num_steps=3)
    (layout,) = stream.layouts
    below, above = layout.pools
    assert {track.stems for track in below.tracks} == {("accompaniment",)}
    assert {track.stems for track in above.tracks} == {("piano",)}
    for batch in batches(stream):
        assert batch.paired
        residual = batch.mixture - batch.target[:, 0]
        assert float(residual.square().mean()) > 1e-4
        assert float(batch.target.square().mean()) > 1e-4
    with pytest.raises(ConfigError, match="pairing=on_the_fly needs tracks that hold accompaniment alone"):
        CropStream(reader, config(pairing="on_the_fly"), targets=("guitar",))


def test_the_recorded_mixture_is_served_with_what_its_stems_leave_over_as_one_more_stem(tmp_path: Path) -> None:
    stems = song(0, 2.0)
    stems["mixture"] = stems["mixture"] + song(99, 2.0, ("hall",), mixture=False)["hall"] / 16
    reader = write_corpus(tmp_path, [(stems, "train")])

    def first(mixture: str) -> tuple[np.ndarray, int]:
        stream = CropStream(reader, config(mixture=mixture), targets=("vocals",), num_steps=1)
        return batches(stream)[0].mixture[0].numpy(), stream.place(0).draws[0].start

    for mixture, expected in (("recorded", stems["mixture"]), ("sum", sum(stems[stem] for stem in MUSIC))):
        crop, start = first(mixture)
        # The hall makes the loudest sample need a gain of 2: half a step of 16 bits is twice as large.
        np.testing.assert_allclose(crop, expected[:, start : start + 500], atol=4 * 2**-16)


def test_stems_that_are_not_all_of_the_mixture_are_completed_from_it(tmp_path: Path) -> None:
    whole = song(0, 2.0)
    reader = write_corpus(tmp_path, [({"mixture": whole["mixture"], "vocals": whole["vocals"]}, "train")])
    stream = CropStream(reader, config(), targets=("vocals",), num_steps=1)
    start = stream.place(0).draws[0].start
    np.testing.assert_allclose(
        batches(stream)[0].mixture[0].numpy(), whole["mixture"][:, start : start + 500], atol=1e-6
    )


def test_tracks_with_other_stems_are_silent_where_they_have_none(tmp_path: Path) -> None:
    tracks = [(song(0, 2.0, ("vocals", "guitar")), "train"), (song(1, 2.0, ("vocals", "violin")), "train")]
    stream = CropStream(write_corpus(tmp_path, tracks), config(), targets=("vocals",))
    assert stream.layouts[0].slots == 3
    stems = stream.layouts[0].read(stream._reader, [stream.place(number).draws for number in range(40)], 500)
    silent = stems.square().sum((2, 3)) == 0
    assert silent.sum(1).tolist() == [1] * 40
    assert not silent[:, 0].any()


def test_the_active_share_of_crops_contains_the_target(tmp_path: Path) -> None:
    def sparse(number: int) -> dict[str, np.ndarray]:
        stems = song(number, 20.0, ("vocals", "drums"))
        stems["vocals"][:, :12_000] = stems["vocals"][:, 14_000:] = 0
        return stems

    reader = write_corpus(tmp_path, [(sparse(number), "train") for number in range(3)])

    def active(share: float) -> float:
        stream = CropStream(reader, config(p_active=share), targets=("vocals",), num_steps=8)
        sounding = [batch.target.square().sum((1, 2, 3)) > 0 for batch in batches(stream)]
        return float(torch.cat(sounding).float().mean())

    assert active(0.0) == pytest.approx(2.5 / 19.5, abs=0.06)
    assert active(0.5) == pytest.approx(0.5 + 0.5 * 2.5 / 19.5, abs=0.09)
    assert active(1.0) == 1.0


def test_active_starts_are_uniform_over_all_that_overlap_an_active_second_by_half_the_crop(tmp_path: Path) -> None:
    stems = song(0, 6.0, ("vocals", "drums"))
    stems["vocals"][:, :2000] = stems["vocals"][:, 3000:5000] = 0
    pool = CropStream(write_corpus(tmp_path, [(stems, "train")]), config(), targets=("vocals",)).layouts[0].pools[0]
    starts = {pool.active[0][number] for number in range(len(pool.active[0]))}
    assert starts == {(0, start) for start in [*range(1750, 2751), *range(4750, 5501)]}


def test_the_last_second_of_a_track_counts_for_as_long_as_it_lasts(tmp_path: Path) -> None:
    """0.3 s of singing at the end of 3.3 s: a crop has to overlap 0.15 s of it; of 0.2 s, half of itself."""
    stems = song(0, 3.3, ("vocals", "drums"))
    stems["vocals"][:, :3000] = 0
    reader = write_corpus(tmp_path, [(stems, "train")])
    for seconds, first, last in ((2.0, 1150, 1300), (0.5, 2650, 2800), (0.2, 2900, 3100)):
        pool = CropStream(reader, config(crop_seconds=seconds), targets=("vocals",)).layouts[0].pools[0]
        starts = [pool.active[0][number] for number in range(len(pool.active[0]))]
        assert starts == [(0, start) for start in range(first, last + 1)]


def test_a_track_shorter_than_the_crop_contains_its_target_wherever_it_lies(tmp_path: Path) -> None:
    stems = song(0, 1.5, ("vocals", "drums"))
    stems["vocals"][:, :1000] = 0
    reader = write_corpus(tmp_path, [(stems, "train")])
    pool = CropStream(reader, config(crop_seconds=2.0), targets=("vocals",)).layouts[0].pools[0]
    assert [pool.active[0][number] for number in range(len(pool.active[0]))] == [(0, start) for start in range(-500, 1)]


def test_crops_required_to_be_active_are_so_with_pitch_and_tempo_changed(tmp_path: Path) -> None:
    stems = song(0, 8.0, ("vocals", "drums"))
    stems["vocals"][:, :4000] = stems["vocals"][:, 5000:] = 0
    always = dataclasses.replace(OFF, p_pitch_tempo=1.0)
    chosen = config(p_active=1.0, augment=always)
    stream = CropStream(write_corpus(tmp_path, [(stems, "train")]), chosen, targets=("vocals",), num_steps=3)
    for number in range(96):
        place = stream.place(number)
        start = place.draws[0].start
        overlap = min(5000, start + place.num_samples) - max(4000, start)
        assert overlap >= min(1000, place.num_samples) // 2
    assert all((batch.target.square().mean((1, 2, 3)) > 1e-4).all() for batch in batches(stream))


def test_activity_that_no_track_has_is_refused_with_the_remedy(tmp_path: Path) -> None:
    stems = song(0, 2.0, ("vocals", "drums"))
    stems["vocals"][:] = 0
    reader = write_corpus(tmp_path, [(stems, "train"), (song(1, 2.0, ("drums", "bass")), "train")])
    assert CropStream(reader, config(), targets=("vocals",)).layouts[0].pools[0].silent_targets == ["vocals"]
    with pytest.raises(ConfigError, match=r"p_active=0.5: no second of vocals is as loud as .*active_threshold_db=-50"):
        CropStream(reader, config(p_active=0.5), targets=("vocals",))


def test_validation_crops_are_fixed_aligned_and_spread_over_all_tracks(reader: ShardReader) -> None:
    crops = validation_crops(reader, config(augment=AugmentConfig()), targets=MUSIC, count=8)
    again = validation_crops(reader, config(), targets=MUSIC, count=8)
    assert crops is not None
    assert again is not None
    assert torch.equal(crops[0], again[0])
    assert crops[0].shape == (8, 2, 500)
    torch.testing.assert_close(crops[0], crops[1].sum(1), rtol=0, atol=1e-7)
    assert len({float(crop[0, 0]) for crop in crops[0]}) == 8


def test_there_is_no_validation_where_no_truth_is_known(tmp_path: Path) -> None:
    reader = write_corpus(tmp_path, [(level(0, 1.0, ("mixture",)), "valid"), (level(1, 1.0, ("piano",)), "valid")])
    assert validation_crops(reader, config(), targets=("piano",)) is None


def test_what_a_corpus_lacks_is_told_with_what_it_holds(reader: ShardReader, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"hold piano .*mixture\+vocals\+drums\+bass"):
        CropStream(reader, config(), targets=("piano",))
    with pytest.raises(ConfigError, match="0 tracks were found"):
        CropStream(reader, config(), targets=("vocals",), split="test")
    alone = write_corpus(tmp_path, [(level(0, 1.0, ("mixture", "vocals")), "train")])
    with pytest.raises(ConfigError, match="pairing=unpaired needs"):
        CropStream(alone, config(pairing="unpaired"), targets=("vocals",))
    with pytest.raises(
        ConfigError, match=r"pairing=semi_supervised: beside the 6 paired tracks none .*num_paired_tracks"
    ):
        CropStream(reader, config(pairing="semi_supervised"), targets=("vocals",))
    with pytest.raises(ConfigError, match="num_paired_tracks=7: only 6 tracks hold vocals"):
        CropStream(reader, config(num_paired_tracks=7), targets=("vocals",))
    with pytest.raises(ConfigError, match=r"paired_fraction.*greater than 0"):
        settings.build(CropConfig, {"paired_fraction": 0.0})
    with pytest.raises(ConfigError, match="not a multiple of 3 workers"):
        CropStream(reader, config(), targets=("vocals",), world_size=3)


def test_a_batch_moves_as_a_whole(reader: ShardReader) -> None:
    (batch,) = batches(CropStream(reader, config(), targets=("vocals",), num_steps=1))
    moved = batch.to("meta")
    assert moved.mixture.device.type == moved.target.device.type == "meta"
    assert moved.paired
