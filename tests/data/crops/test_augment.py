"""Augmentation of stems: distributions, remix groups, and independence of the number of workers."""

import dataclasses
import math

import numpy as np
import pytest
import torch

from cyclesep.data.crops import augment
from cyclesep.data.crops.config import AugmentConfig
from cyclesep.errors import ConfigError

BATCH, STEMS = 16, 3
OFF = AugmentConfig(gain_db=0.0, p_polarity=0.0, p_channel_swap=0.0, p_remix=0.0)


def labelled(batch: int = BATCH, stems: int = STEMS) -> torch.Tensor:
    """Return stems `(batch, stems, 2, 5)` with values 100 * crop + 10 * stem + channel + 1."""
    crop, stem, channel = torch.arange(batch), torch.arange(stems), torch.arange(2)
    values = 100.0 * crop[:, None, None] + 10.0 * stem[None, :, None] + channel + 1.0
    return values[..., None].repeat(1, 1, 1, 5)


def augmented(
    config: AugmentConfig, *, rank: int = 0, world_size: int = 1, seed: int = 0, step: int = 0
) -> torch.Tensor:
    indices = range(step * BATCH + rank, step * BATCH + BATCH, world_size)
    drawn = augment.draw(config, seed=seed, crop_indices=indices, num_stems=STEMS, batch_size=BATCH)
    return augment.apply(labelled()[[index - step * BATCH for index in drawn.source_crops]], drawn)


def test_zero_probabilities_change_nothing() -> None:
    assert torch.equal(augmented(OFF), labelled())


def test_gains_are_uniform_in_decibels() -> None:
    drawn = augment.draw(dataclasses.replace(OFF, gain_db=6.0), seed=0, crop_indices=range(2000), num_stems=4)
    gains_db = 20 * np.log10(drawn.gain)
    assert np.abs(gains_db).max() <= 6.0001
    assert np.quantile(gains_db, [0.25, 0.5, 0.75]) == pytest.approx([-3, 0, 3], abs=0.25)


def test_fractions_of_inverted_and_swapped_stems() -> None:
    config = dataclasses.replace(OFF, p_polarity=0.3, p_channel_swap=0.8)
    drawn = augment.draw(config, seed=1, crop_indices=range(3000), num_stems=4)
    assert (drawn.gain < 0).mean() == pytest.approx(0.3, abs=0.02)
    assert drawn.swap.mean() == pytest.approx(0.8, abs=0.02)
    assert np.array_equal(np.abs(drawn.gain), np.ones_like(drawn.gain))


def test_channel_swap_and_polarity_inversion() -> None:
    swapped = augmented(dataclasses.replace(OFF, p_channel_swap=1.0))
    assert torch.equal(swapped, labelled().flip(2))
    inverted = augmented(dataclasses.replace(OFF, p_polarity=1.0))
    assert torch.equal(inverted, -labelled())


def test_channel_swap_leaves_mono_unchanged() -> None:
    drawn = augment.draw(dataclasses.replace(OFF, p_channel_swap=1.0), seed=0, crop_indices=[0], num_stems=2)
    stems = torch.rand(1, 2, 1, 8)
    assert torch.equal(augment.apply(stems, drawn), stems)


@pytest.mark.parametrize("world_size", [2, 4, 8, 16])
def test_crops_do_not_depend_on_number_of_workers(world_size: int) -> None:
    config = AugmentConfig(p_remix=1.0, remix_group_size=4)
    whole = augmented(config, step=7)
    for rank in range(world_size):
        assert torch.equal(augmented(config, rank=rank, world_size=world_size, step=7), whole[rank::world_size])


