"""All tensors of a training step are on the device of the networks; the meta device stands in for a GPU."""

from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from cyclesep.config import settings
from cyclesep.cyclegan import model, training_state
from cyclesep.cyclegan.config import MethodConfig
from cyclesep.cyclegan.model import CycleGAN
from cyclesep.data.crops.dataset import Batch

TERMS = {"swap_cycle": 0.1, "cycle": 1.0, "bootstrap": 1.0, "identity": 0.5, "feature_matching": 1.0}


class _FakeValues(TorchDispatchMode):
    """Answers queries for values of meta tensors: every value is 1 or true, and no two tensors are equal."""

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

    # The meta device supports neither fused optimizers nor autocast.
    monkeypatch.setattr(training_state, "adam", adam)
    monkeypatch.setattr(CycleGAN, "_autocast", lambda _: nullcontext())
    # It compares values.
    monkeypatch.setattr(model, "validate_batch", lambda *_, **__: None)


def step(
    *, channels: int = 1, sample_rate: int = 16_000, paired: bool = False, device: str = "meta", **changes: object
) -> dict[str, Any]:
    """Run two steps on batches on a device and return the values of the last one."""
    small = {"separator.channels": 16, "separator.depth": 2, "discriminator.channels": 4}
    cyclegan = CycleGAN(
        settings.replace(MethodConfig(), small | {name.replace("__", "."): each for name, each in changes.items()}),
        targets=["vocals", "rest"],
        channels=channels,
        sample_rate=sample_rate,
        device="meta",
        num_steps=100,
    )
    with _FakeValues():
        for _ in range(2):
            batch = Batch(
                mixture=torch.empty(4, channels, 16_384, device=device),
                target=torch.empty(4, 2, channels, 16_384, device=device),
                paired=paired,
            )
            values = cyclegan.step(batch)
    return values


@pytest.mark.parametrize("separator", ["wavegan", "waveunet", "tfsep"])
@pytest.mark.parametrize("recipe", ["remix", "cyclegan", "paired", "supervised"])
def test_a_step_runs_on_the_device_of_the_networks(recipe: str, separator: str) -> None:
    for paired in (True, False) if recipe in ("remix", "cyclegan") else (True,):
        values = step(channels=2, sample_rate=44_100, recipe=recipe, separator__name=separator, paired=paired)
        assert all(value.device.type == "meta" for value in values.values() if isinstance(value, torch.Tensor))


@pytest.mark.parametrize("paired", [False, True])
@pytest.mark.parametrize(
    "changes",
    [
        {"loss_weights": TERMS, "swap_start_step": 0},
        {"loss_weights": {"reconstruction": 1.0, "spectral": 1.0, "si_sdr": 1.0}},
        {"loss_balancer__enabled": True, "gradient_accumulation_steps": 2},
        {"discriminator__name": "spectral", "replay_buffer_size": 8},
        {"discriminator__name": "wavegan", "discriminator__r1_gamma": 1.0, "discriminator__r1_interval": 1},
        {"discriminator__spectral_norm": True, "adversarial_loss": "relativistic"},
        {"preset": "notebook"},
        {"preset": "notebook", "notebook_exact": True},
    ],
    ids=str,
)
def test_optional_components_run_on_the_device_of_the_networks(changes: dict[str, object], paired: bool) -> None:
    values = step(paired=paired, **changes)  # type: ignore[arg-type]
    assert values["steps_skipped"] == 0.0


def test_a_tensor_on_another_device_raises() -> None:
    with pytest.raises(RuntimeError, match="device"):
        step(device="cpu")
