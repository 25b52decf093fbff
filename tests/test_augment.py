"""Augmentation: seeded by crop number, the same for any number of workers, and the mixture stays the sum."""

import dataclasses

import numpy as np
import pytest
import torch

from cyclesep import augment
from cyclesep.augment import AugmentConfig
from cyclesep.errors import ConfigError

BATCH, STEMS = 16, 3
OFF = AugmentConfig(gain_db=0.0, polarity_share=0.0, channel_swap_share=0.0, remix_share=0.0)


def labelled(batch: int = BATCH, stems: int = STEMS) -> torch.Tensor:
    """Stems `(batch, stems, 2, 5)` whose values tell crop, stem and channel: 100 * crop + 10 * stem + channel + 1."""
    crop, stem, channel = torch.arange(batch), torch.arange(stems), torch.arange(2)
    values = 100.0 * crop[:, None, None] + 10.0 * stem[None, :, None] + channel + 1.0
    return values[..., None].repeat(1, 1, 1, 5)


def augmented(
    config: AugmentConfig, *, rank: int = 0, world_size: int = 1, seed: int = 0, step: int = 0
) -> torch.Tensor:
    groups = augment.num_groups(config, batch_size=BATCH, world_size=world_size)
    share = range(rank, BATCH, world_size)
    numbers = [step * BATCH + crop for crop in share]
    drawn = augment.draw(config, seed=seed, numbers=numbers, stems=STEMS, num_groups=groups)
    return augment.apply(labelled()[rank::world_size], drawn)


def test_with_every_share_at_zero_nothing_changes() -> None:
    assert torch.equal(augmented(OFF), labelled())


def test_gains_stay_within_their_decibels_and_fill_them_evenly() -> None:
    drawn = augment.draw(dataclasses.replace(OFF, gain_db=6.0), seed=0, numbers=range(2000), stems=4)
    gains_db = 20 * np.log10(drawn.gain)
    assert np.abs(gains_db).max() <= 6.0001
    assert np.quantile(gains_db, [0.25, 0.5, 0.75]) == pytest.approx([-3, 0, 3], abs=0.25)


def test_shares_of_inverted_and_swapped_stems_are_the_configured_ones() -> None:
    config = dataclasses.replace(OFF, polarity_share=0.3, channel_swap_share=0.8)
    drawn = augment.draw(config, seed=1, numbers=range(3000), stems=4)
    assert (drawn.gain < 0).mean() == pytest.approx(0.3, abs=0.02)
    assert drawn.swap.mean() == pytest.approx(0.8, abs=0.02)
    assert np.array_equal(np.abs(drawn.gain), np.ones_like(drawn.gain))


def test_swapped_stems_have_their_channels_exchanged_and_inverted_ones_their_sign() -> None:
    swapped = augmented(dataclasses.replace(OFF, channel_swap_share=1.0))
    assert torch.equal(swapped, labelled().flip(2))
    inverted = augmented(dataclasses.replace(OFF, polarity_share=1.0))
    assert torch.equal(inverted, -labelled())


def test_mono_stems_have_no_channels_to_swap() -> None:
    drawn = augment.draw(dataclasses.replace(OFF, channel_swap_share=1.0), seed=0, numbers=[0], stems=2)
    stems = torch.rand(1, 2, 1, 8)
    assert torch.equal(augment.apply(stems, drawn), stems)


@pytest.mark.parametrize("world_size", [2, 4])
def test_the_same_crops_come_out_for_any_number_of_workers(world_size: int) -> None:
    config = AugmentConfig(remix_share=1.0, remix_group=4)
    whole = augmented(config, step=7)
    for rank in range(world_size):
        assert torch.equal(augmented(config, rank=rank, world_size=world_size, step=7), whole[rank::world_size])


def test_remix_shuffles_each_stem_inside_its_group_and_loses_none() -> None:
    remixed = augmented(dataclasses.replace(OFF, remix_share=1.0, remix_group=4))
    for group in range(4):
        for stem in range(STEMS):
            assert set(remixed[group::4, stem, 0, 0].tolist()) == set(labelled()[group::4, stem, 0, 0].tolist())
    crops = (remixed[:, :, 0, 0] // 100).int()
    assert (crops != crops[:, :1]).any(dim=1).float().mean() > 0.5


def test_about_the_configured_share_of_groups_is_remixed() -> None:
    config = dataclasses.replace(OFF, remix_share=0.25, remix_group=8)
    moved = 0
    for step in range(400):
        drawn = augment.draw(config, seed=0, numbers=range(step * 16, step * 16 + 16), stems=4, num_groups=2)
        moved += int((drawn.source[0::2] != np.arange(0, 16, 2)[:, None]).any())
        moved += int((drawn.source[1::2] != np.arange(1, 16, 2)[:, None]).any())
    assert moved / 800 == pytest.approx(0.25, abs=0.05)


def test_seeds_and_steps_draw_differently() -> None:
    config = AugmentConfig()
    first = augmented(config)
    assert torch.equal(first, augmented(config))
    assert not torch.equal(first, augmented(config, seed=1))
    assert not torch.equal(first, augmented(config, step=1))


def test_a_batch_that_groups_do_not_divide_is_refused_with_the_remedy() -> None:
    with pytest.raises(ConfigError, match=r"batch_size: 16 is not a multiple of 8 workers .*remix_share=0"):
        augment.num_groups(AugmentConfig(), batch_size=16, world_size=8)
    assert augment.num_groups(OFF, batch_size=16, world_size=8) is None
