"""The ancestor's generator with its defects mended.

Two strided convolutions, residual blocks, two up-samplings. Unlike the ancestor's it takes any length, normalises by
group (batch normalisation made an estimate depend on the other windows of its batch) and has an activation between the
two up-sampling convolutions (without one the decoder is a single linear map).
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

KERNEL = 25
STRIDE = 4
NORM_GROUPS = 8
SLOPE = 0.2


class SeedGenerator(nn.Module):
    """Map `(batch, channels, time)` of any length to `(batch, outputs, time)`; `width` must be a multiple of 4."""

    def __init__(self, channels: int, outputs: int, *, width: int, depth: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv1d(channels, width, KERNEL, STRIDE, padding=11),
            nn.LeakyReLU(SLOPE),
            nn.Conv1d(width, 2 * width, KERNEL, STRIDE, padding=11),
            nn.LeakyReLU(SLOPE),
            *(ResidualBlock(2 * width) for _ in range(depth)),
            FoldedUpsampling(2 * width, width),
            nn.LeakyReLU(SLOPE),
            FoldedUpsampling(width, outputs),
        )
        initialise(self)

    def forward(self, waveform: Tensor) -> Tensor:
        num_samples = waveform.shape[-1]
        padded = functional.pad(waveform, (0, -num_samples % STRIDE**2))
        estimate: Tensor = self.layers(padded)
        return estimate[..., :num_samples]


class ResidualBlock(nn.Module):
    """`x + f(x)`; f is two convolutions of 21 taps, each followed by a norm and a leaky ReLU."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.branch = nn.Sequential(*_normed_conv(width), *_normed_conv(width))

    def forward(self, hidden: Tensor) -> Tensor:
        changed: Tensor = self.branch(hidden)
        return hidden + changed


class FoldedUpsampling(nn.Conv1d):
    """Nearest up-sampling by 4, zero padding by 12 and a convolution of 25 taps, folded into one of 7 taps.

    Each of the four output phases sees every input sample through a sum of neighbouring taps, so the 25 taps fold into
    7 per phase: the same numbers without the four times longer intermediate signal.
    """

    folding: Tensor

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, KERNEL)
        self.register_buffer("folding", _folding_matrix(), persistent=False)

    def forward(self, hidden: Tensor) -> Tensor:
        assert self.bias is not None
        folded = torch.einsum("oik,pjk->opij", self.weight, self.folding).flatten(0, 1)
        bias = self.bias.repeat_interleave(STRIDE)
        phases = functional.conv1d(hidden, folded, bias, padding=3)
        interleaved: Tensor = phases.unflatten(1, (-1, STRIDE)).transpose(2, 3).flatten(2)
        return interleaved


def initialise(network: nn.Module) -> None:
    """Draw convolution weights from N(0, 0.02) and set biases to 0, as the ancestor did."""
    for module in network.modules():
        if isinstance(module, nn.Conv1d):
            nn.init.normal_(module.weight, std=0.02)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def _normed_conv(width: int) -> tuple[nn.Module, ...]:
    return nn.Conv1d(width, width, 21, padding=10), nn.GroupNorm(NORM_GROUPS, width), nn.LeakyReLU(SLOPE)


def _folding_matrix() -> Tensor:
    """A 0/1 tensor `(phase, folded tap, tap)`: which of the 25 taps fall on which input sample."""
    phase, tap = torch.meshgrid(torch.arange(STRIDE), torch.arange(KERNEL), indexing="ij")
    folded_tap = torch.div(phase + tap - KERNEL // 2, STRIDE, rounding_mode="floor") + 3
    return functional.one_hot(folded_tap, 7).movedim(-1, 1).float()
