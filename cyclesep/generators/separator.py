"""What all separators share: their config, the level of the input, and estimates that sum to the mixture."""

from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Gt, MultipleOf
from torch import Tensor, nn

from cyclesep.generators.seed import SeedGenerator
from cyclesep.generators.tfsep import TFSep
from cyclesep.generators.waveunet import WaveUNet

# Below this RMS (-100 dBFS) a window counts as silent and is no longer brought to unit level.
SILENCE_RMS = 1e-5


@dataclass(frozen=True, kw_only=True)
class SeparatorConfig:
    """Which separator, and how big."""

    name: Literal["seed", "waveunet", "tfsep"] | None = None
    """`waveunet` (waveform U-Net), `tfsep` (complex spectrogram mask), `seed` (the ancestor's); empty: the preset's."""

    width: Annotated[int, Gt(0), MultipleOf(8)] | None = None
    """Channels of the first layer, a multiple of 8; empty takes the network's own (waveunet 16, tfsep 32, seed 64)."""

    depth: Annotated[int, Gt(0)] | None = None
    """Levels of `waveunet` (4), blocks of `tfsep` (4), residual blocks of `seed` (8); empty takes that number."""

    mixture_consistency: bool = True
    """Make the estimates of several targets sum to the mixture; turn it off if the targets leave part of it out."""


class Separator(nn.Module):
    """A network at unit level: the input is brought to RMS 1 and the estimates back, so gain in is gain out.

    With `consistent`, the estimates are projected onto those that sum to the mixture, each taking an equal share of
    the difference (Wisdom et al., "Differentiable consistency constraints for improved deep speech enhancement", 2019).
    """

    def __init__(self, network: nn.Module, *, targets: int, channels: int, consistent: bool) -> None:
        super().__init__()
        self.network = network
        self.targets = targets
        self.channels = channels
        self.consistent = consistent

    def forward(self, mixture: Tensor) -> Tensor:
        """Map a mixture `(batch, channels, time)` to estimates `(batch, targets, channels, time)`, float32."""
        level = mixture.square().mean(dim=(1, 2), keepdim=True).sqrt().clamp(min=SILENCE_RMS)
        estimates: Tensor = self.network(mixture / level).float().unflatten(1, (self.targets, self.channels))
        estimates = estimates * level.unsqueeze(1)
        if not self.consistent:
            return estimates
        missing = mixture.unsqueeze(1) - estimates.sum(dim=1, keepdim=True)
        return estimates + missing / self.targets


def build_separator(config: SeparatorConfig, *, targets: int, channels: int, sample_rate: int) -> Separator:
    """Build the separator that `config` names; `sample_rate` (Hz) sets the window of spectrogram networks.

    Initial weights come from torch's global generator: seed it, or fork it, around this call.
    """
    outputs = targets * channels
    network: nn.Module
    match config.name or "waveunet":
        case "waveunet":
            network = WaveUNet(channels, outputs, width=config.width or 16, depth=config.depth or 4)
        case "tfsep":
            network = TFSep(
                channels, targets, width=config.width or 32, depth=config.depth or 4, sample_rate=sample_rate
            )
        case "seed":
            network = SeedGenerator(channels, outputs, width=config.width or 64, depth=config.depth or 8)
    consistent = config.mixture_consistency and targets > 1
    return Separator(network, targets=targets, channels=channels, consistent=consistent)
