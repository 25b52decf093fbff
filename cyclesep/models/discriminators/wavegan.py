"""The WaveGAN discriminator of the original notebook (Donahue et al., 2018), with its phase shuffle corrected."""

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from cyclesep.models.separators.wavegan import KERNEL, SLOPE, STRIDE, init_weights

NUM_LAYERS = 5
# A logit covers the 16 last frames of a window of 16,384 samples, as the linear layer of the original notebook does.
LOGIT_FRAMES = 16


class WaveGANDiscriminator(nn.Module):
    """Five strided convolutions with doubling widths; one logit per window of 16,384 samples, with a hop of 1,024."""

    def __init__(self, channels: int, *, width: int, max_shift: int) -> None:
        super().__init__()
        widths = [channels, *(width * 2**layer for layer in range(NUM_LAYERS))]
        convs = [nn.Conv1d(a, b, KERNEL, STRIDE, padding=11) for a, b in pairwise(widths)]
        self.convs = nn.ModuleList([*convs[:-1], MatrixConv(widths[-2], widths[-1], KERNEL, STRIDE, padding=11)])
        self.logits = nn.Conv1d(widths[-1], 1, LOGIT_FRAMES)
        self.max_shift = max_shift
        self.min_samples = LOGIT_FRAMES * STRIDE**NUM_LAYERS
        init_weights(self)

    def forward(self, waveform: Tensor, rng: torch.Generator | None) -> list[Tensor]:
        hidden = functional.pad(waveform, (0, max(0, self.min_samples - waveform.shape[-1])))
        maps = []
        for index, conv in enumerate(self.convs, start=1):
            hidden = functional.leaky_relu(conv(hidden), SLOPE)
            maps.append(hidden)
            if rng is not None and self.max_shift and index < NUM_LAYERS:
                hidden = phase_shuffle(hidden, self.max_shift, rng)
        return [*maps, self.logits(hidden)]


class MatrixConv(nn.Conv1d):
    """1-D convolution as one matrix product on CPUs, several times faster for few frames and many taps."""

    def forward(self, hidden: Tensor) -> Tensor:
        assert self.bias is not None
        if hidden.device.type != "cpu":
            return super().forward(hidden)
        padding = int(self.padding[0])
        windows = functional.pad(hidden, (padding, padding)).unfold(2, self.kernel_size[0], self.stride[0])
        by_frame = functional.linear(windows.transpose(1, 2).flatten(2), self.weight.flatten(1), self.bias)
        return by_frame.transpose(1, 2)


def phase_shuffle(hidden: Tensor, max_shift: int, rng: torch.Generator) -> Tensor:
    """Shift a batch by a random number of frames, uniform in `-max_shift ... max_shift`, with reflection padding.

    It prevents a discriminator from recognizing estimates by the phase of their up-sampling artefacts.
    """
    shift = int(torch.randint(-max_shift, max_shift + 1, (), generator=rng))
    num_frames = hidden.shape[-1]
    padded = functional.pad(hidden, (max(shift, 0), max(-shift, 0)), mode="reflect")
    return padded[..., :num_frames] if shift > 0 else padded[..., -num_frames:]
