"""Training steps of every recipe: gradients, learning, determinism, validation of settings and batches."""

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
from cyclesep.cyclegan.optimization import learning_rate_factor
from cyclesep.cyclegan.recipes import FORWARD
from cyclesep.data.crops.dataset import Batch
from cyclesep.errors import ConfigError
from cyclesep.models.discriminators.config import DiscriminatorConfig
from cyclesep.models.separators.config import SeparatorConfig
from tests.support.tiny_models import RATE, TINY, build, noise_batch, weights_of

torch.set_num_threads(1)


def tones(rng: np.random.Generator, num_samples: int) -> np.ndarray:
    """Return decaying notes of a quarter of a second with eight partials each."""
    time = np.arange(num_samples) / RATE
    notes = rng.integers(40, 70, size=math.ceil(num_samples / 4000)).repeat(4000)[:num_samples]
    phase = 2 * np.pi * np.cumsum(440.0 * 2.0 ** ((notes - 69) / 12)) / RATE
    return np.exp(-6.0 * (time % 0.25)) * sum(np.sin(k * phase) / k for k in range(1, 9))


def bursts(rng: np.random.Generator, num_samples: int) -> np.ndarray:
    """Return decaying noise bursts, about six per second."""
    starts = rng.integers(num_samples, size=6 * num_samples // RATE)
    envelope = np.full(num_samples + 1600, 0.05)
    for start in starts:
        envelope[start : start + 1600] += 0.997 ** np.arange(1600)
    return envelope[:num_samples] * rng.standard_normal(num_samples)


class ToyCorpus:
    """One minute of tones (the target) and one of noise bursts, mixed at equal power."""

    def __init__(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        sources = (synthesize(rng, 60 * RATE) for synthesize in (tones, bursts))
        self.tones, self.bursts = (torch.from_numpy(source / source.std()).float() for source in sources)

    def batch(self, seed: int, *, size: int = 8, num_samples: int = 8192, paired: bool = True) -> Batch:
        """Return a batch; unpaired mixtures have tones of the first half minute, targets those of the second."""
        rng = np.random.default_rng(seed)

        def crops(source: Tensor) -> Tensor:
            starts = rng.integers(len(source) - num_samples, size=size)
            return torch.stack([source[start : start + num_samples] for start in starts]).unsqueeze(1)

        half = len(self.tones) // 2
        mixed = crops(self.tones[:half])
        target = mixed if paired else crops(self.tones[half:])
        return Batch(mixture=mixed + crops(self.bursts), target=target.unsqueeze(1), paired=paired)


def gain_db(model: CycleGAN) -> float:
    """Return the SDR of the averaged separator on unseen tones and bursts; the mixture has 0 dB."""
    batch = ToyCorpus(seed=1).batch(0, size=24)
    with torch.no_grad():
        error = model.ema_separator(batch.mixture) - batch.target
    return float(10 * torch.log10(batch.target.square().sum() / error.square().sum()))


def train(recipe: str, steps: int, *, paired: bool, size: int, **values: Any) -> CycleGAN:
    config = {"separator": {"channels": 8, "depth": 4}, "discriminator": {"channels": 8}, "recipe": recipe, **values}
    model = CycleGAN(
        settings.build(MethodConfig, config), targets=("tones",), channels=1, sample_rate=RATE, num_steps=steps
    )
    corpus = ToyCorpus(seed=0)
    for step in range(steps):
        model.step(corpus.batch(step, size=size, paired=paired))
    return model


def test_a_small_waveunet_gains_6_db_in_200_supervised_steps() -> None:
    model = train("supervised", 200, paired=True, size=4, optimizer={"lr_separator": 2e-3})
    assert sum(parameter.numel() for parameter in model.separator.parameters()) < 160_000
    assert gain_db(model) >= 6.0


def test_unpaired_remix_with_discriminators_gains_3_db_in_200_steps() -> None:
    model = train("remix", 200, paired=False, size=4, optimizer={"lr_separator": 2e-3})
    assert gain_db(model) >= 3.0


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("preset", ["default", "notebook"])
def test_every_parameter_has_a_gradient_in_every_recipe(recipe: str, preset: str) -> None:
    model = build(recipe, preset=preset, separator={"channels": 8, "depth": 1})
    model.step(noise_batch())
    for name, module in (model.generators | model.discriminators).items():
        for label, parameter in module.named_parameters():
            assert parameter.grad is not None, f"{name}.{label}"
            # Relativistic losses depend on differences of logits only, so their common offset has a gradient of zero.
            if not (model.config.adversarial_loss == "relativistic" and label.endswith("logits.bias")):
                assert parameter.grad.abs().sum() > 0, f"{name}.{label}"


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize(("targets", "channels"), [(1, 2), (4, 1)])
def test_a_step_updates_all_networks_for_stereo_and_for_several_targets(
    recipe: str, targets: int, channels: int
) -> None:
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
def test_a_recipe_builds_its_networks(recipe: str, networks: set[str]) -> None:
    assert set(build(recipe).state_dict()["networks"]) == networks


@pytest.mark.parametrize("form", ["lsgan", "relativistic", "hinge"])
@pytest.mark.parametrize("recipe", ["remix", "cyclegan", "paired"])
def test_the_adversarial_gradient_reaches_the_separator(recipe: str, form: str) -> None:
    only = dict.fromkeys(RECIPES[recipe].weights, 0.0) | {"adversarial": 1.0}
    model = build(recipe, adversarial_loss=form, loss_weights=only)
    model.step(noise_batch())
    gradient = [parameter.grad for parameter in model.separator.parameters()]
    assert all(each is not None and each.abs().sum() > 0 for each in gradient)


def test_the_adversarial_weight_does_not_affect_the_discriminators() -> None:
    light, heavy = (build("remix", loss_weights={"adversarial": weight}) for weight in (0.1, 5.0))
    for model in (light, heavy):
        model.step(noise_batch())
    for name, discriminator in light.discriminators.items():
        for ours, theirs in zip(discriminator.parameters(), heavy.discriminators[name].parameters(), strict=True):
            assert ours.grad is not None
            assert torch.equal(ours.grad, theirs.grad)


def test_weight_zero_disables_terms_and_discriminators() -> None:
    model = build("remix", loss_weights={"adversarial": 0, "identity": 0})
    values = model.step(noise_batch())
    assert "separator/bootstrap" in values
    assert not {"separator/identity", "separator/adversarial", "separator/feature_matching"} & set(values)
    assert not any("discriminator" in name for name in values)
    assert model.discriminators == {}


def test_the_total_is_the_weighted_sum_of_the_terms() -> None:
    model = build("remix", loss_weights={"cycle": 3.0, "feature_matching": 0.5, "si_sdr": 0.1})
    values = model.step(noise_batch())
    expected = sum(weight * float(values[f"separator/{name}"]) for name, weight in model.weights.items())
    assert float(values["separator/total"]) == pytest.approx(expected, rel=1e-5)


def test_the_remix_cycle_is_zero_for_a_perfect_separator() -> None:
    batch = noise_batch()
    low, high = (torch.fft.irfft(torch.fft.rfft(batch.mixture) * mask) for mask in half_bands(2048))

    class LowBand(nn.Module):
        def forward(self, mixture: Tensor) -> Tensor:
            return torch.fft.irfft(torch.fft.rfft(mixture) * half_bands(mixture.shape[-1])[0]).unsqueeze(1)

    known = Batch(mixture=low + high, target=low.unsqueeze(1), paired=True)
    active = ("cycle", "identity", "reconstruction")
    outputs = FORWARD["remix"]({"separator": LowBand()}, known, active)
    terms = {name: float(term) for name, term in outputs.terms.items()}
    assert terms == pytest.approx(dict.fromkeys(active, 0.0), abs=1e-6)
    pair = outputs.pairs["mixture_discriminator"]
    torch.testing.assert_close(pair.fake, high + low.roll(1, 0), rtol=0, atol=1e-5)


def half_bands(num_samples: int) -> tuple[Tensor, Tensor]:
    low = (torch.arange(num_samples // 2 + 1) < num_samples // 4).float()
    return low, 1 - low


def test_losses_do_not_depend_on_the_level_of_the_batch() -> None:
    quiet, loud = (build("remix").step(noise_batch(level=level)) for level in (0.01, 0.1))
    assert {name: float(value) for name, value in loud.items()} == pytest.approx(
        {name: float(value) for name, value in quiet.items()}, rel=1e-3, abs=1e-4
    )


def test_output_energy_is_relative_to_the_mixture() -> None:
    model, batch = build("supervised"), noise_batch()
    with torch.no_grad():
        expected = model.separator(batch.mixture).square().sum() / batch.mixture.square().sum()
    assert float(model.step(batch)["separator/output_energy"]) == pytest.approx(float(expected), rel=1e-4)


def test_removed_energy_is_that_of_the_residual_relative_to_the_mixture() -> None:
    model, batch = build("supervised"), noise_batch()
    with torch.no_grad():
        removed = batch.mixture.unsqueeze(1) - model.separator(batch.mixture)
    expected = removed.square().mean() / batch.mixture.square().mean()
    assert float(model.step(batch)["collapse/removed_energy_ratio"]) == pytest.approx(float(expected), rel=1e-4)


@pytest.mark.parametrize("recipe", RECIPES)
def test_equal_seeds_train_equal_weights_and_other_seeds_different_ones(recipe: str) -> None:
    def trained(seed: int) -> list[Tensor]:
        model = build(recipe, seed=seed)
        for number in range(2):
            model.step(noise_batch(number))
        return weights_of(model)

    first = trained(3)
    torch.randn(7)  # The global generator must not affect training.
    assert all(torch.equal(a, b) for a, b in zip(first, trained(3), strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(first, trained(4), strict=True))


def test_loading_a_state_of_another_recipe_raises() -> None:
    with pytest.raises(ValueError, match="mixer"):
        build("remix").load_state_dict(build("cyclegan").state_dict())


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_batch_with_nan_updates_nothing_and_is_counted(recipe: str) -> None:
    model, broken = build(recipe), noise_batch()
    model.step(noise_batch(1))
    before, average = weights_of(model), copy.deepcopy(model.ema_separator.state_dict())
    broken.mixture[0, 0, 5] = math.nan
    assert model.step(broken)["steps_skipped"] == 1.0
    assert all(torch.equal(old, new) for old, new in zip(before, weights_of(model), strict=True))
    assert all(torch.equal(average[key], value) for key, value in model.ema_separator.state_dict().items())
    assert model.step(noise_batch(2))["steps_skipped"] == 1.0
    assert not all(torch.equal(old, new) for old, new in zip(before, weights_of(model), strict=True))


def test_the_moving_average_follows_the_separator_with_its_decay() -> None:
    model = build("supervised", optimizer={"ema_decay": 0.0})
    model.step(noise_batch())
    for name, value in model.separator.state_dict().items():
        torch.testing.assert_close(model.ema_separator.state_dict()[name], value, rtol=0, atol=1e-7)
    slow = build("supervised", optimizer={"ema_decay": 0.999})
    start = next(slow.separator.parameters()).detach().clone()
    slow.step(noise_batch())
    # The decay of the first step is (1 + 0) / (10 + 0), although 0.999 is configured.
    expected = 0.1 * start + 0.9 * next(slow.separator.parameters())
    torch.testing.assert_close(next(slow.ema_separator.parameters()), expected, rtol=1e-5, atol=1e-7)
    assert not slow.ema_separator.training


def test_the_learning_rate_warms_up_and_decays_to_zero() -> None:
    optimizer = OptimizerConfig(warmup_steps=4, schedule="cosine")
    rates = [learning_rate_factor(optimizer, step, 104) for step in range(105)]
    assert rates[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert rates[54] == pytest.approx(0.5)
    assert rates[104] == pytest.approx(0.0)
    assert learning_rate_factor(optimizer, 1000, None) == 1.0
    assert learning_rate_factor(replace(optimizer, schedule="constant"), 103, 104) == 1.0


def test_adversarial_terms_start_at_their_step() -> None:
    model = build("remix", adversarial_start_step=2)
    named = [set(model.step(noise_batch(number))) for number in range(3)]
    assert ["separator/adversarial" in names for names in named] == [False, False, True]
    assert ["target_discriminator/logit_gap" in names for names in named] == [False, False, True]


def test_supervised_training_on_unpaired_batches_raises() -> None:
    with pytest.raises(ConfigError, match="recipe=remix"):
        build("supervised").step(noise_batch(paired=False))


def test_unpaired_batches_without_an_active_term_raise() -> None:
    weights = dict.fromkeys(RECIPES["remix"].weights, 0.0) | {"reconstruction": 1.0}
    with pytest.raises(ConfigError, match="reconstruction"):
        build("remix", loss_weights=weights).step(noise_batch(paired=False))


def test_targets_that_do_not_sum_to_the_mixture_raise_with_mixture_consistency() -> None:
    batch = noise_batch(targets=4)
    partial = Batch(mixture=batch.mixture, target=batch.target[:, :2], paired=True)
    with pytest.raises(ConfigError, match="mixture_consistency"):
        build("remix", targets=2).step(partial)
    free = {"channels": 8, "depth": 2, "mixture_consistency": False}
    assert math.isfinite(float(build("remix", targets=2, separator=free).step(partial)["separator/total"]))


def test_unknown_weights_and_all_zero_weights_raise() -> None:
    with pytest.raises(ConfigError, match=r"swap.*cycle"):
        MethodConfig(recipe="remix", loss_weights={"swap": 1.0})
    with pytest.raises(ConfigError, match="weight 0"):
        MethodConfig(recipe="supervised", loss_weights={"reconstruction": 0, "spectral": 0})
    with pytest.raises(ConfigError, match="cycle"):
        MethodConfig(recipe="supervised", loss_weights={"cycle": 1.0})
    with pytest.raises(ConfigError, match="loss_weights"):
        settings.build(MethodConfig, {"loss_weights": {"cycle": -1.0}})


def test_the_preset_fills_empty_values_only() -> None:
    notebook = settings.build(MethodConfig, {"preset": "notebook", "optimizer": {"lr_separator": 0.5}})
    assert (notebook.separator.name, notebook.discriminator.name) == ("wavegan", "wavegan")
    assert notebook.adversarial_loss == "relativistic"
    assert (notebook.optimizer.lr_separator, notebook.optimizer.lr_discriminator) == (0.5, 2e-4)
    weights = notebook.weights
    assert (weights["cycle"], weights["identity"], weights["reconstruction"]) == (10.0, 0.5, 0.0)
    default = MethodConfig(separator=SeparatorConfig(name="tfsep"), discriminator=DiscriminatorConfig())
    assert (default.separator.name, default.discriminator.name) == ("tfsep", "spectral")


def test_a_config_equals_its_round_trip_through_plain_values() -> None:
    config = MethodConfig(preset="notebook", recipe="paired", loss_weights={"identity": 2.0})
    assert settings.build(MethodConfig, settings.to_dict(config)) == config


def test_bf16_trains_float32_weights_with_losses_close_to_float32() -> None:
    full, half = (build("remix", precision=name) for name in ("fp32", "bf16"))
    exact, rough = (float(model.step(noise_batch())["separator/total"]) for model in (full, half))
    assert rough == pytest.approx(exact, rel=0.05)
    assert rough != exact
    assert {parameter.dtype for parameter in half.separator.parameters()} == {torch.float32}


def test_the_level_is_the_mean_over_all_ranks() -> None:
    received: list[float] = []

    def mean_over_ranks(value: Tensor) -> Tensor:
        received.append(value.flatten()[0].item())
        return value * 4

    config = settings.build(MethodConfig, TINY | {"recipe": "supervised", "loss_weights": {"spectral": 0}})
    batch, ranks = noise_batch(), DistributedContext(mean=mean_over_ranks)
    values = CycleGAN(config, targets=("a",), channels=1, sample_rate=RATE, ranks=ranks).step(batch)
    alone = CycleGAN(config, targets=("a",), channels=1, sample_rate=RATE).step(batch)
    assert received[0] == pytest.approx(float(batch.mixture.square().mean()))
    # Four times the power is twice the level, which halves L1 losses.
    assert float(values["separator/reconstruction"]) == pytest.approx(
        float(alone["separator/reconstruction"]) / 2, rel=1e-4
    )


def test_forward_passes_with_gradients_use_the_wrapped_modules() -> None:
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
