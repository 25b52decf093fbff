"""Where tensors of a step are: on the networks' device, all of them. The meta device stands for a GPU."""

from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from cyclesep.config import settings
from cyclesep.cyclegan import model
from cyclesep.cyclegan.config import MethodConfig
from cyclesep.cyclegan.model import CycleGAN
from cyclesep.data.crops.dataset import Batch

TERMS = {"swap_cycle": 0.1, "cycle": 1.0, "bootstrap": 1.0, "identity": 0.5, "feature_matching": 1.0}


class _Answers(TorchDispatchMode):
    """What a step asks of tensors that hold no numbers: each is 1 or true, and no two tensors are equal."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.ops.aten._local_scalar_dense.default:
            return True if args[0].dtype == torch.bool else 1.0
        if func is torch.ops.aten.equal.default:
            return False
        if func is torch.ops.aten._to_copy.default and args[0].is_meta and kwargs.get("device") == torch.device("cpu"):
            return torch.ones(args[0].shape, dtype=kwargs.get("dtype", args[0].dtype))
        return func(*args, **kwargs)


@pytest.fixture(autouse=True)
def on_meta(monkeypatch: pytest.MonkeyPatch) -> None:
    def adam(modules: dict[str, torch.nn.Module], lr: float, betas: Any) -> torch.optim.Optimizer:
        parameters = [parameter for module in modules.values() for parameter in module.parameters()]
        return torch.optim.Adam(parameters or [torch.zeros(0)], lr=lr, betas=betas, foreach=True)

    # There are neither fused optimizers nor autocast.
    monkeypatch.setattr(model, "adam", adam)
    monkeypatch.setattr(CycleGAN, "_autocast", lambda _: nullcontext())
    # It compares numbers.
    monkeypatch.setattr(CycleGAN, "_refuse_unfit", lambda *_: None)


def step(
    *, channels: int = 1, sample_rate: int = 16_000, paired: bool = False, device: str = "meta", **changes: object
) -> dict[str, Any]:
    """Make two steps on batches of a device; gives back what the last one tells."""
    small = {"separator.channels": 16, "separator.depth": 2, "discriminator.channels": 4}
    made = CycleGAN(
        settings.replace(MethodConfig(), small | {name.replace("__", "."): each for name, each in changes.items()}),
        targets=["vocals", "rest"],
        channels=channels,
        sample_rate=sample_rate,
        device="meta",
        num_steps=100,
    )
    with _Answers():
        for _ in range(2):
            batch = Batch(
                mixture=torch.empty(4, channels, 16_384, device=device),
                target=torch.empty(4, 2, channels, 16_384, device=device),
                paired=paired,
            )
            told = made.step(batch)
    return told


@pytest.mark.parametrize("separator", ["seed", "waveunet", "tfsep"])
@pytest.mark.parametrize("recipe", ["remix", "cyclegan", "paired", "supervised"])
def test_all_of_a_step_is_on_the_device_of_the_networks(recipe: str, separator: str) -> None:
    for paired in (True, False) if recipe in ("remix", "cyclegan") else (True,):
        told = step(channels=2, sample_rate=44_100, recipe=recipe, separator__name=separator, paired=paired)
        assert all(value.device.type == "meta" for value in told.values() if isinstance(value, torch.Tensor))


@pytest.mark.parametrize("paired", [False, True])
@pytest.mark.parametrize(
    "changes",
    [
        {"loss_weights": TERMS, "swap_start_step": 0},
        {"loss_weights": {"reconstruction": 1.0, "spectral": 1.0, "si_sdr": 1.0}},
        {"loss_balancer__enabled": True, "gradient_accumulation_steps": 2},
        {"discriminator__name": "spectral", "replay_buffer_size": 8},
        {"discriminator__name": "seed", "discriminator__r1_gamma": 1.0, "discriminator__r1_every": 1},
        {"discriminator__spectral_norm": True, "adversarial_loss": "relativistic"},
        {"preset": "notebook"},
        {"preset": "notebook", "notebook_exact": True},
    ],
    ids=str,
)
def test_all_of_an_optional_part_is_there_too(changes: dict[str, object], paired: bool) -> None:
    told = step(paired=paired, **changes)  # type: ignore[arg-type]
    assert told["steps_skipped"] == 0.0


def test_a_tensor_that_was_left_on_the_processor_is_found() -> None:
    with pytest.raises(RuntimeError, match="device"):
        step(device="cpu")
