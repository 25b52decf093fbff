"""Configuration of separators."""

from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Ge, Gt, MultipleOf


@dataclass(frozen=True, kw_only=True)
class SeparatorConfig:
    """Architecture and size of a separator."""

    name: Literal["wavegan", "waveunet", "tfsep"] | None = None
    """`waveunet` (waveform U-Net), `tfsep` (complex spectrogram mask) or `wavegan` (the original notebook's network);
    empty: the preset's choice. The default preset uses tfsep on GPUs from 32 kHz, otherwise waveunet."""

    channels: Annotated[int, Gt(0), MultipleOf(8)] | None = None
    """Channels of the first layer, a multiple of 8; empty: network default (waveunet 16, tfsep 64, wavegan 64)."""

    depth: Annotated[int, Gt(0)] | None = None
    """Levels of `waveunet` (default 4), blocks of `tfsep` (5), residual blocks of `wavegan` (8)."""

    unet_levels: Annotated[int, Ge(0)] | None = None
    """Levels of the U-Net inside `tfsep`: each halves the number of bands and doubles the channels, with attention at
    the bottom; 0 disables U-Net and attention; empty: 2 (6.4 million parameters at the default sizes)."""

    original_layers: bool = False
    """Build `wavegan` as in the original notebook: batch norm, no activation between up-samplings, no input scaling."""

    mixture_consistency: bool = True
    """Make the estimates of several targets sum to the mixture; disable it if the targets do not sum to the mixture."""
