"""A separator network with input normalization and mixture consistency, and its construction from a config."""

from torch import Tensor, nn

from cyclesep.errors import ConfigError
from cyclesep.models.separators.config import SeparatorConfig
from cyclesep.models.separators.tfsep import TFSep
from cyclesep.models.separators.wavegan import WaveGANSeparator
from cyclesep.models.separators.waveunet import WaveUNet

# Minimum level by which a window is divided (-100 dBFS): quieter windows do not reach unit level.
SILENCE_RMS = 1e-5


class Separator(nn.Module):
    """A network that processes its input at RMS 1; the estimates are scaled back to the level of the input.

    Without `unit_level` the network receives the input unscaled. With `consistent`, the estimates are projected onto
    estimates that sum to the mixture: each gets an equal share of the difference (Wisdom et al., "Differentiable
    consistency constraints for improved deep speech enhancement", 2019).
    """

    def __init__(
        self, network: nn.Module, *, targets: int, channels: int, consistent: bool, unit_level: bool = True
    ) -> None:
        super().__init__()
        self.network = network
        self.targets = targets
        self.channels = channels
        self.consistent = consistent
        self.unit_level = unit_level

    def forward(self, mixture: Tensor) -> Tensor:
        """Map a mixture `(batch, channels, time)` to estimates `(batch, targets, channels, time)`, float32."""
        estimates = self._at_unit_level(mixture) if self.unit_level else self._estimates(mixture)
        if not self.consistent:
            return estimates
        missing = mixture.unsqueeze(1) - estimates.sum(dim=1, keepdim=True)
        return estimates + missing / self.targets

    def _at_unit_level(self, mixture: Tensor) -> Tensor:
        level = mixture.square().mean(dim=(1, 2), keepdim=True).sqrt().clamp(min=SILENCE_RMS)
        return self._estimates(mixture / level) * level.unsqueeze(1)

    def _estimates(self, mixture: Tensor) -> Tensor:
        """Return the network's output by target and channel, in the precision of the mixture (autocast lowers it)."""
        stacked: Tensor = self.network(mixture)
        estimates: Tensor = stacked.to(mixture.dtype).unflatten(1, (self.targets, self.channels))
        return estimates


def build_separator(config: SeparatorConfig, *, targets: int, channels: int, sample_rate: int) -> Separator:
    """Build the separator of a config; `sample_rate` (Hz) determines the window length of spectrogram networks.

    Initial weights are drawn from torch's global generator: seed or fork it around this call. Raises ConfigError for a
    setting that the network does not use.
    """
    _validate_unused(config)
    outputs = targets * channels
    network: nn.Module
    match config.name or "waveunet":
        case "waveunet":
            network = WaveUNet(channels, outputs, width=config.channels or 16, depth=config.depth or 4)
        case "tfsep":
            network = TFSep(
                channels,
                targets,
                width=config.channels or 64,
                depth=config.depth or 5,
                levels=2 if config.unet_levels is None else config.unet_levels,
                sample_rate=sample_rate,
            )
        case "wavegan":
            network = WaveGANSeparator(
                channels,
                outputs,
                width=config.channels or 64,
                depth=config.depth or 8,
                original_layers=config.original_layers,
            )
    consistent = config.mixture_consistency and targets > 1
    return Separator(
        network, targets=targets, channels=channels, consistent=consistent, unit_level=not config.original_layers
    )


def _validate_unused(config: SeparatorConfig) -> None:
    for setting, owner in (("unet_levels", "tfsep"), ("original_layers", "wavegan")):
        if getattr(config, setting) and config.name != owner:
            raise ConfigError(
                f"separator.{setting}: only used by {owner}, but separator.name is {config.name or 'waveunet'}; "
                f"remove it or set separator.name={owner}"
            )
