"""Validation: hand-computed ratios, sums over ranks, excluded silence."""

import pytest
import torch
from torch import Tensor, nn

from cyclesep.training.validation import sdr, si_sdr, summarize, validate


class Scaled(nn.Module):
    """A separator whose estimate is the mixture times a factor."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, mixture: Tensor) -> Tensor:
        return self.factor * mixture[:, None]


@pytest.fixture
def crops() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(6, 1, 400, generator=generator), torch.randn(6, 1, 1, 400, generator=generator)


def test_sdr_of_a_tenth_missing_is_20_db() -> None:
    target = torch.randn(3, 2, 100, dtype=torch.float64)
    assert sdr(target, 0.9 * target).tolist() == pytest.approx([20.0] * 3)


def test_si_sdr_ignores_gain_and_counts_orthogonal_error() -> None:
    target = torch.tensor([[1.0, 1.0, 1.0, 1.0]], dtype=torch.float64)
    orthogonal = torch.tensor([[1.0, -1.0, 1.0, -1.0]], dtype=torch.float64)
    for gain in (0.1, 1.0, 7.0):
        assert float(si_sdr(target, gain * (target + 0.1 * orthogonal))) == pytest.approx(20.0)


def test_sums_over_ranks_are_sums_over_all_crops(crops: tuple[Tensor, Tensor]) -> None:
    mixtures, targets = crops
    whole = validate(Scaled(0.5), mixtures, targets, batch_size=4)
    parts = [validate(Scaled(0.5), mixtures[rank::4], targets[rank::4], batch_size=4) for rank in range(4)]
    assert torch.allclose(sum(parts, torch.zeros_like(whole)), whole)
    assert whole[0, 3] == 6


def test_a_rank_without_crops_adds_nothing(crops: tuple[Tensor, Tensor]) -> None:
    mixtures, targets = crops
    assert validate(Scaled(1.0), mixtures[:0], targets[:0], batch_size=4).tolist() == [[0.0] * 4]


def test_silent_targets_are_excluded(crops: tuple[Tensor, Tensor]) -> None:
    mixtures, targets = crops
    targets = targets.clone()
    targets[:2] = 0.0
    with_silence = summarize(validate(Scaled(0.5), mixtures, targets, batch_size=3), ("vocals",))
    without = summarize(validate(Scaled(0.5), mixtures[2:], targets[2:], batch_size=3), ("vocals",))
    assert with_silence == pytest.approx(without)


def test_the_mixture_has_no_improvement_over_itself(crops: tuple[Tensor, Tensor]) -> None:
    metrics = summarize(validate(Scaled(0.3), *crops, batch_size=6), ("vocals",))
    assert metrics["validation/si_sdri"] == pytest.approx(0.0, abs=1e-5)


def test_metrics_per_target_exist_with_several_targets_only() -> None:
    sums = torch.tensor([[20.0, 8.0, 2.0, 2.0], [4.0, 4.0, 0.0, 2.0]], dtype=torch.float64)
    assert summarize(sums, ("vocals", "drums")) == {
        "validation/sdr": 6.0,
        "validation/si_sdr": 3.0,
        "validation/si_sdri": 2.5,
        "validation/sdr/vocals": 10.0,
        "validation/sdr/drums": 2.0,
    }
    assert "validation/sdr/vocals" not in summarize(sums[:1], ("vocals",))


def test_a_target_that_is_always_silent_is_left_out_of_the_means() -> None:
    sums = torch.tensor([[20.0, 8.0, 2.0, 2.0], [0.0, 0.0, 0.0, 0.0]], dtype=torch.float64)
    assert summarize(sums, ("vocals", "drums")) == {
        "validation/sdr": 10.0,
        "validation/si_sdr": 4.0,
        "validation/si_sdri": 3.0,
        "validation/sdr/vocals": 10.0,
    }


def test_no_audible_crops_give_no_metrics() -> None:
    assert summarize(torch.zeros(2, 4, dtype=torch.float64), ("vocals", "drums")) == {}
