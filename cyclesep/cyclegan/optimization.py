"""Adam, the learning-rate schedule and the moving average of weights."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from cyclesep.cyclegan.config import OptimizerConfig


def enable_tf32(*, tf32: bool = True) -> None:
    """Let CUDA multiply float32 in TensorFloat-32 and choose convolutions by timing them, in this process.

    For training only: results then differ in the fourth digit, and from run to run.
    """
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = tf32
    torch.backends.cudnn.benchmark = True


def schedule(optimizer: OptimizerConfig, step: int, num_steps: int | None) -> float:
    """The share of the peak learning rate at a step (counted from 0): warm-up, then constant or half a cosine."""
    warmup = optimizer.warmup_steps or 0
    rising = min(1.0, (step + 1) / (warmup + 1))
    if optimizer.schedule != "cosine" or num_steps is None:
        return rising
    progress = min(1.0, max(0, step - warmup) / max(1, num_steps - warmup))
    return rising * (1 + math.cos(math.pi * progress)) / 2


def adam(modules: Mapping[str, nn.Module], lr: float, betas: tuple[float, float] | None) -> torch.optim.Optimizer:
    """Fused Adam over all parameters of `modules`."""
    parameters = [parameter for module in modules.values() for parameter in module.parameters()]
    assert betas is not None
    # Adam refuses an empty list; a recipe without discriminators gets an optimizer of nothing that is never stepped.
    return torch.optim.Adam(parameters or [torch.zeros(0)], lr=lr, betas=betas, fused=True)


def step_if_finite(optimizer: torch.optim.Optimizer, clip_norm: float) -> tuple[bool, Tensor]:
    """Clip the gradient and step, unless it is not finite; gives back whether it stepped, and the norm before clipping.

    Data-parallel gradients are the same on all ranks, so all of them decide alike.
    """
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    norm = nn.utils.clip_grad_norm_(parameters, clip_norm)
    finite = bool(torch.isfinite(norm))
    if finite:
        optimizer.step()
    return finite, norm.detach()


@torch.no_grad()
def update_ema(average: nn.Module, module: nn.Module, decay: float, step: int) -> None:
    """Move the weights of `average` towards those of `module`; buffers are taken over as they are.

    Early averages are shorter, so that they forget the first weights.
    """
    decay = min(decay, (1 + step) / (10 + step))
    averages: list[Tensor] = list(average.parameters())
    weights: list[Tensor] = list(module.parameters())
    torch._foreach_lerp_(averages, weights, 1 - decay)
    for kept, buffer in zip(average.buffers(), module.buffers(), strict=True):
        kept.copy_(buffer)
