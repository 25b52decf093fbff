"""RMS norm in float32 under autocast."""

import torch
from torch import Tensor, nn


class RMSNorm(nn.RMSNorm):
    """`nn.RMSNorm` over the last axis in float32 or float64; the output has the precision of the input."""

    def forward(self, hidden: Tensor) -> Tensor:
        precise = hidden.to(torch.promote_types(hidden.dtype, torch.float32))
        return super().forward(precise).to(hidden.dtype)
