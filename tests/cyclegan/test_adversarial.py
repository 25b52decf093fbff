"""Adversarial training within a step: gradient penalty, replay buffer, discriminator inputs, gradient share."""

import pytest
import torch
from torch import Tensor

from cyclesep.cyclegan import losses
from cyclesep.cyclegan.discriminator_input import discriminator_inputs
from cyclesep.cyclegan.model import CycleGAN
from cyclesep.cyclegan.recipes import DiscriminatorPair
from cyclesep.cyclegan.replay_buffer import replay_fakes
from tests.support.tiny_models import RATE, build, noise_batch


def discriminator_gradient(model: CycleGAN) -> list[Tensor]:
    modules = model.discriminators.values()
    found = [parameter.grad for module in modules for parameter in module.parameters()]
    return [each.clone() for each in found if each is not None]


@pytest.mark.parametrize("name", ["spectral", "waveform", "wavegan"])
@pytest.mark.parametrize("spectral_norm", [False, True])
def test_the_gradient_penalty_is_applied_every_nth_step(name: str, spectral_norm: bool) -> None:
    discriminator = {"name": name, "channels": 4, "spectral_norm": spectral_norm, "r1_interval": 2}
    penalized = build("remix", discriminator=discriminator | {"r1_gamma": 10.0})
    plain = build("remix", discriminator=discriminator)
    first = penalized.step(noise_batch())
    plain.step(noise_batch())
    assert float(first["mixture_discriminator/gradient_penalty"]) > 0
    pairs = zip(discriminator_gradient(penalized), discriminator_gradient(plain), strict=True)
    assert any(not torch.equal(ours, theirs) for ours, theirs in pairs)
    penalties = ["target_discriminator/gradient_penalty" in penalized.step(noise_batch(number)) for number in (1, 2)]
    assert penalties == [False, True]


def test_a_strong_gradient_penalty_reduces_the_gradient_of_a_discriminator() -> None:
    def steepness(gamma: float) -> float:
        model = build("remix", discriminator={"channels": 4, "r1_gamma": gamma, "r1_interval": 1})
        for number in range(20):
            model.step(noise_batch(number))
        waveform = 10 * noise_batch(99).target[:, 0]
        waveform.requires_grad_()
        logits = [maps[-1] for maps in model.discriminators["target_discriminator"](waveform)]
        return losses.gradient_penalty(waveform, logits).item()

    assert steepness(100.0) < 0.5 * steepness(0.0)


def test_unpaired_fakes_are_replayed_and_paired_ones_are_not() -> None:
    model = build("remix", replay_buffer_size=3)
    buffer = model._replay_buffers["target_discriminator"]
    model.step(noise_batch(0, paired=False))
    stored = buffer.state_dict()["rows"]
    model.step(noise_batch(1, paired=True))
    assert torch.equal(buffer.state_dict()["rows"], stored)
    fake = torch.full((3, 1, 2048), 7.0)
    pair = DiscriminatorPair(real=fake, fake=fake)
    pairs = [{"target_discriminator": pair, "mixture_discriminator": pair}]
    exchanged = 0
    for step in range(2, 10):
        (replayed,) = replay_fakes(model._replay_buffers, pairs, step)
        for crop, before in zip(replayed["target_discriminator"].fake, stored[:, 0], strict=True):
            assert torch.equal(crop, fake[0]) or torch.equal(crop, before)
            exchanged += torch.equal(crop, before)
    assert exchanged == 3


def test_discriminator_inputs_have_neither_level_differences_nor_content_above_the_band() -> None:
    model = build("remix", discriminator_input={"band_hz": [40, 3000]})
    real = 10 * noise_batch(paired=False).target[:, 0]
    # 768 periods in a crop, all in one bin.
    hiss = torch.sin(2 * torch.pi * 6000 * torch.arange(2048) / RATE)
    pairs = {
        "plain": DiscriminatorPair(real=real, fake=real),
        "mastered": DiscriminatorPair(real=5 * real + hiss, fake=real),
    }
    found = discriminator_inputs(model.config, pairs, torch.Generator(), paired=False, sample_rate=RATE)
    # Not exactly equal, because the level floor affects the quieter recording more.
    torch.testing.assert_close(found["mastered"].real, found["plain"].real, rtol=0.02, atol=0.01)


def test_discriminators_receive_the_same_window_of_real_and_fake() -> None:
    model = build(
        "remix",
        discriminator={"crop_seconds": 512 / RATE},
        discriminator_input={"normalize_level": False, "band_limit": "never"},
    )
    crop = torch.arange(2048.0).expand(2, 1, 2048)
    pair = DiscriminatorPair(real=crop, fake=crop + 0.5, also_fake=-crop)
    starts = set()
    for seed in range(8):
        rng = torch.Generator().manual_seed(seed)
        found = discriminator_inputs(model.config, {"one": pair}, rng, paired=True, sample_rate=RATE)["one"]
        assert found.real.shape == (2, 1, 512)
        assert torch.equal(found.fake - found.real, torch.full((2, 1, 512), 0.5))
        assert found.also_fake is not None
        assert torch.equal(found.also_fake, -found.real)
        starts.add(int(found.real[0, 0, 0]))
    assert len(starts) > 4
    assert max(starts) <= 2048 - 512
    assert float(model.step(noise_batch())["separator/adversarial"]) > 0


def test_several_discriminator_updates_per_generator_update() -> None:
    once, thrice = (build("remix", discriminator={"steps_per_generator_step": updates}) for updates in (1, 3))
    for model, updates in ((once, 1), (thrice, 3)):
        model.step(noise_batch())
        generators, discriminators = (each["state"].values() for each in model.state_dict()["optimizers"])
        assert {int(state["step"]) for state in generators} == {1}
        assert {int(state["step"]) for state in discriminators} == {updates}
    for ours, theirs in zip(once.separator.parameters(), thrice.separator.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_the_adversarial_terms_have_the_configured_share_of_the_gradient() -> None:
    model = build(
        "remix", loss_balancer={"adversarial_gradient_share": 0.1, "decay": 0.0}, loss_weights={"adversarial": 50.0}
    )
    first = model.step(noise_batch())
    assert float(first["balancer/adversarial"]) == 50.0
    averages = model._balancer.state_dict()
    norms = {name: float(total / count) for name, (total, count) in averages.items()}
    second = model.step(noise_batch())
    weighted = {name: float(second[f"balancer/{name}"]) * norm for name, norm in norms.items()}
    assert weighted["adversarial"] / sum(weighted.values()) == pytest.approx(0.1, rel=1e-4)
    assert float(second["balancer/bootstrap"]) == pytest.approx(10.0, rel=1e-4)
    total = sum(float(second[f"balancer/{name}"]) * float(second[f"separator/{name}"]) for name in norms)
    assert float(second["separator/total"]) == pytest.approx(total, rel=1e-4)


@pytest.mark.parametrize("recipe", ["remix", "cyclegan", "paired", "supervised"])
def test_every_recipe_works_with_the_loss_balancer_on_paired_and_unpaired_batches(recipe: str) -> None:
    model = build(recipe, loss_balancer={"enabled": True})
    for number in range(4):
        values = model.step(noise_batch(number, paired=recipe == "supervised" or number % 2 == 0))
        assert float(values["separator/total"]) > 0
    assert all(each.isfinite() for pair in model._balancer.state_dict().values() for each in pair)
