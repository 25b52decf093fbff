"""Gradient accumulation and data parallelism: the same weights as a single rank with the whole batch."""

import dataclasses
import math
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from cyclesep.config import settings
from cyclesep.cyclegan import distributed
from cyclesep.cyclegan.config import MethodConfig
from cyclesep.cyclegan.model import CycleGAN
from cyclesep.data.crops.dataset import Batch
from cyclesep.errors import ConfigError
from tests.support.tiny_models import RATE, TINY, build, noise_batch, weights_of

STEPS, SIZE = 4, 8
# Plain losses, and everything that depends on more than one crop.
CASES: dict[str, dict[str, Any]] = {
    "remix, paired": {"recipe": "remix"},
    "remix, relativistic, unpaired": {"recipe": "remix", "adversarial_loss": "relativistic", "unpaired": True},
    "cyclegan, unpaired": {"recipe": "cyclegan", "unpaired": True},
    "paired": {"recipe": "paired"},
    "supervised": {"recipe": "supervised"},
    "accumulated": {"recipe": "remix", "gradient_accumulation_steps": 2, "unpaired": True},
    "replay, penalty, balancer, swap cycle": {
        "recipe": "remix",
        "unpaired": True,
        "replay_buffer_size": 16,
        "discriminator": {"channels": 4, "r1_gamma": 5.0, "r1_interval": 2},
        "loss_balancer": {"adversarial_gradient_share": 0.2},
        "loss_weights": {"swap_cycle": 0.5},
        "swap_start_step": 1,
    },
}


def part_of(batch: Batch, share: slice) -> Batch:
    return dataclasses.replace(batch, mixture=batch.mixture[share], target=batch.target[share])


def trained(case: str, rank: int, world: int, **parallel: Any) -> CycleGAN:
    """Return a model after some steps on this rank's share of each batch."""
    values = dict(CASES[case])
    paired = not values.pop("unpaired", False)
    config = settings.build(MethodConfig, TINY | values)
    model = CycleGAN(config, targets=("a",), channels=1, sample_rate=RATE, **parallel)
    for number in range(STEPS):
        model.step(part_of(noise_batch(number, size=SIZE, paired=paired), slice(rank, None, world)))
    model.gather_state()
    return model


def state_of(model: CycleGAN) -> dict[str, Any]:
    state = model.state_dict()
    return {name: state[name] for name in ("networks", "replay", "balancer", "collapse")}


def rank_process(rank: int, world: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=world)
    wrap = nn.parallel.DistributedDataParallel
    states = {
        case: state_of(trained(case, rank, world, wrap=wrap, ranks=distributed.from_process_group())) for case in CASES
    }
    torch.save(states, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def states_of_two(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """Return the states of all cases on each of two ranks."""
    folder = tmp_path_factory.mktemp("ranks")
    torch.multiprocessing.spawn(rank_process, args=(2, str(folder)), nprocs=2)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]


@pytest.mark.parametrize("case", CASES)
def test_two_ranks_train_the_same_weights_as_one(case: str, states_of_two: list[dict[str, Any]]) -> None:
    first, second = (states[case] for states in states_of_two)
    alone = state_of(trained(case, 0, 1))
    for name, weights in alone["networks"].items():
        for label, weight in weights.items():
            assert torch.equal(first["networks"][name][label], second["networks"][name][label])
            # Relativistic losses do not depend on the common offset of all logits: Adam amplifies its rounding errors.
            if not label.endswith("logits.bias"):
                torch.testing.assert_close(first["networks"][name][label], weight, rtol=1e-3, atol=2e-5)
    for kind in ("energy", "removed"):
        assert first["collapse"][kind]["total"] == pytest.approx(alone["collapse"][kind]["total"], rel=1e-3)
    for name, buffer in alone["replay"].items():
        torch.testing.assert_close(first["replay"][name]["rows"], buffer["rows"], rtol=0, atol=1e-3)
    for name, average in alone["balancer"].items():
        torch.testing.assert_close(first["balancer"][name], average, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize(
    ("recipe", "paired"),
    [
        ("remix", True), ("remix", False), ("cyclegan", True), ("cyclegan", False), ("paired", True), ("paired", False),
        ("supervised", True),
    ],
)  # fmt: skip
def test_gradient_accumulation_trains_the_same_weights(recipe: str, paired: bool) -> None:
    def trained_weights(steps: int) -> list[Tensor]:
        values = {"swap_cycle": 0.5} if recipe == "remix" else {"feature_matching": 0.0} if recipe == "paired" else {}
        model = build(
            recipe,
            gradient_accumulation_steps=steps,
            loss_weights=values,
            swap_start_step=0,
            loss_balancer={"adversarial_gradient_share": 0.2},
            replay_buffer_size=16,
            optimizer={"clip_norm": 0.05},
        )
        convert_to_double(model)
        for number in range(3):
            batch = noise_batch(number, size=SIZE, paired=paired)
            model.step(dataclasses.replace(batch, mixture=batch.mixture.double(), target=batch.target.double()))
        return weights_of(model)

    whole = trained_weights(1)
    for steps in (2, 4):
        for ours, theirs in zip(trained_weights(steps), whole, strict=True):
            assert ours.dtype == torch.float64
            torch.testing.assert_close(ours, theirs, rtol=1e-7, atol=1e-9)


def convert_to_double(model: CycleGAN) -> None:
    for module in (*model.generators.values(), *model.discriminators.values(), model.ema_separator):
        module.double()


def test_nan_in_one_micro_batch_skips_the_whole_step() -> None:
    model = build("remix", gradient_accumulation_steps=4)
    model.step(noise_batch(0, size=SIZE))
    before, broken = weights_of(model), noise_batch(1, size=SIZE)
    broken.target[5, 0, 0, 100] = math.nan
    assert model.step(broken)["steps_skipped"] == 1.0
    assert all(torch.equal(old, new) for old, new in zip(before, weights_of(model), strict=True))


def test_invalid_gradient_accumulation_raises() -> None:
    with pytest.raises(ConfigError, match="3 crops cannot be divided"):
        build("remix", gradient_accumulation_steps=2).step(noise_batch(size=3))
    with pytest.raises(ConfigError, match="adversarial_loss=lsgan"):
        build("remix", gradient_accumulation_steps=2, adversarial_loss="relativistic")
    with pytest.raises(ConfigError, match=r"separator\.original_layers"):
        build("supervised", gradient_accumulation_steps=2, preset="notebook", separator={"original_layers": True})
