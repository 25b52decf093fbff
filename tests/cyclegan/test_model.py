"""One step of every recipe: gradients, learning, determinism, resume, refusals."""

import copy
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from cyclesep.config import settings
from cyclesep.cyclegan.config import RECIPES, MethodConfig, OptimizerConfig
from cyclesep.cyclegan.distributed import DistributedContext
from cyclesep.cyclegan.model import CycleGAN
from cyclesep.cyclegan.optimization import schedule
from cyclesep.cyclegan.recipes import FORWARD
from cyclesep.data.crops.dataset import Batch
from cyclesep.errors import ConfigError
from cyclesep.models.discriminators.config import DiscriminatorConfig
from cyclesep.models.separators.config import SeparatorConfig
from tests.support.tiny_models import RATE, TINY, build, noise_batch, weights_of

torch.set_num_threads(1)


def tones(rng: np.random.Generator, num_samples: int) -> np.ndarray:
    """Decaying notes of a quarter of a second with eight partials each."""
    time = np.arange(num_samples) / RATE
    notes = rng.integers(40, 70, size=math.ceil(num_samples / 4000)).repeat(4000)[:num_samples]
    phase = 2 * np.pi * np.cumsum(440.0 * 2.0 ** ((notes - 69) / 12)) / RATE
    return np.exp(-6.0 * (time % 0.25)) * sum(np.sin(k * phase) / k for k in range(1, 9))


