"""What all discriminators share: their config, and several sub-networks that look at one waveform."""

import math
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from annotated_types import Ge, Gt
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from cyclesep.models.discriminators.spectral import SpectrogramDiscriminator
from cyclesep.models.discriminators.waveform import PooledWaveformDiscriminator
from cyclesep.models.discriminators.wavegan import WaveGANDiscriminator

# Windows of the spectrogram sub-networks and the rate at which they are 1024, 512 and 256 samples.
WINDOW_SECONDS = (0.064, 0.032, 0.016)
WAVEFORM_SCALES = (1, 2, 4)


@dataclass(frozen=True, kw_only=True)
class DiscriminatorConfig:
    """Which discriminator, and how big."""

    name: Literal["spectral", "waveform", "wavegan"] | None = None
    """`spectral` (complex spectrograms at three windows), `waveform` (three scales), `wavegan`; empty: the preset's."""

    channels: Annotated[int, Gt(0)] | None = None
    """Channels of the first layer; empty takes the network's own (spectral 16, waveform 16, wavegan 64)."""

    spectral_norm: bool = False
    """Bound each layer's gain by its largest singular value (Miyato et al., 2018)."""

    r1_gamma: Annotated[float, Ge(0)] = 0.0
    """Weight of the R1 gradient penalty on real waveforms (Mescheder et al., 2018; 1 to 10 is usual); 0: none."""

    r1_interval: Annotated[int, Gt(0)] = 16
    """Steps between penalties, each weighted by this number (lazily: Karras et al., StyleGAN2, 2020)."""

    steps_per_generator_step: Annotated[int, Gt(0)] = 1
    """Updates of the discriminators for each one of the separator, all on the same real and fake crops."""

    crop_seconds: Annotated[float, Gt(0)] | None = None
    """Judge so much of each crop, a window drawn anew at each step: cheaper where crops are long; empty: all of it."""

    phase_shuffle: Annotated[int, Gt(-1)] = 2
    """Largest shift, in frames, between the layers of `wavegan`."""


class Discriminator(nn.Module):
    """Sub-networks that judge the same waveform, each in its own resolution."""

    def __init__(self, networks: list[nn.Module]) -> None:
        super().__init__()
        self.networks = nn.ModuleList(networks)

    def forward(self, waveform: Tensor, rng: torch.Generator | None = None) -> list[list[Tensor]]:
        """Feature maps of each sub-network, its logits last; `rng` (on the CPU) drives what is random in training."""
        return [network(waveform, rng) for network in self.networks]


def build_discriminator(config: DiscriminatorConfig, *, channels: int, sample_rate: int) -> Discriminator:
    """Build the discriminator that `config` names for waveforms of `channels` at `sample_rate` Hz."""
    networks: list[nn.Module]
    match config.name or "spectral":
        case "spectral":
            windows = [2 ** round(math.log2(seconds * sample_rate)) for seconds in WINDOW_SECONDS]
            networks = [SpectrogramDiscriminator(channels, width=config.channels or 16, n_fft=n) for n in windows]
        case "waveform":
            width = config.channels or 16
            networks = [PooledWaveformDiscriminator(channels, width=width, pooling=scale) for scale in WAVEFORM_SCALES]
        case "wavegan":
            networks = [WaveGANDiscriminator(channels, width=config.channels or 64, max_shift=config.phase_shuffle)]
    discriminator = Discriminator(networks)
    if config.spectral_norm:
        _bound_gains(discriminator)
    return discriminator


def _bound_gains(discriminator: nn.Module) -> None:
    for module in list(discriminator.modules()):
        if isinstance(module, nn.Conv1d | nn.Conv2d):
            parametrizations.spectral_norm(module)
