"""Discriminator on the waveform at one scale, after MelGAN (Kumar et al., 2019)."""

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

SLOPE = 0.2
NUM_STRIDED = 3
MIN_SAMPLES = 256


class PooledWaveformDiscriminator(nn.Module):
    """Grouped strided convolutions over the waveform after average pooling by `pooling`."""

    def __init__(self, channels: int, *, width: int, pooling: int) -> None:
        super().__init__()
        self.pooling = pooling
        widths = [width * 4**index for index in range(NUM_STRIDED)]
        strided = [nn.Conv1d(a, b, 41, 4, padding=20, groups=a // 4 or 1) for a, b in pairwise(widths)]
        self.convs = nn.ModuleList(
            [
                nn.Conv1d(channels, width, 15, padding=7),
                *strided,
                nn.Conv1d(widths[-1], widths[-1], 5, padding=2, groups=width),
            ]
        )
        self.logits = nn.Conv1d(widths[-1], 1, 3, padding=1)

    def forward(self, waveform: Tensor, rng: torch.Generator | None) -> list[Tensor]:  # noqa: ARG002
        hidden = functional.pad(waveform, (0, max(0, MIN_SAMPLES - waveform.shape[-1])))
        hidden = functional.avg_pool1d(hidden, self.pooling) if self.pooling > 1 else hidden
        maps = []
        for conv in self.convs:
            hidden = functional.leaky_relu(conv(hidden), SLOPE)
            maps.append(hidden)
        return [*maps, self.logits(hidden)]
