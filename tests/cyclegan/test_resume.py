"""Resuming from a state is bit-exact for every recipe and option."""

from pathlib import Path
from typing import Any

import pytest
import torch

from cyclesep.cyclegan.config import RECIPES
from tests.support.tiny_models import build, flattened, noise_batch

SEPARATOR = {"channels": 8, "depth": 1}

OPTIONS: dict[str, dict[str, Any]] = {
    "swap cycle": {"loss_weights": {"swap_cycle": 0.5}, "swap_start_step": 3},
    "late adversarial start": {"adversarial_start_step": 6},
    "replay": {"replay_buffer_size": 4},
    "loss balancer": {"loss_balancer": {"enabled": True}},
    "adversarial share": {"loss_balancer": {"adversarial_gradient_share": 0.1}},
    "gradient penalty": {"discriminator": {"channels": 4, "r1_gamma": 5.0, "r1_interval": 3}},
    "spectral norm": {"discriminator": {"channels": 4, "spectral_norm": True}},
    "hinge": {"adversarial_loss": "hinge"},
    "feature matching": {"loss_weights": {"feature_matching": 1.0}},
    "accumulation": {"gradient_accumulation_steps": 2},
    "notebook_exact": {"preset": "notebook", "notebook_exact": True},
    "original layers": {"preset": "notebook", "separator": SEPARATOR | {"original_layers": True}},
    "bf16": {"precision": "bf16"},
    "everything": {
        "adversarial_loss": "hinge",
        "gradient_accumulation_steps": 2,
        "replay_buffer_size": 8,
        "loss_balancer": {"enabled": True, "adversarial_gradient_share": 0.2},
        "discriminator": {"channels": 4, "r1_gamma": 5.0, "r1_interval": 2, "spectral_norm": True},
        "loss_weights": {"swap_cycle": 0.5, "feature_matching": 1.0, "si_sdr": 0.1},
        "swap_start_step": 2,
        "collapse": {"min_output_energy": 10.0, "output_patience": 7},
    },
}


def assert_resume_is_exact(folder: Path, recipe: str, *, pairs: tuple[bool, ...] = (True,), **values: Any) -> None:
    """Assert that ten steps equal five, a saved and loaded state, and five more; `pairs` are the batches' flags."""

    def run_steps(first: int, last: int, model: Any) -> Any:
        for number in range(first, last):
            model.step(noise_batch(number, size=4, paired=pairs[number % len(pairs)]))
        return model

    settings = {"separator": SEPARATOR} | values
    uninterrupted = run_steps(0, 10, build(recipe, **settings))
    torch.save(run_steps(0, 5, build(recipe, **settings)).state_dict(), folder / "state.pt")
    resumed = run_steps(90, 91, build(recipe, **settings))
    resumed.load_state_dict(torch.load(folder / "state.pt", weights_only=True))
    assert flattened(run_steps(5, 10, resumed).state_dict()) == flattened(uninterrupted.state_dict())


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("preset", ["default", "notebook"])
def test_resume_of_every_recipe_is_bit_exact(recipe: str, preset: str, tmp_path: Path) -> None:
    assert_resume_is_exact(tmp_path, recipe, preset=preset)


@pytest.mark.parametrize("recipe", ["remix", "cyclegan", "paired"])
def test_resume_of_semi_supervised_training_is_bit_exact(recipe: str, tmp_path: Path) -> None:
    assert_resume_is_exact(tmp_path, recipe, pairs=(False, True, False))


@pytest.mark.parametrize("option", OPTIONS)
def test_resume_with_every_option_is_bit_exact(option: str, tmp_path: Path) -> None:
    pairs = (True,) if OPTIONS[option].get("notebook_exact") else (False, True, False)
    assert_resume_is_exact(tmp_path, "remix", pairs=pairs, **OPTIONS[option])


def test_a_state_contains_data_only_with_all_options(tmp_path: Path) -> None:
    model = build("remix", **OPTIONS["everything"])
    model.step(noise_batch(size=4, paired=False))
    torch.save(model.state_dict(), tmp_path / "state.pt")
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    # Eight fakes for four positions are two for each; this was the first step.
    assert state["replay"]["target_discriminator"]["rows"].shape == (4, 2, 1, 2048)
    assert state["replay"]["target_discriminator"]["filled"] == 1
    assert state["collapse"]["energy"]["num_low"] == 1
    assert set(state["balancer"]) >= {"bootstrap", "identity", "adversarial"}
