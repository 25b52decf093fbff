"""A discriminator of several sub-networks, and its construction from a config."""

import math

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from cyclesep.models.discriminators.config import DiscriminatorConfig
from cyclesep.models.discriminators.spectral import SpectrogramDiscriminator
from cyclesep.models.discriminators.waveform import PooledWaveformDiscriminator
from cyclesep.models.discriminators.wavegan import WaveGANDiscriminator

# Window lengths of the spectrogram sub-networks: 1024, 512 and 256 samples at 16 kHz.
WINDOW_SECONDS = (0.064, 0.032, 0.016)
WAVEFORM_SCALES = (1, 2, 4)


class Discriminator(nn.Module):
    """Sub-networks that receive the same waveform, each at its own resolution."""

    def __init__(self, networks: list[nn.Module]) -> None:
        super().__init__()
        self.networks = nn.ModuleList(networks)

    def forward(self, waveform: Tensor, rng: torch.Generator | None = None) -> list[list[Tensor]]:
        """Return the feature maps of each sub-network, logits last; `rng` (on the CPU) drives the phase shuffle."""
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
        _apply_spectral_norm(discriminator)
    return discriminator


def _apply_spectral_norm(discriminator: nn.Module) -> None:
    for module in list(discriminator.modules()):
        if isinstance(module, nn.Conv1d | nn.Conv2d):
            parametrizations.spectral_norm(module)
