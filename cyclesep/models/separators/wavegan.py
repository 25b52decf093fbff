"""The generator of the original notebook with corrections.

Two strided convolutions, residual blocks, two up-samplings. Unlike the original network it accepts any length, uses
group norm (with batch norm, an estimate depends on the other windows of the batch) and has an activation between the
two up-sampling convolutions (without it the decoder is a single linear map). `original_layers` reverts the last two.

Internally a waveform is an image of height 1 in channels-last layout, for which convolutions are fastest; interleaving
the phases of an up-sampling then needs no copy. Weights keep the shapes of 1-D convolutions.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

KERNEL = 25
STRIDE = 4
NORM_GROUPS = 8
SLOPE = 0.2


class WaveGANSeparator(nn.Module):
    """Map `(batch, channels, time)` of any length to `(batch, outputs, time)`; `width` must be a multiple of 4.

    With `original_layers` it is the original network: batch norm, and no activation in the decoder.
    """

    def __init__(self, channels: int, outputs: int, *, width: int, depth: int, original_layers: bool = False) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            FlatConv(channels, width, KERNEL, STRIDE, padding=11),
            nn.LeakyReLU(SLOPE),
            FlatConv(width, 2 * width, KERNEL, STRIDE, padding=11),
            nn.LeakyReLU(SLOPE),
            *(ResidualBlock(2 * width, batch_norm=original_layers) for _ in range(depth)),
            FoldedUpsampling(2 * width, width),
            nn.Identity() if original_layers else nn.LeakyReLU(SLOPE),
            FoldedUpsampling(width, outputs),
        )
        init_weights(self)

    def forward(self, waveform: Tensor) -> Tensor:
        num_samples = waveform.shape[-1]
        padded = functional.pad(waveform, (0, -num_samples % STRIDE**2))
        estimate: Tensor = self.layers(padded.unsqueeze(2))
        return estimate.squeeze(2)[..., :num_samples]


class FlatConv(nn.Conv1d):
    """1-D convolution of `(batch, channels, 1, time)` in channels-last layout."""

    def forward(self, hidden: Tensor) -> Tensor:
        return _conv(hidden, self.weight, self.bias, self.stride[0], int(self.padding[0]))


class ResidualBlock(nn.Module):
    """`x + f(x)`, where f is two convolutions of 21 taps, each followed by a norm and a leaky ReLU."""

    def __init__(self, width: int, *, batch_norm: bool) -> None:
        super().__init__()
        self.branch = nn.Sequential(*_normed_conv(width, batch_norm), *_normed_conv(width, batch_norm))

    def forward(self, hidden: Tensor) -> Tensor:
        changed: Tensor = self.branch(hidden)
        return hidden + changed


class FoldedUpsampling(nn.Conv1d):
    """Nearest-neighbour up-sampling by 4 and a convolution of 25 taps, computed as one convolution of 7 taps.

    Each of the four output phases weights every input sample with a sum of neighbouring taps, so the 25 taps fold into
    7 per phase. The result is the same without the intermediate signal of four times the length. Waveforms are
    `(batch, channels, 1, time)`.
    """

    folding: Tensor

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, KERNEL)
        self.register_buffer("folding", _folding_matrix(), persistent=False)

    def forward(self, hidden: Tensor) -> Tensor:
        assert self.bias is not None
        folded = torch.einsum("oik,pjk->poij", self.weight, self.folding).flatten(0, 1)
        phases = _conv(hidden, folded, self.bias.repeat(STRIDE), 1, 3)
        # In memory: (batch, 1, time, phase and channel); the phases of a frame are already adjacent.
        by_frame: Tensor = phases.permute(0, 2, 3, 1).unflatten(3, (STRIDE, self.out_channels))
        return by_frame.flatten(2, 3).permute(0, 3, 1, 2)


def init_weights(network: nn.Module) -> None:
    """Draw convolution weights from N(0, 0.02) and set biases to 0, as the original notebook did."""
    for module in network.modules():
        if isinstance(module, nn.Conv1d):
            nn.init.normal_(module.weight, std=0.02)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def _conv(hidden: Tensor, weight: Tensor, bias: Tensor | None, stride: int, padding: int) -> Tensor:
    hidden = hidden.contiguous(memory_format=torch.channels_last)
    flat = weight.unsqueeze(2).contiguous(memory_format=torch.channels_last)
    return functional.conv2d(hidden, flat, bias, (1, stride), (0, padding))


def _normed_conv(width: int, batch_norm: bool) -> tuple[nn.Module, ...]:
    norm = nn.BatchNorm2d(width) if batch_norm else nn.GroupNorm(NORM_GROUPS, width)
    return FlatConv(width, width, 21, padding=10), norm, nn.LeakyReLU(SLOPE)


def _folding_matrix() -> Tensor:
    """Return a 0/1 tensor `(phase, folded tap, tap)`: which of the 25 taps belong to which input sample."""
    phase, tap = torch.meshgrid(torch.arange(STRIDE), torch.arange(KERNEL), indexing="ij")
    folded_tap = torch.div(phase + tap - KERNEL // 2, STRIDE, rounding_mode="floor") + 3
    return functional.one_hot(folded_tap, 7).movedim(-1, 1).float()
