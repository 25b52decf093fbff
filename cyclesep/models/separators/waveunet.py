"""Waveform U-Net: strided convolutions, gated linear units, skip connections and a dilated bottleneck.

It follows Demucs (Défossez et al., "Music source separation in the waveform domain", 2019) without its LSTM.
"""

from itertools import pairwise

from torch import Tensor, nn
from torch.nn import functional

KERNEL = 8
STRIDE = 4
NORM_GROUPS = 4


class WaveUNet(nn.Module):
    """Map `(batch, channels, time)` of any length to `(batch, outputs, time)`.

    Each level doubles the width and divides the sample rate by four. `width` must be a multiple of 4.
    """

    def __init__(self, channels: int, outputs: int, *, width: int, depth: int) -> None:
        super().__init__()
        widths = [width * 2**level for level in range(depth)]
        self.total_stride = STRIDE**depth
        self.encoders = nn.ModuleList(_encoder(a, b) for a, b in pairwise([channels, *widths]))
        self.bottleneck = nn.Sequential(*(DilatedResidual(widths[-1], 3**power) for power in range(3)))
        self.decoders = nn.ModuleList(_decoder(a, b) for a, b in pairwise([*reversed(widths), outputs]))

    def forward(self, waveform: Tensor) -> Tensor:
        num_samples = waveform.shape[-1]
        hidden: Tensor = functional.pad(waveform, (0, -num_samples % self.total_stride))
        skips = []
        for encoder in self.encoders:
            hidden = encoder(hidden)
            skips.append(hidden)
        hidden = self.bottleneck(hidden)
        for decoder in self.decoders:
            hidden = decoder(hidden + skips.pop())
        return hidden[..., :num_samples]


class DilatedResidual(nn.Module):
    """`x + f(x)`, where f is a gated dilated convolution with a kernel of 3."""

    def __init__(self, width: int, dilation: int) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            nn.Conv1d(width, width, 3, dilation=dilation, padding=dilation),
            nn.GroupNorm(NORM_GROUPS, width),
            nn.GELU(),
            nn.Conv1d(width, 2 * width, 1),
            nn.GLU(dim=1),
        )

    def forward(self, hidden: Tensor) -> Tensor:
        changed: Tensor = self.branch(hidden)
        return hidden + changed


def _encoder(inputs: int, width: int) -> nn.Sequential:
    padding = (KERNEL - STRIDE) // 2
    return nn.Sequential(
        nn.Conv1d(inputs, width, KERNEL, STRIDE, padding),
        nn.GroupNorm(NORM_GROUPS, width),
        nn.GELU(),
        nn.Conv1d(width, 2 * width, 1),
        nn.GLU(dim=1),
    )


def _decoder(width: int, outputs: int) -> nn.Sequential:
    padding = (KERNEL - STRIDE) // 2
    return nn.Sequential(
        nn.Conv1d(width, 2 * width, 3, padding=1),
        nn.GLU(dim=1),
        nn.ConvTranspose1d(width, outputs, KERNEL, STRIDE, padding),
    )
