"""A run that is asked to stop, or one of whose machines will be taken away, saves a checkpoint at once.

SIGTERM to the process that called `fit` (`ray job stop`, Slurm before its time limit, a pod that is deleted)
ends the run after that checkpoint. SIGTERM to a node's `ray start --block` (a spot machine or its pod), or `ray
drain-node`, tells Ray that the node will go: the run saves and goes on until it is gone, and Ray Train starts it again
from there.
"""

import asyncio
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any, Literal

import ray
import ray.train
import ray.train.collective

from cyclesep.cluster.connect import local_actor

# As a shell tells of a process that SIGTERM ended.
STATUS = 143
# Workers ask each other about so often, which takes some milliseconds.
_SECONDS = 1.0

Wanted = Literal["save", "stop"]


class StopSignal:
    """An actor that rings once and for all who listen."""

    def __init__(self) -> None:
        self._rung = asyncio.Event()

    async def ring(self) -> None:
        self._rung.set()

    async def heard(self) -> None:
        """Returns when it has rung."""
        await self._rung.wait()


@dataclass(kw_only=True)
class StopRequest:
    """Whether this process was asked to stop, and the actor by which workers hear of it."""

    bell: Any
    is_made: bool = False


@contextmanager
def stoppable() -> Iterator[StopRequest]:
    """While the block runs, SIGTERM is handed on to those who hold the bell; a second one ends this process.

    Only a main thread hears signals: elsewhere, as in a trial of a search, there is no bell and nothing is changed.
    """
    if threading.current_thread() is not threading.main_thread():
        yield StopRequest(bell=None)
        return
    request = StopRequest(bell=local_actor(StopSignal))

    def hand_on(*_: int | FrameType | None) -> None:
        if request.is_made:
            sys.exit(STATUS)
        request.is_made = True
        request.bell.ring.remote()
        print("asked to stop: the run saves a checkpoint first", file=sys.stderr, flush=True)

    before = signal.signal(signal.SIGTERM, hand_on)
    try:
        yield request
    finally:
        signal.signal(signal.SIGTERM, before)


class Interruptions:
    """What a worker asks after each step; all workers of a run get the same answer at the same step."""

    def __init__(self, bell: Any, *, rank: int, step: int) -> None:
        """`step` is the one that the run has done."""
        self._heard = bell.heard.remote() if bell is not None and rank == 0 else None
        self._next = step + 1
        self._asked = step, time.monotonic()
        self._leaving: set[str] = set()

    def wanted_after(self, step: int) -> Wanted | None:
        """Whether a checkpoint is wanted now, and the run is to end with it; every worker must call it."""
        if step < self._next:
            return None
        info = ray.train.get_preemption_info()
        leaving = set() if info is None else set(info.preempted_node_ids)
        is_news, self._leaving = not leaving <= self._leaving, self._leaving | leaving
        # What rank 0 says, so that all stop, and ask again, after the same step.
        stops, self._next = ray.train.collective.broadcast_from_rank_zero((self._is_stopped(), self._later(step)))
        if stops:
            return "stop"
        return "save" if is_news else None

    def _is_stopped(self) -> bool:
        if self._heard is None or not ray.wait([self._heard], timeout=0)[0]:
            return False
        heard, self._heard = self._heard, None
        try:
            ray.get(heard)
        except ray.exceptions.RayError:
            # Lost is not rung.
            return False
        return True

    def _later(self, step: int) -> int:
        """The step at which to ask again, about a second from now and at most twice as many steps as the last time."""
        (asked, then), now = self._asked, time.monotonic()
        self._asked = step, now
        steps = step - asked
        return step + max(1, min(2 * steps, round(steps * _SECONDS / max(now - then, 1e-9))))
