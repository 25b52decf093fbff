"""U-Net over the bands of tfsep with a dual-path attention bottleneck.

Each level halves the number of bands and doubles the width. In the bottleneck, attention over time and attention over
bands alternate (dual path: Luo et al., "Dual-path RNN", 2020; over bands of music: Lu et al., "Music source separation
with band-split RoPE transformer", 2023), with rotary positions (Su et al., 2021) for any length.
"""

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from cyclesep.models.separators.norm import RMSNorm

HEAD_WIDTH = 32
ROTARY_BASE = 10_000.0


class BandUNet(nn.Module):
    """Map `(batch, width, frames, bands)` to the same shape, for any number of frames and bands."""

    def __init__(self, width: int, *, depth: int, levels: int) -> None:
        super().__init__()
        widths = [width * 2**level for level in range(levels + 1)]
        self.encoders = nn.ModuleList(LocalBlock(each) for each in widths[:-1])
        self.halvings = nn.ModuleList(nn.Conv2d(a, b, (1, 4), (1, 2), padding=(0, 1)) for a, b in pairwise(widths))
        self.bottleneck = nn.Sequential(*(AttentionBlock(widths[-1]) for _ in range(depth)))
        self.doublings = nn.ModuleList(
            nn.ConvTranspose2d(b, a, (1, 4), (1, 2), padding=(0, 1)) for a, b in reversed(list(pairwise(widths)))
        )
        self.decoders = nn.ModuleList(LocalBlock(each) for each in reversed(widths[:-1]))

    def forward(self, hidden: Tensor) -> Tensor:
        skips = []
        for encoder, halving in zip(self.encoders, self.halvings, strict=True):
            skips.append(encoder(hidden))
            hidden = halving(functional.pad(skips[-1], (0, skips[-1].shape[-1] % 2)))
        hidden = self.bottleneck(hidden)
        for doubling, decoder in zip(self.doublings, self.decoders, strict=True):
            skip = skips.pop()
            hidden = decoder(doubling(hidden)[..., : skip.shape[-1]] + skip)
        return hidden


class LocalBlock(nn.Module):
    """`x + f(x)`, where f is two convolutions over neighbouring frames and bands."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = RMSNorm(width)
        self.branch = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1), nn.GELU(), nn.Conv2d(width, width, 3, padding=1)
        )

    def forward(self, hidden: Tensor) -> Tensor:
        normed = self.norm(hidden.movedim(1, -1)).movedim(-1, 1)
        changed: Tensor = self.branch(normed)
        return hidden + changed


class AttentionBlock(nn.Module):
    """Depthwise convolution, then attention over the frames of each band, then over the bands of each frame."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.nearby = nn.Conv2d(width, width, 3, padding=1, groups=width)
        self.over_time = AttentionPath(width)
        self.over_bands = AttentionPath(width)

    def forward(self, hidden: Tensor) -> Tensor:
        by_band = (hidden + self.nearby(hidden)).permute(0, 3, 2, 1)
        by_frame = self.over_time(by_band).transpose(1, 2)
        mixed: Tensor = self.over_bands(by_frame)
        return mixed.permute(0, 3, 1, 2)


class AttentionPath(nn.Module):
    """Attention along the second last axis of `(batch, rows, length, width)`, then a feed-forward network."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.heads = max(1, width // HEAD_WIDTH)
        self.attention_norm = RMSNorm(width)
        self.to_query_key_value = nn.Linear(width, 3 * width, bias=False)
        self.from_heads = nn.Linear(width, width, bias=False)
        self.feedforward = nn.Sequential(
            RMSNorm(width), nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width)
        )

    def forward(self, hidden: Tensor) -> Tensor:
        hidden = hidden + self._attention(self.attention_norm(hidden))
        changed: Tensor = self.feedforward(hidden)
        return hidden + changed

    def _attention(self, hidden: Tensor) -> Tensor:
        rows, length, width = hidden.flatten(0, 1).shape
        heads = self.to_query_key_value(hidden).reshape(rows, length, 3, self.heads, width // self.heads)
        query, key, value = heads.permute(2, 0, 3, 1, 4)
        attended = functional.scaled_dot_product_attention(apply_rotary(query), apply_rotary(key), value)
        output: Tensor = self.from_heads(attended.transpose(1, 2).reshape(hidden.shape))
        return output


def apply_rotary(heads: Tensor) -> Tensor:
    """Rotate the two halves of `(..., length, width)` by an angle proportional to the position."""
    length, half = heads.shape[-2], heads.shape[-1] // 2
    exponents = torch.arange(half, device=heads.device, dtype=torch.float32) / half
    positions = torch.arange(length, device=heads.device, dtype=torch.float32)
    angles = positions[:, None] * ROTARY_BASE**-exponents
    cosine, sine = angles.cos().to(heads.dtype), angles.sin().to(heads.dtype)
    first, second = heads.split(half, dim=-1)
    return torch.cat([first * cosine - second * sine, first * sine + second * cosine], dim=-1)
