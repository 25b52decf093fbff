"""Small CycleGAN models, batches of noise, and model states as plain values."""

from typing import Any

import torch
from torch import Tensor

from cyclesep.config import settings
from cyclesep.cyclegan.config import MethodConfig
from cyclesep.cyclegan.model import CycleGAN
from cyclesep.data.crops.dataset import Batch

torch.set_num_threads(1)

RATE = 16000
TINY = {"separator": {"channels": 8, "depth": 2}, "discriminator": {"channels": 4}}


def build(recipe: str = "remix", *, targets: int = 1, channels: int = 1, seed: int = 0, **values: Any) -> CycleGAN:
    config = settings.build(MethodConfig, TINY | {"recipe": recipe} | values)
    names = tuple(f"stem {index}" for index in range(targets))
    return CycleGAN(config, targets=names, channels=channels, sample_rate=RATE, seed=seed)


def noise_batch(
    number: int = 0, *, size: int = 3, paired: bool = True, targets: int = 1, channels: int = 1, level: float = 0.1
) -> Batch:
    rng = torch.Generator().manual_seed(number)
    stems = level * torch.randn(size, targets, channels, 2048, generator=rng)
    rest = level * torch.randn(size, channels, 2048, generator=rng) if targets == 1 else 0.0
    return Batch(mixture=stems.sum(1) + rest, target=stems, paired=paired)


def weights_of(model: CycleGAN) -> list[Tensor]:
    modules = (model.generators | model.discriminators).values()
    return [parameter.detach().clone() for module in modules for parameter in module.parameters()]


def flattened(state: Any) -> Any:
    """Return a state with tensors as lists, for bit-exact comparison with ==."""
    if isinstance(state, Tensor):
        return state.tolist()
    if isinstance(state, dict):
        return {key: flattened(value) for key, value in state.items()}
    if isinstance(state, list | tuple):
        return [flattened(value) for value in state]
    return state
