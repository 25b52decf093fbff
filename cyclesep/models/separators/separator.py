"""What all separators share: their config, the level of the input, and estimates that sum to the mixture."""

from torch import Tensor, nn

from cyclesep.errors import ConfigError
from cyclesep.models.separators.config import SeparatorConfig
from cyclesep.models.separators.tfsep import TFSep
from cyclesep.models.separators.wavegan import WaveGANSeparator
from cyclesep.models.separators.waveunet import WaveUNet

# Below this RMS (-100 dBFS) a window counts as silent and is no longer brought to unit level.
SILENCE_RMS = 1e-5


class Separator(nn.Module):
    """A network at unit level: the input is brought to RMS 1 and the estimates back, so gain in is gain out.

    Without `unit_level` the network gets the input as it comes. With `consistent`, the estimates are projected onto
    those that sum to the mixture, each taking an equal share of the difference (Wisdom et al., "Differentiable
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
        """What the network gives, by target and channel, in the precision of the mixture (autocast lowers it)."""
        stacked: Tensor = self.network(mixture)
        estimates: Tensor = stacked.to(mixture.dtype).unflatten(1, (self.targets, self.channels))
        return estimates


def build_separator(config: SeparatorConfig, *, targets: int, channels: int, sample_rate: int) -> Separator:
    """Build the separator that `config` names; `sample_rate` (Hz) sets the window of spectrogram networks.

    Initial weights come from torch's global generator: seed it, or fork it, around this call. Raises ConfigError for a
    setting that the network does not have.
    """
    _refuse_ignored(config)
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
                channels, outputs, width=config.channels or 64, depth=config.depth or 8, exact=config.original_layers
            )
    consistent = config.mixture_consistency and targets > 1
    return Separator(
        network, targets=targets, channels=channels, consistent=consistent, unit_level=not config.original_layers
    )


def _refuse_ignored(config: SeparatorConfig) -> None:
    for setting, owner in (("unet_levels", "tfsep"), ("original_layers", "wavegan")):
        if getattr(config, setting) and config.name != owner:
            raise ConfigError(
                f"separator.{setting}: only {owner} has it, and separator.name is {config.name or 'waveunet'}; "
                f"leave it out, or set separator.name={owner}"
            )
