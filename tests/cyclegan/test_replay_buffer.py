"""The pool of earlier fakes: fills, exchanges half, the same on any number of ranks."""

import pytest
import torch
from torch import Tensor

from cyclesep.cyclegan.distributed import DistributedContext
from cyclesep.cyclegan.replay_buffer import ReplayBuffer

CPU = torch.device("cpu")


def fakes(step: int, size: int = 4) -> Tensor:
    """Crops that tell where they are from: 10 * step + place."""
    return (10.0 * step + torch.arange(size)).reshape(size, 1, 1).expand(size, 1, 3).clone()


def pools(size: int, world_size: int) -> list[ReplayBuffer]:
    """One pool for each rank; gathering asks all of them, as a process group would."""
    made: list[ReplayBuffer] = []

    def gather(_: Tensor) -> list[Tensor]:
        rows = [pool._rows for pool in made]
        assert all(each is not None for each in rows)
        return [each for each in rows if each is not None]

    made += [
        ReplayBuffer(size, seed=0, ranks=DistributedContext(rank=rank, world_size=world_size, gather=gather))
        for rank in range(world_size)
    ]
    return made


def test_until_it_is_full_a_pool_shows_what_it_gets() -> None:
    (pool,) = pools(8, 1)
    for step in range(2):
        assert torch.equal(pool.exchange(fakes(step), step), fakes(step))


def test_a_full_pool_exchanges_about_half_for_earlier_fakes_of_the_same_place() -> None:
    (pool,) = pools(8, 1)
    old = 0
    for step in range(202):
        shown = pool.exchange(fakes(step), step)[:, 0, 0]
        assert (shown % 10).tolist() == [0, 1, 2, 3]
        assert (shown <= 10 * step + 3).all()
        old += int((shown < 10 * step).sum())
    assert 0.42 < old / 800 < 0.58


def test_what_was_shown_again_is_forgotten_and_what_came_in_is_kept() -> None:
    (pool,) = pools(4, 1)
    pool.exchange(fakes(0), 0)
    shown = pool.exchange(fakes(1), 1)
    kept = pool.state_dict()["rows"][:, 0]
    assert torch.equal(shown + kept, fakes(0) + fakes(1))


@pytest.mark.parametrize("world_size", [2, 4])
def test_ranks_together_show_what_one_alone_would(world_size: int) -> None:
    (alone,), together = pools(8, 1), pools(8, world_size)
    for step in range(10):
        whole = alone.exchange(fakes(step), step)
        for rank, pool in enumerate(together):
            share = pool.exchange(fakes(step)[rank::world_size], step)
            assert torch.equal(share, whole[rank::world_size])
    for pool in together:
        pool.gather_state()
    assert torch.equal(together[0].state_dict()["rows"], alone.state_dict()["rows"])


def test_a_state_goes_on_on_another_number_of_ranks() -> None:
    (alone,), together = pools(8, 1), pools(8, 2)
    for step in range(5):
        alone.exchange(fakes(step), step)
    for rank, pool in enumerate(together):
        pool.load_state_dict(alone.state_dict(), CPU)
        assert torch.equal(pool.exchange(fakes(5)[rank::2], 5), alone_after(alone)[rank::2])


def alone_after(pool: ReplayBuffer) -> Tensor:
    (copy,) = pools(8, 1)
    copy.load_state_dict(pool.state_dict(), CPU)
    return copy.exchange(fakes(5), 5)


def test_ranks_that_have_not_synchronised_have_no_state() -> None:
    pool = pools(8, 2)[0]
    assert pool.state_dict() == {}
    pool.exchange(fakes(0, size=2), 0)
    with pytest.raises(RuntimeError, match="gather_state"):
        pool.state_dict()


def test_crops_of_another_length_start_a_new_pool() -> None:
    (pool,) = pools(4, 1)
    pool.exchange(fakes(0), 0)
    longer = torch.ones(4, 1, 7)
    assert torch.equal(pool.exchange(longer, 1), longer)