def test_remix_permutes_each_stem_within_its_group() -> None:
    remixed = augmented(dataclasses.replace(OFF, p_remix=1.0, remix_group_size=4))
    for group in range(4):
        for stem in range(STEMS):
            assert set(remixed[group::4, stem, 0, 0].tolist()) == set(labelled()[group::4, stem, 0, 0].tolist())
    crops = (remixed[:, :, 0, 0] // 100).int()
    assert (crops != crops[:, :1]).any(dim=1).float().mean() > 0.5


def test_fraction_of_remixed_groups() -> None:
    config = dataclasses.replace(OFF, p_remix=0.25, remix_group_size=8)
    moved = 0
    for step in range(400):
        indices = np.arange(step * 16, step * 16 + 16)
        drawn = augment.draw(config, seed=0, crop_indices=indices.tolist(), num_stems=4, batch_size=16)
        moved += sum(int((drawn.source[group::2] != indices[group::2, None]).any()) for group in range(2))
    assert moved / 800 == pytest.approx(0.25, abs=0.05)


def test_seed_and_step_change_the_augmentation() -> None:
    config = AugmentConfig()
    first = augmented(config)
    assert torch.equal(first, augmented(config))
    assert not torch.equal(first, augmented(config, seed=1))
    assert not torch.equal(first, augmented(config, step=1))


@pytest.mark.parametrize("world_size", [1, 2, 3, 6, 8, 12])
def test_remix_groups_do_not_depend_on_workers(world_size: int) -> None:
    config = dataclasses.replace(OFF, p_remix=1.0, remix_group_size=4)
    for rank in range(world_size):
        indices = range(48 + rank, 72, world_size)
        drawn = augment.draw(config, seed=2, crop_indices=indices, num_stems=5, batch_size=24)
        assert (drawn.source % 6 == np.array(indices)[:, None] % 6).all()
        assert set(drawn.source_crops) <= set(range(48, 72))


def test_complete_groups_need_no_crops_of_other_workers() -> None:
    config = dataclasses.replace(OFF, p_remix=1.0, remix_group_size=4)
    for rank in range(2):
        drawn = augment.draw(config, seed=0, crop_indices=range(rank, 16, 2), num_stems=4, batch_size=16)
        assert drawn.source_crops == list(range(rank, 16, 2))


def test_batch_size_not_divisible_by_group_size_raises() -> None:
    assert augment.num_groups(AugmentConfig(remix_group_size=4), batch_size=16) == 4
    with pytest.raises(ConfigError, match=r"crops.batch_size: 18 is not a multiple of .*remix_group_size=4.*p_remix=0"):
        augment.num_groups(AugmentConfig(), batch_size=18)


def test_speed_is_uniform_over_its_range() -> None:
    config = dataclasses.replace(OFF, p_speed=0.25, speed_percent=5)
    drawn = [augment.draw_speed(config, seed=4, crop_index=index) for index in range(8000)]
    changed = [speed for speed in drawn if speed != 100]
    # One in eleven changes is to the original speed.
    assert len(changed) / len(drawn) == pytest.approx(0.25 * 10 / 11, abs=0.02)
    speeds, counts = np.unique(changed, return_counts=True)
    assert speeds.tolist() == [*range(95, 100), *range(101, 106)]
    assert counts.min() > 0.7 * counts.mean()


def test_speed_is_unchanged_by_default() -> None:
    assert {augment.draw_speed(AugmentConfig(), seed=0, crop_index=index) for index in range(200)} == {100}


RATE, LENGTH = 16_000, 24_000
SPEEDS = [60, 88, 95, 101, 110, 140]


def tone(frequency: float, speed: int) -> torch.Tensor:
    """Return the excerpt `(1, 1, time)` of a tone in Hz that `change_speed` needs for `LENGTH` samples."""
    seconds = torch.arange(math.ceil(LENGTH * speed / 100), dtype=torch.float64) / RATE
    return torch.sin(2 * math.pi * frequency * seconds).float()[None, None]


@pytest.mark.parametrize("speed", SPEEDS)
@pytest.mark.parametrize("frequency", [110.0, 440.0, 3000.0])
def test_speed_changes_the_pitch_by_the_same_factor_and_keeps_the_level(frequency: float, speed: int) -> None:
    (result,) = augment.change_speed(tone(frequency, speed), speed, num_samples=LENGTH)[0].double()
    seconds = torch.arange(LENGTH, dtype=torch.float64) / RATE
    expected = torch.sin(2 * math.pi * frequency * speed / 100 * seconds)
    # Only the ends, where the excerpt is cut off, differ from the same tone at the new frequency.
    assert float((result - expected)[200:-200].abs().max()) < 1e-3
    for end in (result[:160], result[-160:]):
        assert 10 * math.log10(float(end.square().mean()) / 0.5) == pytest.approx(0, abs=1.5)


@pytest.mark.parametrize("speed", SPEEDS)
def test_speed_moves_clicks_of_all_stems_and_channels_alike(speed: int) -> None:
    stems = torch.zeros(2, 2, math.ceil(LENGTH * speed / 100))
    click = round(0.5 * RATE * speed / 100)
    stems[..., click] = torch.tensor([[1.0, -0.5], [0.25, 1.0]])
    result = augment.change_speed(stems, speed, num_samples=LENGTH)
    assert result.shape == (2, 2, LENGTH)
    assert (result.abs().argmax(-1) == round(click / speed * 100)).all()
    torch.testing.assert_close(result[0, 1], -0.5 * result[0, 0])
    assert torch.equal(result[1, 1], result[0, 0])
    assert torch.equal(result, augment.change_speed(stems, speed, num_samples=LENGTH))


@pytest.mark.parametrize("num_samples", [1, 7, 500, 32_001, 88_200])
def test_every_speed_fills_the_crop(num_samples: int) -> None:
    for speed in range(60, 141):
        stems = torch.ones(1, 1, math.ceil(num_samples * speed / 100))
        result = augment.change_speed(stems, speed, num_samples=num_samples)
        assert result.shape == (1, 1, num_samples)
        if num_samples >= 500:
            assert float(result[..., -40:].min()) > 0.3


def test_augmentation_runs_on_the_device_of_the_stems() -> None:
    drawn = augment.draw(
        AugmentConfig(p_remix=1.0), seed=0, crop_indices=range(BATCH), num_stems=STEMS, batch_size=BATCH
    )
    # Tensors on "meta" have no values: any access on the CPU would raise.
    applied = augment.apply(labelled().to("meta"), drawn)
    assert applied.device.type == "meta"
    assert applied.shape == labelled().shape
