"""Collective operations of data-parallel training."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch
import torch.distributed
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

Reducer = Callable[[Tensor], Tensor]


def identity(value: Tensor) -> Tensor:
    """Return `value`: the mean over a single rank."""
    return value


@dataclass(frozen=True, kw_only=True)
class DistributedContext:
    """Rank, world size and collective operations of a worker; all ranks must take part in each operation."""

    rank: int = 0
    world_size: int = 1
    mean: Reducer = identity
    """Return the mean of a tensor over all ranks, without gradient."""
    gather: Callable[[Tensor], list[Tensor]] = lambda value: [value]
    """Return the tensors of all ranks in rank order; they must have the same shape."""


def from_process_group() -> DistributedContext:
    """Return the context of torch's default process group, or of a single worker if there is no group."""
    if not torch.distributed.is_initialized() or torch.distributed.get_world_size() == 1:
        return DistributedContext()
    return DistributedContext(
        rank=torch.distributed.get_rank(),
        world_size=torch.distributed.get_world_size(),
        mean=_mean,
        gather=_gather,
    )


@contextmanager
def gradient_sync(modules: Iterable[nn.Module], *, enabled: bool) -> Iterator[None]:
    """Reduce gradients of data-parallel modules over the ranks in a backward pass only if `enabled`."""
    with ExitStack() as stack:
        for module in modules:
            if not enabled and isinstance(module, DistributedDataParallel):
                stack.enter_context(module.no_sync())
        yield


def _mean(value: Tensor) -> Tensor:
    mean = value.detach().clone()
    torch.distributed.all_reduce(mean)
    return mean / torch.distributed.get_world_size()


def _gather(value: Tensor) -> list[Tensor]:
    gathered = [torch.empty_like(value) for _ in range(torch.distributed.get_world_size())]
    torch.distributed.all_gather(gathered, value.contiguous())
    return gathered
