"""Adam, the learning-rate schedule and the moving average of weights."""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from cyclesep.cyclegan.config import OptimizerConfig


def enable_tf32(*, tf32: bool = True) -> None:
    """Enable TensorFloat-32 matrix products and cuDNN autotuning in this process.

    For training only: results differ in the fourth digit, and between runs.
    """
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = tf32
    torch.backends.cudnn.benchmark = True


def adam(modules: Mapping[str, nn.Module], lr: float, betas: tuple[float, float] | None) -> torch.optim.Optimizer:
    """Return fused Adam over all parameters of `modules`."""
    parameters = [parameter for module in modules.values() for parameter in module.parameters()]
    assert betas is not None
    # Adam rejects an empty list. Without discriminators, their optimizer has a dummy parameter and never steps.
    return torch.optim.Adam(parameters or [torch.zeros(0)], lr=lr, betas=betas, fused=True)


def learning_rate_factor(config: OptimizerConfig, step: int, num_steps: int | None) -> float:
    """Return the fraction of the peak learning rate at a step (from 0): warm-up, then constant or cosine decay.

    `num_steps` is the length of the run; None keeps the rate constant after the warm-up.
    """
    warmup = config.warmup_steps or 0
    rising = min(1.0, (step + 1) / (warmup + 1))
    if config.schedule != "cosine" or num_steps is None:
        return rising
    progress = min(1.0, max(0, step - warmup) / max(1, num_steps - warmup))
    return rising * (1 + math.cos(math.pi * progress)) / 2


def set_learning_rates(
    optimizers: Sequence[torch.optim.Optimizer], config: OptimizerConfig, step: int, num_steps: int | None
) -> None:
    """Set the learning rates of the generators' optimizer and, if there is a second one, the discriminators'."""
    factor = learning_rate_factor(config, step, num_steps)
    for optimizer, peak in zip(optimizers, (config.lr_separator, config.lr_discriminator), strict=False):
        assert peak is not None
        for group in optimizer.param_groups:
            group["lr"] = peak * factor


def step_if_finite(optimizer: torch.optim.Optimizer, clip_norm: float) -> tuple[bool, Tensor]:
    """Clip the gradient and step if it is finite; return whether it stepped, and the norm before clipping.

    Data-parallel gradients are equal on all ranks, so all ranks decide alike.
    """
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    norm = nn.utils.clip_grad_norm_(parameters, clip_norm)
    finite = bool(torch.isfinite(norm))
    if finite:
        optimizer.step()
    return finite, norm.detach()


@torch.no_grad()
def update_ema(average: nn.Module, module: nn.Module, decay: float, step: int) -> None:
    """Update the exponential moving average of the weights of `module`; buffers are copied.

    The decay is smaller in early steps, so that the average forgets the initial weights.
    """
    decay = min(decay, (1 + step) / (10 + step))
    get_ema_multi_avg_fn(decay)(list(average.parameters()), list(module.parameters()), None)
    for averaged, buffer in zip(average.buffers(), module.buffers(), strict=True):
        averaged.copy_(buffer)
