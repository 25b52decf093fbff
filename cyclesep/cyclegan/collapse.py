"""An alarm for a separator that collapses to silence, which a swap cycle without a warm start rewards."""

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from annotated_types import Ge, Gt

from cyclesep.errors import TrainingError

DECAY = 0.98

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class CollapseConfig:
    """When a separator counts as collapsed, and what follows."""

    energy_below: Annotated[float, Ge(0)] = 1e-3
    """Energy of the estimates over that of the mixtures, averaged over steps, below which the alarm counts."""

    for_steps: Annotated[int, Gt(0)] = 100
    """Steps in a row below it after which the alarm is raised, once."""

    end_run: bool = False
    """End the run when the alarm is raised, instead of a warning."""


class CollapseAlarm:
    """The running mean of the output energy, and for how many steps it has been too low."""

    def __init__(self, config: CollapseConfig, *, warns: bool = True) -> None:
        """`warns`: whether this worker is the one that writes the warning."""
        self._config, self._warns = config, warns
        self._total = self._count = 0.0
        self.num_low = 0

    @property
    def energy(self) -> float:
        """The running mean; early on over the few steps there were."""
        return self._total / self._count if self._count else 0.0

    def observe(self, energy: float) -> None:
        """Take in one step's output energy, if it is finite; raises TrainingError at the alarm if the run shall end."""
        if not math.isfinite(energy):
            return
        self._total = DECAY * self._total + (1 - DECAY) * energy
        self._count = DECAY * self._count + (1 - DECAY)
        self.num_low = self.num_low + 1 if self.energy < self._config.energy_below else 0
        if self.num_low == self._config.for_steps:
            self._raise_alarm()

    def state_dict(self) -> dict[str, Any]:
        return {"total": self._total, "count": self._count, "num_low": self.num_low}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._total, self._count, self.num_low = state["total"], state["count"], state["num_low"]

    def _raise_alarm(self) -> None:
        told = (
            f"the separator's estimates have held less than {self._config.energy_below:g} of the mixtures' energy for "
            f"{self.num_low} steps: it has collapsed to silence; lower cyclegan.loss_weights.swap_cycle or "
            "cyclegan.loss_weights.adversarial, and start again from an earlier checkpoint"
        )
        if self._config.end_run:
            raise TrainingError(told)
        if self._warns:
            log.warning(told)
