"""The original notebook's generator with its defects mended.

Two strided convolutions, residual blocks, two up-samplings. Unlike the original notebook's it takes any length, normalises by
group (batch normalisation made an estimate depend on the other windows of its batch) and has an activation between the
two up-sampling convolutions (without one the decoder is a single linear map). `exact` takes the last two back.

Inside, a waveform is an image of height 1 whose channels lie next to each other in memory: processors have their
fastest convolutions for that layout, and interleaving the phases of an up-sampling then moves nothing. Weights keep the
shapes of 1-D convolutions.
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

    With `exact` it computes what the original notebook's network did: batch normalisation, a decoder without an activation.
    """

    def __init__(self, channels: int, outputs: int, *, width: int, depth: int, exact: bool = False) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            FlatConv(channels, width, KERNEL, STRIDE, padding=11),
            nn.LeakyReLU(SLOPE),
            FlatConv(width, 2 * width, KERNEL, STRIDE, padding=11),
            nn.LeakyReLU(SLOPE),
            *(ResidualBlock(2 * width, batch_norm=exact) for _ in range(depth)),
            FoldedUpsampling(2 * width, width),
            nn.Identity() if exact else nn.LeakyReLU(SLOPE),
            FoldedUpsampling(width, outputs),
        )
        initialise(self)

    def forward(self, waveform: Tensor) -> Tensor:
        num_samples = waveform.shape[-1]
        padded = functional.pad(waveform, (0, -num_samples % STRIDE**2))
        estimate: Tensor = self.layers(padded.unsqueeze(2))
        return estimate.squeeze(2)[..., :num_samples]


class FlatConv(nn.Conv1d):
    """A 1-D convolution of `(batch, channels, 1, time)`, channels last in memory."""

    def forward(self, hidden: Tensor) -> Tensor:
        return _convolved(hidden, self.weight, self.bias, self.stride[0], int(self.padding[0]))


class ResidualBlock(nn.Module):
    """`x + f(x)`; f is two convolutions of 21 taps, each followed by a norm and a leaky ReLU."""

    def __init__(self, width: int, *, batch_norm: bool) -> None:
        super().__init__()
        self.branch = nn.Sequential(*_normed_conv(width, batch_norm), *_normed_conv(width, batch_norm))

    def forward(self, hidden: Tensor) -> Tensor:
        changed: Tensor = self.branch(hidden)
        return hidden + changed


class FoldedUpsampling(nn.Conv1d):
    """Nearest up-sampling by 4, zero padding by 12 and a convolution of 25 taps, folded into one of 7 taps.

    Each of the four output phases sees every input sample through a sum of neighbouring taps, so the 25 taps fold into
    7 per phase: the same numbers without the four times longer intermediate signal. Waveforms are
    `(batch, channels, 1, time)`.
    """

    folding: Tensor

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, KERNEL)
        self.register_buffer("folding", _folding_matrix(), persistent=False)

    def forward(self, hidden: Tensor) -> Tensor:
        assert self.bias is not None
        folded = torch.einsum("oik,pjk->poij", self.weight, self.folding).flatten(0, 1)
        phases = _convolved(hidden, folded, self.bias.repeat(STRIDE), 1, 3)
        # (batch, 1, time, phase and channel) in memory: the phases of a frame already follow one another.
        by_frame: Tensor = phases.permute(0, 2, 3, 1).unflatten(3, (STRIDE, self.out_channels))
        return by_frame.flatten(2, 3).permute(0, 3, 1, 2)


def initialise(network: nn.Module) -> None:
    """Draw convolution weights from N(0, 0.02) and set biases to 0, as the original notebook did."""
    for module in network.modules():
        if isinstance(module, nn.Conv1d):
            nn.init.normal_(module.weight, std=0.02)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def _convolved(hidden: Tensor, weight: Tensor, bias: Tensor | None, stride: int, padding: int) -> Tensor:
    hidden = hidden.contiguous(memory_format=torch.channels_last)
    flat = weight.unsqueeze(2).contiguous(memory_format=torch.channels_last)
    return functional.conv2d(hidden, flat, bias, (1, stride), (0, padding))


def _normed_conv(width: int, batch_norm: bool) -> tuple[nn.Module, ...]:
    norm = nn.BatchNorm2d(width) if batch_norm else nn.GroupNorm(NORM_GROUPS, width)
    return FlatConv(width, width, 21, padding=10), norm, nn.LeakyReLU(SLOPE)


def _folding_matrix() -> Tensor:
    """A 0/1 tensor `(phase, folded tap, tap)`: which of the 25 taps fall on which input sample."""
    phase, tap = torch.meshgrid(torch.arange(STRIDE), torch.arange(KERNEL), indexing="ij")
    folded_tap = torch.div(phase + tap - KERNEL // 2, STRIDE, rounding_mode="floor") + 3
    return functional.one_hot(folded_tap, 7).movedim(-1, 1).float()
