"""What single recipes do: batches that are paired or not from step to step, the swap cycle, the original notebook's step."""

import pytest
import torch
from torch import Tensor, nn

from cyclesep.cyclegan.config import RECIPES, MethodConfig
from cyclesep.cyclegan.model import CycleGAN
from cyclesep.cyclegan.recipes import FORWARD, roll_half_batch
from cyclesep.data.crops.dataset import Batch
from cyclesep.errors import ConfigError
from tests.support.tiny_models import build, noise_batch

REGRESSION = {"separator/reconstruction", "separator/spectral"}


class Low(nn.Module):
    """A perfect separator of the lower half of the spectrum."""

    def forward(self, mixture: Tensor) -> Tensor:
        return low_half(mixture).unsqueeze(1)


class Scaled(nn.Module):
    """Calls a fixed share of every mixture the target."""

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share

    def forward(self, mixture: Tensor) -> Tensor:
        return self.share * mixture.unsqueeze(1)


def low_half(waveform: Tensor) -> Tensor:
    bins = waveform.shape[-1] // 2 + 1
    return torch.fft.irfft(torch.fft.rfft(waveform) * (torch.arange(bins) < bins // 2))


def gradient(model: CycleGAN) -> list[Tensor]:
    return [parameter.grad.clone() for parameter in model.separator.parameters() if parameter.grad is not None]


@pytest.mark.parametrize("recipe", ["remix", "cyclegan", "paired"])
def test_paired_and_unpaired_batches_take_turns(recipe: str) -> None:
    model = build(recipe)
    cycle = {"remix": {"separator/bootstrap"}, "method": {"separator/cycle"}}.get(recipe, set())
    for number, paired in enumerate([False, True, True, False, True]):
        told = set(model.step(noise_batch(number, paired=paired)))
        assert told >= REGRESSION if paired else not REGRESSION & told
        assert cycle | {"separator/adversarial", "separator/identity", "target_discriminator/logit_gap"} <= told
    assert model.step_number == 5
    assert model.num_skipped == 0


def test_feature_maps_are_matched_on_paired_batches_only() -> None:
    model = build("paired")
    told = [set(model.step(noise_batch(number, paired=number == 0))) for number in range(2)]
    assert ["separator/feature_matching" in names for names in told] == [True, False]


def test_crops_of_every_second_worker_or_part_have_the_partners_of_the_whole_batch() -> None:
    whole = roll_half_batch(torch.arange(8))
    assert whole.tolist() == [4, 5, 6, 7, 0, 1, 2, 3]
    for number in (2, 4):
        for first in range(number):
            assert torch.equal(roll_half_batch(torch.arange(8)[first::number]), whole[first::number])


def test_bootstrapping_is_the_cycle_without_a_gradient_through_the_residual() -> None:
    separator = Scaled(0.5)
    separator.share = share = torch.tensor(0.5, requires_grad=True)  # type: ignore[assignment]
    mixture, target = torch.full((1, 1, 16), 4.0), torch.full((1, 1, 1, 16), 6.0)
    passes = FORWARD["remix"]({"separator": separator}, Batch(mixture=mixture, target=target, paired=False))
    # Remixed: 4 - 4 s + 6, of which a share s is 4 for s = 1/2, 2 less than the target.
    cycle, bootstrap = passes.terms["cycle"](), passes.terms["bootstrap"]()
    assert (cycle.item(), bootstrap.item()) == pytest.approx((2.0, 2.0))
    # Of 6 - s (10 - 4 s) the slope is -10 + 8 s; with the residual held it is -(10 - 4 s).
    (with_graph,), (without,) = (torch.autograd.grad(each, share, retain_graph=True) for each in (cycle, bootstrap))
    assert (with_graph.item(), without.item()) == pytest.approx((-6.0, -8.0))


@pytest.mark.parametrize("size", [2, 3, 5, 8])
def test_the_swap_cycle_of_a_perfect_separator_is_zero(size: int) -> None:
    passes = FORWARD["remix"]({"separator": Low()}, noise_batch(size=size))
    assert float(passes.terms["swap_cycle"]()) == pytest.approx(0.0, abs=1e-6)


def test_the_swap_cycle_of_a_silent_separator_is_zero_which_is_why_it_comes_late() -> None:
    passes = FORWARD["remix"]({"separator": Scaled(0.0)}, noise_batch())
    assert float(passes.terms["swap_cycle"]()) == 0.0


def test_the_swap_cycle_by_hand() -> None:
    # Estimates are half of mixtures 2 and 6: 1 and 3. Swapped they are 1 + 3 and 3 + 1, of which half is 2. Put back
    # together, 2 + 2 stands against 2 and against 6.
    mixture = torch.tensor([2.0, 6.0]).reshape(2, 1, 1).expand(2, 1, 16)
    batch = Batch(mixture=mixture, target=mixture.unsqueeze(1), paired=False)
    passes = FORWARD["remix"]({"separator": Scaled(0.5)}, batch)
    assert float(passes.terms["swap_cycle"]()) == pytest.approx(2.0)


def test_the_swap_cycle_counts_from_its_step_on_and_only_with_a_weight() -> None:
    model = build("remix", swap_start_step=2, loss_weights={"swap_cycle": 0.1})
    told = ["separator/swap_cycle" in model.step(noise_batch(number)) for number in range(3)]
    assert told == [False, False, True]
    assert "separator/swap_cycle" not in build("remix", swap_start_step=0).step(noise_batch())


def test_a_swap_cycle_alone_and_from_scratch_silences_the_separator_and_the_alarm_tells(
    caplog: pytest.LogCaptureFixture,
) -> None:
    only = dict.fromkeys(RECIPES["remix"].weights, 0.0) | {"swap_cycle": 10.0}
    model = build(
        "remix",
        swap_start_step=0,
        loss_weights=only,
        optimizer={"lr_separator": 0.01, "warmup_steps": 0},
        collapse={"min_output_energy": 0.02, "output_patience": 5},
    )
    energies = [float(model.step(noise_batch(number, size=4))["separator/output_energy"]) for number in range(60)]
    assert energies[-1] < 0.02 < energies[0]
    assert len(caplog.messages) == 1
    assert "collapsed to silence" in caplog.messages[0]


def exact(**weights: float) -> CycleGAN:
    separator = {"channels": 8, "depth": 1}
    return build("remix", preset="notebook", notebook_exact=True, separator=separator, loss_weights=weights)


def test_the_ancestors_own_step_trains_its_separator_by_the_cycle_alone() -> None:
    whole, cycle = exact(), exact(adversarial=0.0, identity=0.0)
    assert whole.weights == {"adversarial": 1.0, "cycle": 10.0, "identity": 0.5}
    values = whole.step(noise_batch())
    cycle.step(noise_batch())
    assert {"separator/adversarial", "separator/identity"} <= set(values)
    ours, theirs = gradient(whole), gradient(cycle)
    assert len(ours) == len(theirs) == len(list(whole.separator.parameters()))
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
    assert sum(float(each.abs().sum()) for each in ours) > 0


def test_the_mended_step_of_the_seed_preset_has_adversarial_gradients() -> None:
    values = {"preset": "notebook", "separator": {"channels": 8, "depth": 1}}
    whole = build("remix", **values)
    without = build("remix", **values, loss_weights={"adversarial": 0.0})
    for model in (whole, without):
        model.step(noise_batch())
    assert all(not torch.equal(a, b) for a, b in zip(gradient(whole), gradient(without), strict=True))


def test_the_ancestors_first_pass_gets_the_target_and_leaves_no_graph() -> None:
    separator = Scaled(0.5)
    separator.share = torch.tensor(0.5, requires_grad=True)  # type: ignore[assignment]
    batch = noise_batch()
    passes = FORWARD["notebook"]({"separator": separator}, batch)
    assert not passes.estimate.requires_grad
    torch.testing.assert_close(passes.estimate, 0.5 * batch.target)
    torch.testing.assert_close(passes.judged["mixture_discriminator"].fake, batch.mixture + 0.5 * batch.target.sum(1))
    assert passes.terms["cycle"]().requires_grad


def test_the_ancestors_own_step_is_for_its_preset_and_pairs_only() -> None:
    with pytest.raises(ConfigError, match="preset=default"):
        MethodConfig(notebook_exact=True)
    with pytest.raises(ConfigError, match="recipe=paired"):
        MethodConfig(notebook_exact=True, preset="notebook", recipe="paired")
    with pytest.raises(ConfigError, match="aligned"):
        exact().step(noise_batch(paired=False))
