"""What one worker of a data-parallel run knows of the others."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.distributed
from torch import Tensor

Reducer = Callable[[Tensor], Tensor]


def identity(value: Tensor) -> Tensor:
    """The mean over the ranks of a run that has one."""
    return value


@dataclass(frozen=True, kw_only=True)
class DistributedContext:
    """This worker's place among all, and what they do together; every rank must take part in each call."""

    rank: int = 0
    world_size: int = 1
    mean: Reducer = identity
    """The mean of a tensor over all ranks, without gradient."""
    gather: Callable[[Tensor], list[Tensor]] = lambda value: [value]
    """The tensors of all ranks, in their order; they have one shape."""


def from_process_group() -> DistributedContext:
    """The ranks of torch's default process group; a worker alone if there is none."""
    if not torch.distributed.is_initialized() or torch.distributed.get_world_size() == 1:
        return DistributedContext()
    return DistributedContext(
        rank=torch.distributed.get_rank(),
        world_size=torch.distributed.get_world_size(),
        mean=_mean,
        gather=_gathered,
    )


def _mean(value: Tensor) -> Tensor:
    mean = value.detach().clone()
    torch.distributed.all_reduce(mean)
    return mean / torch.distributed.get_world_size()


def _gathered(value: Tensor) -> list[Tensor]:
    gathered = [torch.empty_like(value) for _ in range(torch.distributed.get_world_size())]
    torch.distributed.all_gather(gathered, value.contiguous())
    return gathered
