"""Buffers of earlier fakes for discriminator training, so that discriminators do not forget earlier generator outputs.

After CycleGAN (Zhu et al., 2017, following Shrivastava et al., 2017): once the buffer is full, each fake is exchanged
for an earlier one with probability one half.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cyclesep.cyclegan.distributed import DistributedContext
from cyclesep.cyclegan.recipes import DiscriminatorPair


class ReplayBuffer:
    """Earlier fakes of one discriminator, in one row for each position of the global batch.

    Rank r of w has the positions r, r + w, ... A random generator seeded with (seed, step, position) selects which
    fakes are exchanged, so the buffer is the same on any number of workers.
    """

    def __init__(self, size: int, *, seed: int, ranks: DistributedContext) -> None:
        """`size`: minimum number of fakes over all ranks, the same number for each position."""
        self._size, self._seed, self._ranks = size, seed, ranks
        self._rows: Tensor | None = None
        self._filled = 0
        self._gathered: Tensor | None = None

    def exchange(self, fakes: Tensor, step: int) -> Tensor:
        """Store this rank's `fakes` `(batch, channels, time)`; return them with some exchanged for earlier ones."""
        self._gathered = None
        depth = math.ceil(self._size / (len(fakes) * self._ranks.world_size))
        if self._rows is None or self._rows.shape != (len(fakes), depth, *fakes.shape[1:]):
            self._rows, self._filled = fakes.new_zeros(len(fakes), depth, *fakes.shape[1:]), 0
        if self._filled < depth:
            self._rows[:, self._filled] = fakes
            self._filled += 1
            return fakes
        exchanged = fakes.clone()
        for row, fake in enumerate(fakes):
            position = self._ranks.rank + row * self._ranks.world_size
            rng = np.random.default_rng((self._seed, step, position))
            if rng.random() < 0.5:
                slot = int(rng.integers(depth))
                exchanged[row] = self._rows[row, slot]
                self._rows[row, slot] = fake
        return exchanged

    def gather_state(self) -> None:
        """Gather the rows of all ranks for `state_dict`; collective, all ranks must call it."""
        if self._rows is not None:
            self._gathered = torch.stack(self._ranks.gather(self._rows), dim=1).flatten(0, 1)

    def state_dict(self) -> dict[str, Any]:
        """Return the rows of all positions in order; several ranks must call `gather_state` first."""
        if self._rows is None:
            return {}
        if self._gathered is None:
            if self._ranks.world_size > 1:
                raise RuntimeError("call gather_state() on all ranks before state_dict()")
            return {"rows": self._rows.clone(), "filled": self._filled}
        return {"rows": self._gathered, "filled": self._filled}

    def load_state_dict(self, state: Mapping[str, Any], device: torch.device) -> None:
        """Load this rank's rows from a state saved on any number of ranks."""
        self._rows, self._gathered, self._filled = None, None, 0
        if state:
            own = state["rows"][self._ranks.rank :: self._ranks.world_size]
            self._rows, self._filled = own.to(device).clone(), state["filled"]


def replay_fakes(
    buffers: Mapping[str, ReplayBuffer], micro_batches: Sequence[Mapping[str, DiscriminatorPair]], step: int
) -> list[dict[str, DiscriminatorPair]]:
    """Return the pairs of each micro-batch with some fakes exchanged for earlier ones.

    Fakes are stored in the order of the batch: micro-batch i of n holds every n-th crop from crop i.
    """
    replayed = [dict(pairs) for pairs in micro_batches]
    for name, buffer in buffers.items():
        fakes = torch.stack([pairs[name].fake for pairs in micro_batches], dim=1)
        exchanged = buffer.exchange(fakes.flatten(0, 1), step).unflatten(0, fakes.shape[:2])
        for index, pairs in enumerate(replayed):
            pairs[name] = dataclasses.replace(pairs[name], fake=exchanged[:, index])
    return replayed
