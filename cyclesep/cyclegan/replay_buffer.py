"""A pool of earlier fakes for the discriminators, so that they do not forget what the generator no longer makes.

After CycleGAN (Zhu et al., 2017, who take it from Shrivastava et al., 2017): once the pool is full, each fake is as
likely to be shown itself as to be exchanged for an earlier one.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cyclesep.cyclegan.distributed import DistributedContext


class ReplayBuffer:
    """Earlier fakes of one discriminator, in a row of their own for each place in the global batch.

    Rank r of w has the places r, r + w, ...; what a place exchanges is drawn from (seed, step, place). So the pool is
    the same on any number of workers, and its whole content is all rows in their order.
    """

    def __init__(self, size: int, *, seed: int, ranks: DistributedContext) -> None:
        """Hold at least `size` fakes over all ranks, the same number for each place."""
        self._size, self._seed, self._ranks = size, seed, ranks
        self._rows: Tensor | None = None
        self._filled = 0
        self._whole: Tensor | None = None

    def exchanged(self, fakes: Tensor, step: int) -> Tensor:
        """What to show instead of this rank's `fakes` `(batch, channels, time)`, which are remembered."""
        self._whole = None
        depth = math.ceil(self._size / (len(fakes) * self._ranks.world_size))
        if self._rows is None or self._rows.shape != (len(fakes), depth, *fakes.shape[1:]):
            self._rows, self._filled = fakes.new_zeros(len(fakes), depth, *fakes.shape[1:]), 0
        if self._filled < depth:
            self._rows[:, self._filled] = fakes
            self._filled += 1
            return fakes
        shown = fakes.clone()
        for row, fake in enumerate(fakes):
            place = self._ranks.rank + row * self._ranks.world_size
            rng = np.random.default_rng((self._seed, step, place))
            if rng.random() < 0.5:
                slot = int(rng.integers(depth))
                shown[row] = self._rows[row, slot]
                self._rows[row, slot] = fake
        return shown

    def gather_state(self) -> None:
        """Bring the rows of all ranks together for `state_dict`; every rank must call."""
        if self._rows is not None:
            self._whole = torch.stack(self._ranks.gather(self._rows), dim=1).flatten(0, 1)

    def state_dict(self) -> dict[str, Any]:
        """The rows of all places, in their order; with several ranks `gather_state` must come first."""
        if self._rows is None:
            return {}
        if self._whole is None:
            if self._ranks.world_size > 1:
                raise RuntimeError("gather_state() on all ranks must come before a state is taken")
            return {"rows": self._rows.clone(), "filled": self._filled}
        return {"rows": self._whole, "filled": self._filled}

    def load_state_dict(self, state: Mapping[str, Any], device: torch.device) -> None:
        """Take over this rank's share of a pool, from any number of ranks."""
        self._rows, self._whole, self._filled = None, None, 0
        if state:
            own = state["rows"][self._ranks.rank :: self._ranks.world_size]
            self._rows, self._filled = own.to(device).clone(), state["filled"]
