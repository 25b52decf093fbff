"""Crops: pure functions of seed and number, uniform over all starts, paired or from disjoint tracks."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
import torch

from cyclesep.augment import AugmentConfig
from cyclesep.crops import Batch, CropConfig, CropStream, crop_loader, validation_crops
from cyclesep.errors import ConfigError
from cyclesep.manifest import make_manifest, write_manifest
from cyclesep.shard_writing import write_track
from cyclesep.shards import ShardReader

RATE = 1000
OFF = AugmentConfig(gain_db=0.0, polarity_share=0.0, channel_swap_share=0.0, remix_share=0.0)
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
        (draw,) = stream.draws(number)
        track = stream.layout.pools[0].tracks[draw.track]
        drums = song(int(track.track_id.split()[1]), track.seconds)["drums"]
        assert np.array_equal(batch.target[row, 0].numpy(), drums[:, draw.start : draw.start + 500])


@pytest.mark.parametrize("world_size", [2, 4, 8])
@pytest.mark.parametrize("pairing", ["paired", "unpaired"])
def test_workers_share_the_same_crops_whatever_their_number(reader: ShardReader, pairing: str, world_size: int) -> None:
    chosen = config(pairing=pairing, augment=AugmentConfig(remix_share=0.7))
    whole = batches(CropStream(reader, chosen, targets=("vocals",), seed=3, num_steps=2))
    for rank in range(world_size):
        share = CropStream(reader, chosen, targets=("vocals",), seed=3, num_steps=2, rank=rank, world_size=world_size)
        for mine, all_of_it in zip(batches(share), whole, strict=True):
            assert torch.equal(mine.mixture, all_of_it.mixture[rank::world_size])
            assert torch.equal(mine.target, all_of_it.target[rank::world_size])


def test_a_resumed_run_sees_the_crops_it_would_have_seen(reader: ShardReader) -> None:
    whole = batches(CropStream(reader, config(), targets=("vocals",), num_steps=5))
    later = batches(CropStream(reader, config(), targets=("vocals",), start_step=3, num_steps=2))
    assert all(torch.equal(a.mixture, b.mixture) for a, b in zip(whole[3:], later, strict=True))
    assert not torch.equal(whole[0].mixture, whole[1].mixture)


def test_loader_processes_keep_the_order_exact(reader: ShardReader) -> None:
    stream = CropStream(reader, config(), targets=("vocals",), start_step=1, num_steps=5)
    ahead = list(crop_loader(stream, num_processes=2))
    assert len(ahead) == 5
    assert all(torch.equal(a.mixture, b.mixture) for a, b in zip(batches(stream), ahead, strict=True))


def test_starts_are_uniform_over_all_valid_starts_of_all_tracks(reader: ShardReader) -> None:
    stream = CropStream(reader, config(), targets=("vocals",), seed=11)
    (pool,) = stream.layout.pools
    valid = np.array([track.num_samples - 500 + 1 for track in pool.tracks])
    before = np.concatenate([[0], np.cumsum(valid)])
    draws = [stream.draws(number)[0] for number in range(20_000)]
    starts = np.array([draw.start for draw in draws])
    tracks = np.array([draw.track for draw in draws])
    assert (starts >= 0).all()
    assert (starts < valid[tracks]).all()
    edges = np.linspace(0, before[-1], 61)
    counts, _ = np.histogram(before[tracks] + starts, bins=edges)
    # np.histogram counts whole starts: how many fall into each bin is exact.
    expected = np.diff(np.ceil(edges)) / before[-1] * len(draws)
    assert scipy.stats.chisquare(counts, expected).pvalue > 0.001


def test_the_first_and_the_last_start_of_every_track_can_be_drawn(reader: ShardReader) -> None:
    (pool,) = CropStream(reader, config(), targets=("vocals",)).layout.pools
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


def test_unpaired_mixtures_and_targets_never_come_from_one_track(tmp_path: Path) -> None:
    reader = write_corpus(tmp_path, [(level(number, 1.0, ("mixture", "vocals")), "train") for number in range(9)])
    for seed in range(5):
        stream = CropStream(reader, config(pairing="unpaired"), targets=("vocals",), seed=seed, num_steps=12)
        mixed: set[float] = set()
        targeted: set[float] = set()
        for batch in batches(stream):
            assert not batch.paired
            mixed |= set(batch.mixture[:, 0, 0].tolist())
            targeted |= set(batch.target[:, 0, 0, 0].tolist())
        assert not mixed & targeted
        assert (len(mixed), len(targeted)) == (4, 5)


def test_the_share_of_tracks_that_give_mixtures_is_the_configured_one_and_the_seed_chooses_them(tmp_path: Path) -> None:
    reader = write_corpus(tmp_path, [(level(number, 1.0, ("mixture", "vocals")), "train") for number in range(10)])

    def givers(share: float, seed: int) -> frozenset[str]:
        chosen = config(pairing="unpaired", mixture_pool_share=share)
        pools = CropStream(reader, chosen, targets=("vocals",), seed=seed).layout.pools
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
    pools = CropStream(reader, config(pairing="unpaired"), targets=("piano",)).layout.pools
    assert [[track.track_id for track in pool.tracks] for pool in pools] == [["track 0"], ["track 1", "track 2"]]


def composing_corpus(folder: Path) -> ShardReader:
    rng = np.random.default_rng(0)
    tracks = [({"piano": rng.normal(0, 0.02, (1, 3000))}, "train") for _ in range(4)]
    tracks += [({"accompaniment": rng.normal(0, 0.3, (1, 2000)).clip(-1, 1)}, "train") for _ in range(3)]
    return write_corpus(folder, tracks + [(stems, "valid") for stems, _ in (tracks[0], tracks[5])])


def test_without_mixtures_they_are_composed_at_a_random_ratio_from_other_targets_than_the_real_ones(
    tmp_path: Path,
) -> None:
    reader = composing_corpus(tmp_path)
    stream = CropStream(reader, config(pairing="unpaired", level_ratio_db=4.0), targets=("piano",))
    below, above, real = stream.layout.pools
    assert {track.stems for track in below.tracks} == {("accompaniment",)}
    assert not {track.track_id for track in above.tracks} & {track.track_id for track in real.tracks}
    assert len(above.tracks) == len(real.tracks) == 2
    ratios = []
    for number in range(64):
        stems = stream.layout.read(reader, [stream.draws(number)], 500)[0]
        ratios.append(float(10 * torch.log10(stems[1].square().mean() / stems[0].square().mean())))
    assert -5.0 < min(ratios) < -2.0
    assert 2.0 < max(ratios) < 5.0
    mixture, target = validation_crops(reader, config(), targets=("piano",), count=4) or (None, None)
    assert mixture is not None
    assert target is not None
    assert float(10 * torch.log10((mixture - target[:, 0]).square().mean() / target.square().mean())) == pytest.approx(
        0, abs=0.5
    )


def test_the_recorded_mixture_is_served_with_what_its_stems_leave_over_as_one_more_stem(tmp_path: Path) -> None:
    stems = song(0, 2.0)
    stems["mixture"] = stems["mixture"] + song(99, 2.0, ("hall",), mixture=False)["hall"] / 16
    reader = write_corpus(tmp_path, [(stems, "train")])

    def first(mixture: str) -> tuple[np.ndarray, int]:
        stream = CropStream(reader, config(mixture=mixture), targets=("vocals",), num_steps=1)
        return batches(stream)[0].mixture[0].numpy(), stream.draws(0)[0].start

    for mixture, expected in (("recorded", stems["mixture"]), ("sum", sum(stems[stem] for stem in MUSIC))):
        crop, start = first(mixture)
        # The hall makes the loudest sample need a gain of 2: half a step of 16 bits is twice as large.
        np.testing.assert_allclose(crop, expected[:, start : start + 500], atol=4 * 2**-16)


def test_stems_that_are_not_all_of_the_mixture_are_completed_from_it(tmp_path: Path) -> None:
    whole = song(0, 2.0)
    reader = write_corpus(tmp_path, [({"mixture": whole["mixture"], "vocals": whole["vocals"]}, "train")])
    stream = CropStream(reader, config(), targets=("vocals",), num_steps=1)
    start = stream.draws(0)[0].start
    np.testing.assert_allclose(
        batches(stream)[0].mixture[0].numpy(), whole["mixture"][:, start : start + 500], atol=1e-6
    )


def test_tracks_with_other_stems_are_silent_where_they_have_none(tmp_path: Path) -> None:
    tracks = [(song(0, 2.0, ("vocals", "guitar")), "train"), (song(1, 2.0, ("vocals", "violin")), "train")]
    stream = CropStream(write_corpus(tmp_path, tracks), config(), targets=("vocals",))
    assert stream.layout.slots == 3
    stems = stream.layout.read(stream._reader, [stream.draws(number) for number in range(40)], 500)
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
        stream = CropStream(reader, config(active_share=share), targets=("vocals",), num_steps=8)
        sounding = [batch.target.square().sum((1, 2, 3)) > 0 for batch in batches(stream)]
        return float(torch.cat(sounding).float().mean())

    assert active(0.0) == pytest.approx(2.5 / 19.5, abs=0.06)
    assert active(0.5) == pytest.approx(0.5 + 0.5 * 2.5 / 19.5, abs=0.09)
    assert active(1.0) == 1.0


def test_active_starts_are_uniform_over_all_that_overlap_an_active_second_by_half_the_crop(tmp_path: Path) -> None:
    stems = song(0, 6.0, ("vocals", "drums"))
    stems["vocals"][:, :2000] = stems["vocals"][:, 3000:5000] = 0
    pool = CropStream(write_corpus(tmp_path, [(stems, "train")]), config(), targets=("vocals",)).layout.pools[0]
    starts = {pool.active[0][number] for number in range(len(pool.active[0]))}
    assert starts == {(0, start) for start in [*range(1750, 2751), *range(4750, 5501)]}


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
    with pytest.raises(ConfigError, match="not a multiple of 3 workers"):
        CropStream(reader, config(), targets=("vocals",), world_size=3)


def test_a_batch_moves_as_a_whole(reader: ShardReader) -> None:
    (batch,) = batches(CropStream(reader, config(), targets=("vocals",), num_steps=1))
    moved = batch.to("meta")
    assert moved.mixture.device.type == moved.target.device.type == "meta"
    assert moved.paired
