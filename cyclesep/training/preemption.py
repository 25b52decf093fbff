"""Checkpoints on preemption: a run saves a checkpoint before it is stopped or loses a machine.

SIGTERM to the process that called `fit` (`ray job stop`, Slurm before its time limit, a deleted pod) ends the run after
that checkpoint. SIGTERM to a node's `ray start --block` (a spot machine or its pod) or `ray drain-node` announces to
Ray that the node will be removed: the run saves a checkpoint and continues until then, and Ray Train restarts it from
there.
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

# 128 + SIGTERM.
STATUS = 143
# Seconds between polls, each of which is a collective call of some milliseconds.
_POLL_SECONDS = 1.0

Action = Literal["save", "stop"]


class StopSignal:
    """An actor with an event that is set once and that any process can wait for."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    async def set(self) -> None:
        self._event.set()

    async def wait(self) -> None:
        """Return once the event is set."""
        await self._event.wait()


@dataclass(kw_only=True)
class StopRequest:
    """Whether this process received SIGTERM, and the signal that notifies the workers; None outside the main thread."""

    signal: Any
    is_made: bool = False


@contextmanager
def handle_sigterm() -> Iterator[StopRequest]:
    """Forward SIGTERM to the workers while the block runs; a second SIGTERM ends this process.

    Only the main thread can handle signals. In another thread, as in a trial of a search, nothing is changed.
    """
    if threading.current_thread() is not threading.main_thread():
        yield StopRequest(signal=None)
        return
    request = StopRequest(signal=local_actor(StopSignal))
    received = threading.Event()

    def forward() -> None:
        received.wait()
        if request.is_made:
            request.signal.set.remote()
            print("received SIGTERM: saving a checkpoint before stopping", file=sys.stderr, flush=True)

    # A signal handler must neither print nor call Ray, which it may have interrupted; this thread does.
    forwarder = threading.Thread(target=forward, daemon=True)
    forwarder.start()

    def handle(*_: int | FrameType | None) -> None:
        if request.is_made:
            sys.exit(STATUS)
        request.is_made = True
        received.set()

    before = signal.signal(signal.SIGTERM, handle)
    try:
        yield request
    finally:
        signal.signal(signal.SIGTERM, before)
        received.set()
        forwarder.join()


class PreemptionMonitor:
    """Checks after each step whether to save or stop; all workers get the same answer at the same step."""

    def __init__(self, stop_signal: Any, *, rank: int, step: int) -> None:
        """`stop_signal` is a StopSignal actor or None, `step` the last finished step."""
        self._stop = stop_signal.wait.remote() if stop_signal is not None and rank == 0 else None
        self._next_poll = step + 1
        self._last_poll = step, time.monotonic()
        self._leaving_nodes: set[str] = set()

    def poll(self, step: int) -> Action | None:
        """Return "save" if a node will be removed, "stop" if the run must end, else None; every worker must call it."""
        if step < self._next_poll:
            return None
        info = ray.train.get_preemption_info()
        leaving = set() if info is None else set(info.preempted_node_ids)
        has_new, self._leaving_nodes = not leaving <= self._leaving_nodes, self._leaving_nodes | leaving
        # Rank 0 decides, so that all workers stop, and poll again, after the same step.
        stop, self._next_poll = ray.train.collective.broadcast_from_rank_zero(
            (self._is_stopped(), self._next_poll_step(step))
        )
        if stop:
            return "stop"
        return "save" if has_new else None

    def _is_stopped(self) -> bool:
        if self._stop is None or not ray.wait([self._stop], timeout=0)[0]:
            return False
        stop, self._stop = self._stop, None
        try:
            ray.get(stop)
        except ray.exceptions.RayError:
            # The actor was lost, which is not a signal.
            return False
        return True

    def _next_poll_step(self, step: int) -> int:
        """Return the step of the next poll: about a second from now, at most twice as many steps as the last time."""
        (previous, then), now = self._last_poll, time.monotonic()
        self._last_poll = step, now
        steps = step - previous
        return step + max(1, min(2 * steps, round(steps * _POLL_SECONDS / max(now - then, 1e-9))))
