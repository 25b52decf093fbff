"""Detection of silence collapse, which a swap cycle rewards, and identity collapse, where the output is the mixture.

Identity collapse is a minimum of the remix cycle on unpaired data: with an empty residual, the remixed signal is the
other target alone.
"""

import logging
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from cyclesep.cyclegan.config import CollapseConfig
from cyclesep.errors import TrainingError

DECAY = 0.98

_log = logging.getLogger(__name__)


def signal_energies(estimate: Tensor, mixture: Tensor) -> Tensor:
    """Return the energies of estimates `(batch, targets, channels, time)`, of residuals and of mixtures: `(3,)`.

    The energy of the residuals is the mean over targets.
    """
    residual = (mixture.unsqueeze(1) - estimate).square().sum() / estimate.shape[1]
    return torch.stack([estimate.square().sum(), residual, mixture.square().sum()])


class CollapseMonitor:
    """Moving averages of the output energy and of the removed energy, and the number of steps below each threshold."""

    def __init__(self, config: CollapseConfig, *, log_warnings: bool = True) -> None:
        """`log_warnings`: whether this worker logs warnings; one worker should."""
        self._config, self._log_warnings = config, log_warnings
        self.output = ThresholdedEMA(config.min_output_energy)
        self.removed = ThresholdedEMA(config.min_removed_energy)

    def observe(self, output: float, removed: float, *, paired: bool) -> None:
        """Update the averages with the output and removed energy of a step, as fractions of the mixtures' energy.

        Values that are not finite are ignored. Removed energy below its threshold counts for unpaired batches only:
        paired targets determine how much is removed. Raises TrainingError if a collapse is detected and `fail` is set,
        otherwise logs one warning.
        """
        config = self._config
        if self.output.observe(output) == config.output_patience:
            self._report(
                f"the energy of the separator's estimates has been less than {config.min_output_energy:g} of the "
                f"mixtures' for {config.output_patience} steps: the separator has collapsed to silence; lower "
                "method.loss_weights.swap_cycle or .adversarial, and restart from an earlier checkpoint"
            )
        if self.removed.observe(removed, counts=not paired) == config.removed_patience:
            self._report(
                f"the separator has removed less than {config.min_removed_energy:g} of the mixtures' energy for "
                f"{config.removed_patience} steps: its output is nearly the mixture; start discriminators at the first "
                "step (method.adversarial_start_step=0) or increase method.loss_weights.adversarial; if the targets "
                "make up nearly all of the mixtures, set method.collapse.min_removed_energy=0"
            )

    def metrics(self) -> dict[str, float]:
        """Return the averages and the numbers of consecutive steps below the thresholds."""
        return {
            "separator/output_energy": self.output.value,
            "collapse/removed_energy_ratio": self.removed.value,
            "separator/steps_collapsed": float(self.output.num_low),
            "collapse/pass_through_steps": float(self.removed.num_low),
        }

    def state_dict(self) -> dict[str, Any]:
        return {"energy": self.output.state_dict(), "removed": self.removed.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.output.load_state_dict(state["energy"])
        self.removed.load_state_dict(state["removed"])

    def _report(self, message: str) -> None:
        if self._config.fail:
            raise TrainingError(message)
        if self._log_warnings:
            _log.warning(message)


class ThresholdedEMA:
    """Exponential moving average, and the number of consecutive steps in which it was below a threshold."""

    def __init__(self, threshold: float) -> None:
        self._threshold = threshold
        self._total = self._count = 0.0
        self.num_low = 0

    @property
    def value(self) -> float:
        """The average, corrected for its start at zero; 0 before the first value."""
        return self._total / self._count if self._count else 0.0

    def observe(self, value: float, *, counts: bool = True) -> int:
        """Update the average with `value`, if finite; return the number of consecutive steps below the threshold.

        Steps with `counts=False` update the average only and return 0.
        """
        if not math.isfinite(value):
            return 0
        self._total = DECAY * self._total + (1 - DECAY) * value
        self._count = DECAY * self._count + (1 - DECAY)
        if not counts:
            return 0
        self.num_low = self.num_low + 1 if self.value < self._threshold else 0
        return self.num_low

    def state_dict(self) -> dict[str, Any]:
        return {"total": self._total, "count": self._count, "num_low": self.num_low}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._total, self._count, self.num_low = state["total"], state["count"], state["num_low"]
