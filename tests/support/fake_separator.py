"""Separators without weights, noise, and separation configs for tests of inference."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from cyclesep.audio.audio_io import Samples
from cyclesep.inference.config import SeparateConfig


@dataclass(frozen=True, kw_only=True)
class FakeSeparator:
    module: nn.Module
    targets: tuple[str, ...] = ("vocals",)
    sample_rate: int = 8000
    channels: int = 1


class Scale(nn.Module):
    """Estimate t is the mixture times the t-th factor; (batch, channels, time) to (batch, targets, channels, time)."""

    def __init__(self, *factors: float) -> None:
        super().__init__()
        self.factors = factors

    def forward(self, mixture: Tensor) -> Tensor:
        return torch.stack([factor * mixture for factor in self.factors], dim=1)


def identity(channels: int = 1, sample_rate: int = 8000) -> FakeSeparator:
    return FakeSeparator(module=Scale(1.0), channels=channels, sample_rate=sample_rate)


def noise(channels: int, num_samples: int, *, seed: int = 0) -> Samples:
    return np.random.default_rng(seed).uniform(-0.9, 0.9, (channels, num_samples)).astype(np.float32)


def config_for(folder: Path, *inputs: Path | str, **changes: object) -> SeparateConfig:
    values = {"checkpoint": "none", "inputs": tuple(map(str, inputs)), "output": str(folder / "out")} | changes
    return SeparateConfig(**values)  # type: ignore[arg-type]
