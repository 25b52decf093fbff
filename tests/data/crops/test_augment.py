"""Augmentation: seeded by crop number, the same for any number of workers, and the mixture stays the sum."""

import dataclasses

import numpy as np
import pytest
import torch

from cyclesep.data.crops import augment
from cyclesep.data.crops.config import AugmentConfig
from cyclesep.data.crops.time_stretch import PitchTempo
from cyclesep.errors import ConfigError

BATCH, STEMS = 16, 3
OFF = AugmentConfig(gain_db=0.0, p_polarity=0.0, p_channel_swap=0.0, p_remix=0.0)


def labelled(batch: int = BATCH, stems: int = STEMS) -> torch.Tensor:
    """Stems `(batch, stems, 2, 5)` whose values tell crop, stem and channel: 100 * crop + 10 * stem + channel + 1."""
    crop, stem, channel = torch.arange(batch), torch.arange(stems), torch.arange(2)
    values = 100.0 * crop[:, None, None] + 10.0 * stem[None, :, None] + channel + 1.0
    return values[..., None].repeat(1, 1, 1, 5)


def augmented(
    config: AugmentConfig, *, rank: int = 0, world_size: int = 1, seed: int = 0, step: int = 0
) -> torch.Tensor:
    numbers = range(step * BATCH + rank, step * BATCH + BATCH, world_size)
    drawn = augment.draw(config, seed=seed, numbers=numbers, stems=STEMS, batch_size=BATCH)
    return augment.apply(labelled()[[number - step * BATCH for number in drawn.needed]], drawn)


def test_with_every_share_at_zero_nothing_changes() -> None:
    assert torch.equal(augmented(OFF), labelled())


def test_gains_stay_within_their_decibels_and_fill_them_evenly() -> None:
    drawn = augment.draw(dataclasses.replace(OFF, gain_db=6.0), seed=0, numbers=range(2000), stems=4)
    gains_db = 20 * np.log10(drawn.gain)
    assert np.abs(gains_db).max() <= 6.0001
    assert np.quantile(gains_db, [0.25, 0.5, 0.75]) == pytest.approx([-3, 0, 3], abs=0.25)


def test_shares_of_inverted_and_swapped_stems_are_the_configured_ones() -> None:
    config = dataclasses.replace(OFF, p_polarity=0.3, p_channel_swap=0.8)
    drawn = augment.draw(config, seed=1, numbers=range(3000), stems=4)
    assert (drawn.gain < 0).mean() == pytest.approx(0.3, abs=0.02)
    assert drawn.swap.mean() == pytest.approx(0.8, abs=0.02)
    assert np.array_equal(np.abs(drawn.gain), np.ones_like(drawn.gain))


def test_swapped_stems_have_their_channels_exchanged_and_inverted_ones_their_sign() -> None:
    swapped = augmented(dataclasses.replace(OFF, p_channel_swap=1.0))
    assert torch.equal(swapped, labelled().flip(2))
    inverted = augmented(dataclasses.replace(OFF, p_polarity=1.0))
    assert torch.equal(inverted, -labelled())


def test_mono_stems_have_no_channels_to_swap() -> None:
    drawn = augment.draw(dataclasses.replace(OFF, p_channel_swap=1.0), seed=0, numbers=[0], stems=2)
    stems = torch.rand(1, 2, 1, 8)
    assert torch.equal(augment.apply(stems, drawn), stems)


@pytest.mark.parametrize("world_size", [2, 4, 8, 16])
def test_the_same_crops_come_out_for_any_number_of_workers(world_size: int) -> None:
    config = AugmentConfig(p_remix=1.0, remix_group_size=4)
    whole = augmented(config, step=7)
    for rank in range(world_size):
        assert torch.equal(augmented(config, rank=rank, world_size=world_size, step=7), whole[rank::world_size])


