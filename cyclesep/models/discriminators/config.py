"""Configuration of discriminators."""

from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Ge, Gt


@dataclass(frozen=True, kw_only=True)
class DiscriminatorConfig:
    """Architecture, size and regularization of the discriminators."""

    name: Literal["spectral", "waveform", "wavegan"] | None = None
    """`spectral` (complex spectrograms, three window lengths), `waveform` (three scales) or `wavegan`; empty: the
    preset's choice."""

    channels: Annotated[int, Gt(0)] | None = None
    """Channels of the first layer; empty: network default (spectral 16, waveform 16, wavegan 64)."""

    spectral_norm: bool = False
    """Apply spectral normalization to all convolutions (Miyato et al., 2018)."""

    r1_gamma: Annotated[float, Ge(0)] = 0.0
    """Weight of the R1 gradient penalty on real waveforms (Mescheder et al., 2018), usually 1 to 10; 0 disables it."""

    r1_interval: Annotated[int, Gt(0)] = 16
    """Compute the R1 penalty every N steps, scaled by N (lazy regularization: Karras et al., StyleGAN2, 2020)."""

    steps_per_generator_step: Annotated[int, Gt(0)] = 1
    """Discriminator updates per generator update, all on the same real and fake crops."""

    crop_seconds: Annotated[float, Gt(0)] | None = None
    """Length of the random window of each crop that discriminators receive (saves time on long crops); empty: all."""

    phase_shuffle: Annotated[int, Gt(-1)] = 2
    """Largest phase shuffle between the layers of `wavegan`, in frames."""
