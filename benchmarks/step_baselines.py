"""The steps that `step` times: building them, counting FLOPs, and checking that gradients are equal."""

from collections.abc import Callable, Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.notebook_step import NotebookStep
from cyclesep.config import settings
from cyclesep.cyclegan.config import MethodConfig
from cyclesep.cyclegan.model import CycleGAN
from cyclesep.data.crops.dataset import Batch
from cyclesep.errors import TrainingError

WINDOW = 16384
SAMPLE_RATE = 16000
# Largest relative difference of gradients in float64 that a different order of summation explains.
TOLERANCE = 1e-10

# Settings that reproduce the notebook's step: no phase shuffle, no level matching, no clipping.
EXACT: Mapping[str, Any] = {
    "preset": "notebook",
    "notebook_exact": True,
    "separator.original_layers": True,
    "discriminator.phase_shuffle": 0,
    "discriminator_input.normalize_level": False,
    "optimizer.clip_norm": 1e30,
}
CORRECTED: Mapping[str, Any] = {"preset": "notebook"}


def build_model(
    changes: Mapping[str, Any],
    *,
    width: int,
    device: torch.device | str = "cpu",
    wrap: Callable[[nn.Module], nn.Module] = lambda module: module,
) -> CycleGAN:
    """Build networks and optimizers with changed settings, for mono at 16 kHz."""
    config = settings.replace(
        MethodConfig(preset="notebook"), {**changes, "separator.channels": width, "discriminator.channels": width}
    )
    return CycleGAN(config, targets=["target"], channels=1, sample_rate=SAMPLE_RATE, device=device, wrap=wrap)


def random_batch(batch_size: int, *, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu") -> Batch:
    """Return a batch of noise: mixtures `(batch, 1, 16384)` with an overall RMS of 1, and their targets."""
    rng = torch.Generator().manual_seed(0)
    target, rest = torch.randn(2, batch_size, 1, WINDOW, generator=rng, dtype=torch.float64)
    level = (target + rest).square().mean().sqrt()
    mixture, target = ((target + rest) / level).to(device, dtype), (target / level).to(device, dtype)
    return Batch(mixture=mixture, target=target.unsqueeze(1), paired=True)


def compiled(module: nn.Module) -> nn.Module:
    """Wrap the module with torch.compile, which compiles it for the shape of its first call."""
    return cast(nn.Module, torch.compile(module))


def gigaflops_per_crop(step: Callable[[Batch], object], batch: Batch) -> float:
    """Return the GFLOP per crop of the convolutions and matrix products of one step."""
    with FlopCounterMode(display=False) as counter:
        step(batch)
    return float(counter.get_total_flops()) / 1e9 / len(batch.mixture)


def check_gradients(width: int, batch_size: int = 2) -> float:
    """Run one step of the notebook and one of ours in float64 with equal weights and crops, and compare gradients.

    Returns the largest difference relative to the largest gradient of the network. Raises TrainingError if it is larger
    than rounding explains.
    """
    notebook, model, batch = same_start(width, batch_size)
    wanted = [_gradients_at_update(optimizer) for optimizer in notebook.optimizers()]
    notebook.step(batch.mixture, batch.target[:, 0])
    model.step(batch)
    ours = (*model.generators.values(), *model.discriminators.values())
    worst = max(_difference(module, gradients) for module, gradients in zip(ours, wanted, strict=True))
    if not worst <= TOLERANCE:
        raise TrainingError(
            f"a gradient differs from the notebook's by {worst:.1e} of the largest one, so the costs of "
            "the two steps cannot be compared"
        )
    return worst


def same_start(width: int, batch_size: int) -> tuple[NotebookStep, CycleGAN, Batch]:
    """Return the notebook's step and ours in float64 with equal weights, and a batch for both."""
    model = build_model(EXACT, width=width)
    notebook = NotebookStep(width=width, device=torch.device("cpu"))
    model.ema_separator.double()
    ours = (*model.generators.values(), *model.discriminators.values())
    for module, notebook_network in zip(ours, notebook.networks(), strict=True):
        copy_weights(module.double(), notebook_network.double())
    return notebook, model, random_batch(batch_size, dtype=torch.float64)


def copy_weights(source: nn.Module, notebook_network: nn.Module) -> None:
    """Copy weights into the corresponding network of the notebook, which has the same parameters in the same order."""
    with torch.no_grad():
        for theirs, own in zip(notebook_network.parameters(), source.parameters(), strict=True):
            theirs.copy_(own.view_as(theirs))


def _gradients_at_update(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    """Return a list that is filled with the gradients of the optimizer's next step."""
    kept: list[Tensor] = []

    def keep(*_: object) -> None:
        kept.extend(each.grad.clone() for group in optimizer.param_groups for each in group["params"])

    optimizer.register_step_pre_hook(keep)
    return kept


def _difference(module: nn.Module, wanted: list[Tensor]) -> float:
    largest = max(float(gradient.abs().max()) for gradient in wanted)
    found = [parameter.grad for parameter in module.parameters() if parameter.grad is not None]
    pairs = zip(found, wanted, strict=True)
    return max(float((gradient - theirs.view_as(gradient)).abs().max()) for gradient, theirs in pairs) / largest