def test_remix_shuffles_each_stem_inside_its_group_and_loses_none() -> None:
    remixed = augmented(dataclasses.replace(OFF, p_remix=1.0, remix_group_size=4))
    for group in range(4):
        for stem in range(STEMS):
            assert set(remixed[group::4, stem, 0, 0].tolist()) == set(labelled()[group::4, stem, 0, 0].tolist())
    crops = (remixed[:, :, 0, 0] // 100).int()
    assert (crops != crops[:, :1]).any(dim=1).float().mean() > 0.5


def test_about_the_configured_share_of_groups_is_remixed() -> None:
    config = dataclasses.replace(OFF, p_remix=0.25, remix_group_size=8)
    moved = 0
    for step in range(400):
        numbers = np.arange(step * 16, step * 16 + 16)
        drawn = augment.draw(config, seed=0, numbers=numbers.tolist(), stems=4, batch_size=16)
        moved += sum(int((drawn.source[group::2] != numbers[group::2, None]).any()) for group in range(2))
    assert moved / 800 == pytest.approx(0.25, abs=0.05)


def test_seeds_and_steps_draw_differently() -> None:
    config = AugmentConfig()
    first = augmented(config)
    assert torch.equal(first, augmented(config))
    assert not torch.equal(first, augmented(config, seed=1))
    assert not torch.equal(first, augmented(config, step=1))


@pytest.mark.parametrize("world_size", [1, 2, 3, 6, 8, 12])
def test_remixed_stems_come_from_the_crop_s_own_group_wherever_its_worker_is(world_size: int) -> None:
    config = dataclasses.replace(OFF, p_remix=1.0, remix_group_size=4)
    for rank in range(world_size):
        numbers = range(48 + rank, 72, world_size)
        drawn = augment.draw(config, seed=2, numbers=numbers, stems=5, batch_size=24)
        assert (drawn.source % 6 == np.array(numbers)[:, None] % 6).all()
        assert set(drawn.needed) <= set(range(48, 72))


def test_workers_that_hold_whole_groups_need_no_crop_of_another() -> None:
    config = dataclasses.replace(OFF, p_remix=1.0, remix_group_size=4)
    for rank in range(2):
        drawn = augment.draw(config, seed=0, numbers=range(rank, 16, 2), stems=4, batch_size=16)
        assert drawn.needed == list(range(rank, 16, 2))


def test_a_batch_that_groups_do_not_divide_is_refused_with_the_remedy() -> None:
    assert augment.num_groups(AugmentConfig(remix_group_size=4), batch_size=16) == 4
    with pytest.raises(ConfigError, match=r"crops.batch_size: 18 is not a multiple of .*remix_group_size=4.*p_remix=0"):
        augment.num_groups(AugmentConfig(), batch_size=18)


def test_pitch_and_tempo_are_drawn_for_their_share_of_crops_evenly_over_their_ranges() -> None:
    config = dataclasses.replace(OFF, p_pitch_tempo=0.25, pitch_semitones=3.0, tempo_percent=5)
    drawn = [augment.draw_pitch_tempo(config, seed=4, number=number) for number in range(8000)]
    changed = [change for change in drawn if change != PitchTempo()]
    assert len(changed) / len(drawn) == pytest.approx(0.25, abs=0.02)
    semitones = np.array([change.semitones for change in changed])
    assert np.quantile(semitones, [0, 0.25, 0.5, 0.75, 1]) == pytest.approx([-3, -1.5, 0, 1.5, 3], abs=0.25)
    percents, counts = np.unique([round(100 * change.tempo) for change in changed], return_counts=True)
    assert percents.tolist() == list(range(95, 106))
    assert counts.min() > 0.7 * counts.mean()


def test_pitch_and_tempo_are_off_by_default() -> None:
    assert {augment.draw_pitch_tempo(AugmentConfig(), seed=0, number=number) for number in range(200)} == {PitchTempo()}


def test_augmentation_stays_on_the_device_of_the_stems() -> None:
    drawn = augment.draw(AugmentConfig(p_remix=1.0), seed=0, numbers=range(BATCH), stems=STEMS, batch_size=BATCH)
    # Tensors on "meta" have no values: anything that looked at them on the CPU would raise.
    applied = augment.apply(labelled().to("meta"), drawn)
    assert applied.device.type == "meta"
    assert applied.shape == labelled().shape
