"""An alarm for a separator that falls silent, which a swap cycle rewards, or lets everything through.

To let everything through is a minimum of the remix cycle where no truth is known: nothing is left to be remixed.
"""

import logging
import math
from collections.abc import Mapping
from typing import Any

from cyclesep.cyclegan.config import CollapseConfig
from cyclesep.errors import TrainingError

DECAY = 0.98

log = logging.getLogger(__name__)


class CollapseMonitor:
    """Running means of the energy that estimates have and remove, and for how many steps each has been too low."""

    def __init__(self, config: CollapseConfig, *, warns: bool = True) -> None:
        """`warns`: whether this worker is the one that writes the warning."""
        self._config, self._warns = config, warns
        self.energy = ThresholdedEMA(config.min_output_energy)
        self.removed = ThresholdedEMA(config.min_removed_energy)

    def observe(self, energy: float, removed: float, *, paired: bool) -> None:
        """Take in one step's two energies, if finite; raises TrainingError at an alarm if the run shall end.

        Where crops are paired, as much is removed as the truth wants.
        """
        config = self._config
        if self.energy.observe(energy) == config.output_patience:
            self._raise_alarm(
                f"the separator's estimates have held less than {config.min_output_energy:g} of the mixtures' energy for "
                f"{config.output_patience} steps: it has collapsed to silence; lower method.loss_weights.swap_cycle or "
                "method.loss_weights.adversarial, and start again from an earlier checkpoint"
            )
        if self.removed.observe(removed, counts=not paired) == config.removed_patience:
            self._raise_alarm(
                f"the separator has removed less than {config.min_removed_energy:g} of the mixtures' energy for "
                f"{config.removed_patience} steps: it lets everything through; let discriminators in from the first "
                "step (method.adversarial_start_step=0) or give them more weight "
                "(method.loss_weights.adversarial); if the targets are nearly all there is, set "
                "method.collapse.min_removed_energy=0"
            )

    def state_dict(self) -> dict[str, Any]:
        return {"energy": self.energy.state_dict(), "removed": self.removed.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.energy.load_state_dict(state["energy"])
        self.removed.load_state_dict(state["removed"])

    def _raise_alarm(self, told: str) -> None:
        if self._config.fail:
            raise TrainingError(told)
        if self._warns:
            log.warning(told)


class ThresholdedEMA:
    """A running mean, and for how many steps in a row it has been below a limit."""

    def __init__(self, limit: float) -> None:
        self._limit = limit
        self._total = self._count = 0.0
        self.num_low = 0

    @property
    def value(self) -> float:
        """Early on the mean over the few steps there were."""
        return self._total / self._count if self._count else 0.0

    def observe(self, value: float, *, counts: bool = True) -> int:
        """Take in one step's value, if finite; gives for how many steps that count the mean has been too low."""
        if not math.isfinite(value):
            return 0
        self._total = DECAY * self._total + (1 - DECAY) * value
        self._count = DECAY * self._count + (1 - DECAY)
        if not counts:
            return 0
        self.num_low = self.num_low + 1 if self.value < self._limit else 0
        return self.num_low

    def state_dict(self) -> dict[str, Any]:
        return {"total": self._total, "count": self._count, "num_low": self.num_low}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._total, self._count, self.num_low = state["total"], state["count"], state["num_low"]
