"""Single recipes: alternating paired and unpaired batches, the swap cycle, the step of the original notebook."""

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


class LowBand(nn.Module):
    """Perfect separator of the lower half of the spectrum."""

    def forward(self, mixture: Tensor) -> Tensor:
        return low_band(mixture).unsqueeze(1)


class Scaled(nn.Module):
    """Separator that returns a constant multiple of the mixture."""

    def __init__(self, gain: float) -> None:
        super().__init__()
        self.gain = gain

    def forward(self, mixture: Tensor) -> Tensor:
        return self.gain * mixture.unsqueeze(1)


def low_band(waveform: Tensor) -> Tensor:
    bins = waveform.shape[-1] // 2 + 1
    return torch.fft.irfft(torch.fft.rfft(waveform) * (torch.arange(bins) < bins // 2))


def gradient(model: CycleGAN) -> list[Tensor]:
    return [parameter.grad.clone() for parameter in model.separator.parameters() if parameter.grad is not None]


@pytest.mark.parametrize("recipe", ["remix", "cyclegan", "paired"])
def test_paired_and_unpaired_batches_alternate(recipe: str) -> None:
    model = build(recipe)
    cycle = {"remix": {"separator/bootstrap"}, "cyclegan": {"separator/cycle"}}.get(recipe, set())
    for number, paired in enumerate([False, True, True, False, True]):
        values = set(model.step(noise_batch(number, paired=paired)))
        assert values >= REGRESSION if paired else not REGRESSION & values
        assert cycle | {"separator/adversarial", "separator/identity", "target_discriminator/logit_gap"} <= values
    assert model.step_number == 5
    assert model.num_skipped == 0


def test_feature_matching_on_paired_batches_only() -> None:
    model = build("paired")
    values = [set(model.step(noise_batch(number, paired=number == 0))) for number in range(2)]
    assert ["separator/feature_matching" in names for names in values] == [True, False]


def test_crops_of_workers_and_micro_batches_have_the_partners_of_the_whole_batch() -> None:
    whole = roll_half_batch(torch.arange(8))
    assert whole.tolist() == [4, 5, 6, 7, 0, 1, 2, 3]
    for number in (2, 4):
        for first in range(number):
            assert torch.equal(roll_half_batch(torch.arange(8)[first::number]), whole[first::number])


def test_bootstrap_is_the_cycle_without_a_gradient_through_the_residual() -> None:
    separator = Scaled(0.5)
    separator.gain = gain = torch.tensor(0.5, requires_grad=True)  # type: ignore[assignment]
    mixture, target = torch.full((1, 1, 16), 4.0), torch.full((1, 1, 1, 16), 6.0)
    batch = Batch(mixture=mixture, target=target, paired=False)
    terms = FORWARD["remix"]({"separator": separator}, batch, ("cycle", "bootstrap")).terms
    # Remixed: 4 - 4 g + 6. With gain g = 1/2 its estimate is 4, which differs from the target by 2.
    cycle, bootstrap = terms["cycle"], terms["bootstrap"]
    assert (cycle.item(), bootstrap.item()) == pytest.approx((2.0, 2.0))
    # The derivative of 6 - g (10 - 4 g) is -10 + 8 g; with a constant residual it is -(10 - 4 g).
    (with_graph,), (without,) = (torch.autograd.grad(each, gain, retain_graph=True) for each in (cycle, bootstrap))
    assert (with_graph.item(), without.item()) == pytest.approx((-6.0, -8.0))


def swap_cycle(separator: nn.Module, batch: Batch) -> float:
    return float(FORWARD["remix"]({"separator": separator}, batch, ("swap_cycle",)).terms["swap_cycle"])


@pytest.mark.parametrize("size", [2, 3, 5, 8])
def test_the_swap_cycle_of_a_perfect_separator_is_zero(size: int) -> None:
    assert swap_cycle(LowBand(), noise_batch(size=size)) == pytest.approx(0.0, abs=1e-6)


def test_the_swap_cycle_of_a_silent_separator_is_zero() -> None:
    assert swap_cycle(Scaled(0.0), noise_batch()) == 0.0


def test_the_swap_cycle_by_hand() -> None:
    # Estimates are half of the mixtures 2 and 6: 1 and 3. Swapped mixtures are 1 + 3 and 3 + 1, and half of them is 2.
    # Swapped back, 2 + 2 is compared with 2 and with 6.
    mixture = torch.tensor([2.0, 6.0]).reshape(2, 1, 1).expand(2, 1, 16)
    batch = Batch(mixture=mixture, target=mixture.unsqueeze(1), paired=False)
    assert swap_cycle(Scaled(0.5), batch) == pytest.approx(2.0)


def test_the_swap_cycle_starts_at_its_step_and_only_with_a_weight() -> None:
    model = build("remix", swap_start_step=2, loss_weights={"swap_cycle": 0.1})
    active = ["separator/swap_cycle" in model.step(noise_batch(number)) for number in range(3)]
    assert active == [False, False, True]
    assert "separator/swap_cycle" not in build("remix", swap_start_step=0).step(noise_batch())


def test_the_swap_cycle_alone_collapses_to_silence_and_the_monitor_warns(
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


def test_only_the_cycle_trains_the_separator_with_notebook_exact() -> None:
    all_terms, cycle = exact(), exact(adversarial=0.0, identity=0.0)
    assert all_terms.weights == {"adversarial": 1.0, "cycle": 10.0, "identity": 0.5}
    values = all_terms.step(noise_batch())
    cycle.step(noise_batch())
    assert {"separator/adversarial", "separator/identity"} <= set(values)
    ours, theirs = gradient(all_terms), gradient(cycle)
    assert len(ours) == len(theirs) == len(list(all_terms.separator.parameters()))
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
    assert sum(float(each.abs().sum()) for each in ours) > 0


def test_the_notebook_preset_has_adversarial_gradients() -> None:
    values = {"preset": "notebook", "separator": {"channels": 8, "depth": 1}}
    all_terms = build("remix", **values)
    without = build("remix", **values, loss_weights={"adversarial": 0.0})
    for model in (all_terms, without):
        model.step(noise_batch())
    assert all(not torch.equal(a, b) for a, b in zip(gradient(all_terms), gradient(without), strict=True))


def test_the_first_pass_of_notebook_exact_receives_the_target_and_has_no_graph() -> None:
    separator = Scaled(0.5)
    separator.gain = torch.tensor(0.5, requires_grad=True)  # type: ignore[assignment]
    batch = noise_batch()
    outputs = FORWARD["notebook"]({"separator": separator}, batch, ("cycle",))
    assert not outputs.estimate.requires_grad
    torch.testing.assert_close(outputs.estimate, 0.5 * batch.target)
    torch.testing.assert_close(outputs.pairs["mixture_discriminator"].fake, batch.mixture + 0.5 * batch.target.sum(1))
    assert outputs.terms["cycle"].requires_grad


def test_notebook_exact_requires_its_preset_and_paired_batches() -> None:
    with pytest.raises(ConfigError, match="preset=default"):
        MethodConfig(notebook_exact=True)
    with pytest.raises(ConfigError, match="recipe=paired"):
        MethodConfig(notebook_exact=True, preset="notebook", recipe="paired")
    with pytest.raises(ConfigError, match="aligned"):
        exact().step(noise_batch(paired=False))