def bursts(rng: np.random.Generator, num_samples: int) -> np.ndarray:
    """Decaying noise bursts, about six a second."""
    starts = rng.integers(num_samples, size=6 * num_samples // RATE)
    envelope = np.full(num_samples + 1600, 0.05)
    for start in starts:
        envelope[start : start + 1600] += 0.997 ** np.arange(1600)
    return envelope[:num_samples] * rng.standard_normal(num_samples)


class Toy:
    """Tones (the target) over noise bursts at equal power, cut from a minute of each."""

    def __init__(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        made = (make(rng, 60 * RATE) for make in (tones, bursts))
        self.tones, self.bursts = (torch.from_numpy(each / each.std()).float() for each in made)

    def batch(self, seed: int, *, size: int = 8, num_samples: int = 8192, paired: bool = True) -> Batch:
        """Unpaired, mixtures hold tones of the first half minute and targets those of the second."""
        rng = np.random.default_rng(seed)

        def crops(source: Tensor) -> Tensor:
            starts = rng.integers(len(source) - num_samples, size=size)
            return torch.stack([source[start : start + num_samples] for start in starts]).unsqueeze(1)

        half = len(self.tones) // 2
        mixed = crops(self.tones[:half])
        target = mixed if paired else crops(self.tones[half:])
        return Batch(mixture=mixed + crops(self.bursts), target=target.unsqueeze(1), paired=paired)


def gain_db(model: CycleGAN) -> float:
    """SDR of the averaged separator on tones and bursts that it never saw; the mixture has 0 dB."""
    batch = Toy(seed=1).batch(0, size=24)
    with torch.no_grad():
        error = model.ema_separator(batch.mixture) - batch.target
    return float(10 * torch.log10(batch.target.square().sum() / error.square().sum()))


def learned(recipe: str, steps: int, *, paired: bool, size: int, **values: Any) -> CycleGAN:
    config = {"separator": {"channels": 8, "depth": 4}, "discriminator": {"channels": 8}, "recipe": recipe, **values}
    model = CycleGAN(
        settings.build(MethodConfig, config), targets=("tones",), channels=1, sample_rate=RATE, num_steps=steps
    )
    corpus = Toy(seed=0)
    for step in range(steps):
        model.step(corpus.batch(step, size=size, paired=paired))
    return model


def test_a_waveunet_of_a_tenth_of_a_million_gains_6_db_in_200_supervised_steps() -> None:
    model = learned("supervised", 200, paired=True, size=4, optimizer={"lr_separator": 2e-3})
    assert sum(parameter.numel() for parameter in model.separator.parameters()) < 160_000
    assert gain_db(model) >= 6.0


def test_unpaired_remix_with_discriminators_gains_3_db_in_200_steps() -> None:
    model = learned("remix", 200, paired=False, size=4, optimizer={"lr_separator": 2e-3})
    assert gain_db(model) >= 3.0


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("preset", ["modern", "seed"])
def test_every_parameter_gets_a_gradient_in_every_recipe(recipe: str, preset: str) -> None:
    model = build(recipe, preset=preset, separator={"channels": 8, "depth": 1})
    model.step(noise_batch())
    for name, module in (model.generators | model.discriminators).items():
        for label, parameter in module.named_parameters():
            assert parameter.grad is not None, f"{name}.{label}"
            # Relativistic losses look at differences of logits only, so their common offset has a gradient of zero.
            if not (model.config.adversarial == "relativistic" and label.endswith("logits.bias")):
                assert parameter.grad.abs().sum() > 0, f"{name}.{label}"


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize(("targets", "channels"), [(1, 2), (4, 1)])
def test_a_step_changes_all_networks_for_stereo_and_for_all_stems(recipe: str, targets: int, channels: int) -> None:
    model = build(recipe, targets=targets, channels=channels)
    before = weights_of(model)
    values = model.step(noise_batch(targets=targets, channels=channels))
    assert all(math.isfinite(float(value)) for value in values.values())
    assert all(not torch.equal(old, new) for old, new in zip(before, weights_of(model), strict=True))


@pytest.mark.parametrize(
    ("recipe", "networks"),
    [
        ("remix", {"separator", "target_discriminator", "mixture_discriminator"}),
        ("cyclegan", {"separator", "mixer", "target_discriminator", "mixture_discriminator"}),
        ("paired", {"separator", "target_discriminator"}),
        ("supervised", {"separator"}),
    ],
)
def test_a_recipe_builds_the_networks_that_it_needs(recipe: str, networks: set[str]) -> None:
    assert set(build(recipe).state_dict()["networks"]) == networks


@pytest.mark.parametrize("form", ["lsgan", "relativistic", "hinge"])
@pytest.mark.parametrize("recipe", ["remix", "cyclegan", "paired"])
def test_the_adversarial_gradient_reaches_the_separator(recipe: str, form: str) -> None:
    only = dict.fromkeys(RECIPES[recipe].weights, 0.0) | {"adversarial": 1.0}
    model = build(recipe, adversarial=form, loss_weights=only)
    model.step(noise_batch())
    gradient = [parameter.grad for parameter in model.separator.parameters()]
    assert all(each is not None and each.abs().sum() > 0 for each in gradient)


def test_the_adversarial_weight_of_the_separator_does_not_reach_the_discriminators() -> None:
    light, heavy = (build("remix", loss_weights={"adversarial": weight}) for weight in (0.1, 5.0))
    for model in (light, heavy):
        model.step(noise_batch())
    for name, discriminator in light.discriminators.items():
        for ours, theirs in zip(discriminator.parameters(), heavy.discriminators[name].parameters(), strict=True):
            assert ours.grad is not None
            assert torch.equal(ours.grad, theirs.grad)


def test_weight_zero_skips_terms_and_discriminators() -> None:
    model = build("remix", loss_weights={"adversarial": 0, "identity": 0})
    values = model.step(noise_batch())
    assert "separator/bootstrap" in values
    assert not {"separator/identity", "separator/adversarial", "separator/feature_matching"} & set(values)
    assert not any("discriminator" in name for name in values)
    assert model.discriminators == {}


def test_the_total_is_the_weighted_sum_of_the_named_terms() -> None:
    model = build("remix", loss_weights={"cycle": 3.0, "feature_matching": 0.5, "si_sdr": 0.1})
    values = model.step(noise_batch())
    wanted = sum(weight * float(values[f"separator/{name}"]) for name, weight in model.weights.items())
    assert float(values["separator/total"]) == pytest.approx(wanted, rel=1e-5)


def test_the_remix_cycle_is_zero_for_a_perfect_separator() -> None:
    batch = noise_batch()
    low, high = (torch.fft.irfft(torch.fft.rfft(batch.mixture) * mask) for mask in half_bands(2048))

    class LowBand(nn.Module):
        def forward(self, mixture: Tensor) -> Tensor:
            return torch.fft.irfft(torch.fft.rfft(mixture) * half_bands(mixture.shape[-1])[0]).unsqueeze(1)

    known = Batch(mixture=low + high, target=low.unsqueeze(1), paired=True)
    passes = FORWARD["remix"]({"separator": LowBand()}, known)
    assert {name: float(passes.terms[name]()) for name in ("cycle", "identity", "reconstruction")} == pytest.approx(
        {"cycle": 0.0, "identity": 0.0, "reconstruction": 0.0}, abs=1e-6
    )
    judged = passes.judged["mixture_discriminator"]
    torch.testing.assert_close(judged.fake, high + low.roll(1, 0), rtol=0, atol=1e-5)


def half_bands(num_samples: int) -> tuple[Tensor, Tensor]:
    low = (torch.arange(num_samples // 2 + 1) < num_samples // 4).float()
    return low, 1 - low


def test_a_batch_twenty_db_louder_gives_the_same_losses() -> None:
    quiet, loud = (build("remix").step(noise_batch(level=level)) for level in (0.01, 0.1))
    assert {name: float(value) for name, value in loud.items()} == pytest.approx(
        {name: float(value) for name, value in quiet.items()}, rel=1e-3, abs=1e-4
    )


def test_output_energy_is_that_of_the_estimate_over_that_of_the_mixture() -> None:
    model, batch = build("supervised"), noise_batch()
    with torch.no_grad():
        wanted = model.separator(batch.mixture).square().sum() / batch.mixture.square().sum()
    assert float(model.step(batch)["separator/output_energy"]) == pytest.approx(float(wanted), rel=1e-4)


def test_removed_energy_is_that_of_the_mixture_without_each_estimate_over_that_of_the_mixture() -> None:
    model, batch = build("supervised"), noise_batch()
    with torch.no_grad():
        removed = batch.mixture.unsqueeze(1) - model.separator(batch.mixture)
    wanted = removed.square().mean() / batch.mixture.square().mean()
    assert float(model.step(batch)["collapse/removed_energy_ratio"]) == pytest.approx(float(wanted), rel=1e-4)


@pytest.mark.parametrize("recipe", RECIPES)
def test_equal_seeds_give_equal_weights_and_other_seeds_others(recipe: str) -> None:
    def trained(seed: int) -> list[Tensor]:
        model = build(recipe, seed=seed)
        for number in range(2):
            model.step(noise_batch(number))
        return weights_of(model)

    first = trained(3)
    torch.randn(7)  # the global generator must not matter
    assert all(torch.equal(a, b) for a, b in zip(first, trained(3), strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(first, trained(4), strict=True))


def test_a_state_of_another_recipe_is_refused() -> None:
    with pytest.raises(ValueError, match="mixer"):
        build("remix").load_state_dict(build("cyclegan").state_dict())


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_batch_with_nan_changes_nothing_and_is_counted(recipe: str) -> None:
    model, broken = build(recipe), noise_batch()
    model.step(noise_batch(1))
    before, average = weights_of(model), copy.deepcopy(model.ema_separator.state_dict())
    broken.mixture[0, 0, 5] = math.nan
    assert model.step(broken)["steps_skipped"] == 1.0
    assert all(torch.equal(old, new) for old, new in zip(before, weights_of(model), strict=True))
    assert all(torch.equal(average[key], value) for key, value in model.ema_separator.state_dict().items())
    assert model.step(noise_batch(2))["steps_skipped"] == 1.0
    assert not all(torch.equal(old, new) for old, new in zip(before, weights_of(model), strict=True))


def test_the_average_follows_the_separator_by_its_decay() -> None:
    model = build("supervised", optimizer={"ema_decay": 0.0})
    model.step(noise_batch())
    for name, value in model.separator.state_dict().items():
        torch.testing.assert_close(model.ema_separator.state_dict()[name], value, rtol=0, atol=1e-7)
    slow = build("supervised", optimizer={"ema_decay": 0.999})
    start = next(slow.separator.parameters()).detach().clone()
    slow.step(noise_batch())
    # The first step's decay is (1 + 0) / (10 + 0), for all that 0.999 is asked for.
    wanted = 0.1 * start + 0.9 * next(slow.separator.parameters())
    torch.testing.assert_close(next(slow.ema_separator.parameters()), wanted, rtol=1e-5, atol=1e-7)
    assert not slow.ema_separator.training


def test_the_schedule_warms_up_and_ends_at_nothing() -> None:
    optimizer = OptimizerConfig(warmup_steps=4, schedule="cosine")
    rates = [schedule(optimizer, step, 104) for step in range(105)]
    assert rates[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert rates[54] == pytest.approx(0.5)
    assert rates[104] == pytest.approx(0.0)
    assert schedule(optimizer, 1000, None) == 1.0
    assert schedule(replace(optimizer, schedule="constant"), 103, 104) == 1.0


def test_adversarial_terms_wait_for_their_step() -> None:
    model = build("remix", adversarial_start_step=2)
    named = [set(model.step(noise_batch(number))) for number in range(3)]
    assert ["separator/adversarial" in names for names in named] == [False, False, True]
    assert ["target_discriminator/logit_gap" in names for names in named] == [False, False, True]


def test_regression_alone_refuses_unpaired_batches() -> None:
    with pytest.raises(ConfigError, match="recipe=remix"):
        build("supervised").step(noise_batch(paired=False))


def test_unpaired_batches_without_a_term_of_weight_are_refused() -> None:
    weights = dict.fromkeys(RECIPES["remix"].weights, 0.0) | {"reconstruction": 1.0}
    with pytest.raises(ConfigError, match="reconstruction"):
        build("remix", loss_weights=weights).step(noise_batch(paired=False))


def test_targets_that_leave_part_of_the_mixture_out_are_refused_under_mixture_consistency() -> None:
    batch = noise_batch(targets=4)
    partial = Batch(mixture=batch.mixture, target=batch.target[:, :2], paired=True)
    with pytest.raises(ConfigError, match="mixture_consistency"):
        build("remix", targets=2).step(partial)
    free = {"channels": 8, "depth": 2, "mixture_consistency": False}
    assert math.isfinite(float(build("remix", targets=2, separator=free).step(partial)["separator/total"]))


def test_unknown_weights_and_weights_that_are_all_zero_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"swap.*cycle"):
        MethodConfig(recipe="remix", loss_weights={"swap": 1.0})
    with pytest.raises(ConfigError, match="weight 0"):
        MethodConfig(recipe="supervised", loss_weights={"reconstruction": 0, "spectral": 0})
    with pytest.raises(ConfigError, match="cycle"):
        MethodConfig(recipe="supervised", loss_weights={"cycle": 1.0})
    with pytest.raises(ConfigError, match="loss_weights"):
        settings.build(MethodConfig, {"loss_weights": {"cycle": -1.0}})


def test_the_preset_fills_what_is_left_empty_and_nothing_else() -> None:
    seed = settings.build(MethodConfig, {"preset": "notebook", "optimizer": {"lr_separator": 0.5}})
    assert (seed.separator.name, seed.discriminator.name, seed.adversarial) == ("seed", "seed", "relativistic")
    assert (seed.optimizer.lr_separator, seed.optimizer.lr_discriminator) == (0.5, 2e-4)
    assert (seed.weights["cycle"], seed.weights["identity"], seed.weights["reconstruction"]) == (10.0, 0.5, 0.0)
    modern = MethodConfig(separator=SeparatorConfig(name="tfsep"), discriminator=DiscriminatorConfig())
    assert (modern.separator.name, modern.discriminator.name) == ("tfsep", "spectral")


def test_a_config_survives_its_round_trip_through_plain_values() -> None:
    config = MethodConfig(preset="notebook", recipe="paired", loss_weights={"identity": 2.0})
    assert settings.build(MethodConfig, settings.to_dict(config)) == config


def test_bfloat16_trains_float32_weights_close_to_float32_losses() -> None:
    full, half = (build("remix", precision=name) for name in ("fp32", "bf16"))
    exact, rough = (float(model.step(noise_batch())["separator/total"]) for model in (full, half))
    assert rough == pytest.approx(exact, rel=0.05)
    assert rough != exact
    assert {parameter.dtype for parameter in half.separator.parameters()} == {torch.float32}


def test_the_means_of_all_ranks_set_the_level() -> None:
    asked: list[float] = []

    def mean_over_ranks(value: Tensor) -> Tensor:
        asked.append(value.flatten()[0].item())
        return value * 4

    config = settings.build(MethodConfig, TINY | {"recipe": "supervised", "loss_weights": {"spectral": 0}})
    batch, ranks = noise_batch(), DistributedContext(mean=mean_over_ranks)
    values = CycleGAN(config, targets=("a",), channels=1, sample_rate=RATE, ranks=ranks).step(batch)
    alone = CycleGAN(config, targets=("a",), channels=1, sample_rate=RATE).step(batch)
    assert asked[0] == pytest.approx(float(batch.mixture.square().mean()))
    # Four times the power is twice the level, which halves an L1 loss.
    assert float(values["separator/reconstruction"]) == pytest.approx(
        float(alone["separator/reconstruction"]) / 2, rel=1e-4
    )


def test_wrapped_modules_do_the_forwards_that_need_gradients() -> None:
    calls: list[str] = []

    class Wrapper(nn.Module):
        def __init__(self, module: nn.Module) -> None:
            super().__init__()
            self.module = module

        def forward(self, *inputs: Any) -> Any:
            calls.append(type(self.module).__name__)
            return self.module(*inputs)

    config = settings.build(MethodConfig, TINY)
    model = CycleGAN(config, targets=("a",), channels=1, sample_rate=RATE, wrap=Wrapper)
    model.step(noise_batch())
    assert calls == ["Separator"] * 3 + ["Discriminator"] * 2
    assert not any("module." in name for name in model.state_dict()["networks"]["separator"])
