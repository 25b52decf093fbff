"""Replay buffer: filling, exchange of half of the fakes, equal results on any number of ranks."""

import pytest
import torch
from torch import Tensor

from cyclesep.cyclegan.distributed import DistributedContext
from cyclesep.cyclegan.replay_buffer import ReplayBuffer

CPU = torch.device("cpu")


def fakes(step: int, size: int = 4) -> Tensor:
    """Return crops with the value 10 * step + position."""
    return (10.0 * step + torch.arange(size)).reshape(size, 1, 1).expand(size, 1, 3).clone()


def make_buffers(size: int, world_size: int) -> list[ReplayBuffer]:
    """Return a buffer for each rank; gathering collects from all of them, as a process group does."""
    buffers: list[ReplayBuffer] = []

    def gather(_: Tensor) -> list[Tensor]:
        rows = [buffer._rows for buffer in buffers]
        assert all(each is not None for each in rows)
        return [each for each in rows if each is not None]

    buffers += [
        ReplayBuffer(size, seed=0, ranks=DistributedContext(rank=rank, world_size=world_size, gather=gather))
        for rank in range(world_size)
    ]
    return buffers


def test_a_buffer_that_is_not_full_exchanges_nothing() -> None:
    (buffer,) = make_buffers(8, 1)
    for step in range(2):
        assert torch.equal(buffer.exchange(fakes(step), step), fakes(step))


def test_a_full_buffer_exchanges_about_half_for_earlier_fakes_of_the_same_position() -> None:
    (buffer,) = make_buffers(8, 1)
    old = 0
    for step in range(202):
        exchanged = buffer.exchange(fakes(step), step)[:, 0, 0]
        assert (exchanged % 10).tolist() == [0, 1, 2, 3]
        assert (exchanged <= 10 * step + 3).all()
        old += int((exchanged < 10 * step).sum())
    assert 0.42 < old / 800 < 0.58


def test_exchanged_fakes_are_replaced_in_the_buffer() -> None:
    (buffer,) = make_buffers(4, 1)
    buffer.exchange(fakes(0), 0)
    exchanged = buffer.exchange(fakes(1), 1)
    stored = buffer.state_dict()["rows"][:, 0]
    assert torch.equal(exchanged + stored, fakes(0) + fakes(1))


@pytest.mark.parametrize("world_size", [2, 4])
def test_several_ranks_exchange_the_same_fakes_as_one(world_size: int) -> None:
    (alone,), together = make_buffers(8, 1), make_buffers(8, world_size)
    for step in range(10):
        whole = alone.exchange(fakes(step), step)
        for rank, buffer in enumerate(together):
            share = buffer.exchange(fakes(step)[rank::world_size], step)
            assert torch.equal(share, whole[rank::world_size])
    for buffer in together:
        buffer.gather_state()
    assert torch.equal(together[0].state_dict()["rows"], alone.state_dict()["rows"])


def test_a_state_loads_on_another_number_of_ranks() -> None:
    (alone,), together = make_buffers(8, 1), make_buffers(8, 2)
    for step in range(5):
        alone.exchange(fakes(step), step)
    for rank, buffer in enumerate(together):
        buffer.load_state_dict(alone.state_dict(), CPU)
        assert torch.equal(buffer.exchange(fakes(5)[rank::2], 5), next_exchange(alone)[rank::2])


def next_exchange(buffer: ReplayBuffer) -> Tensor:
    (copy,) = make_buffers(8, 1)
    copy.load_state_dict(buffer.state_dict(), CPU)
    return copy.exchange(fakes(5), 5)


def test_state_dict_before_gather_state_raises_on_several_ranks() -> None:
    buffer = make_buffers(8, 2)[0]
    assert buffer.state_dict() == {}
    buffer.exchange(fakes(0, size=2), 0)
    with pytest.raises(RuntimeError, match="gather_state"):
        buffer.state_dict()


def test_crops_of_another_length_reset_the_buffer() -> None:
    (buffer,) = make_buffers(4, 1)
    buffer.exchange(fakes(0), 0)
    longer = torch.ones(4, 1, 7)
    assert torch.equal(buffer.exchange(longer, 1), longer)
