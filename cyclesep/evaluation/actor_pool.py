"""Pool of separation actors, on GPUs or, if configured, on CPUs."""

import logging
import time
from dataclasses import dataclass, field
from typing import Any

import ray
from ray import exceptions

from cyclesep.errors import ClusterError, CyclesepError
from cyclesep.evaluation.cluster_resources import Cluster, gpus_per_actor, uses_gpu
from cyclesep.evaluation.config import EvaluateConfig
from cyclesep.evaluation.systems import SeparatorSystem
from cyclesep.evaluation.tasks import EvaluationTask
from cyclesep.evaluation.worker import SeparationActor, error_message

_log = logging.getLogger(__name__)

# One track is separated while the next one is read.
_TRACKS_PER_ACTOR = 2
# Consecutive failed starts after which an actor slot is given up.
_MAX_FAILED_STARTS = 3
# Minimum time to wait for a lost node to come back.
_MIN_WAIT_SECONDS = 60.0
# Tolerance for fractions of a GPU that are not exact, such as a third.
_ROUNDING = 1e-6

# Together one CPU, so that each node that runs a separator has room for a scorer, even if the cluster shrinks.
SEPARATOR_CPUS, SCORER_CPUS = 0.1, 0.9


@dataclass(kw_only=True, eq=False)
class PoolActor:
    """One separation process and its pending tracks."""

    handle: Any
    loaded: Any
    """Reference that is ready when the separator is loaded; None from then on."""
    pending: list[Any] = field(default_factory=list)
    """References of the statistics of the tracks that it has not finished."""
    exclusive: bool = False
    """Whether it gets no second track, because its track may be the cause of a lost process."""


@dataclass(frozen=True, kw_only=True)
class SeparationJob:
    """One track that an actor separates."""

    task: EvaluationTask
    actor: PoolActor
    stats: Any
    """Reference of the `SeparationStats`."""
    estimates: Any
    """Reference of the estimates, which the driver never fetches."""


class SeparatorPool:
    """Actors that are started on demand and follow the size of the cluster.

    An actor gets no track before it is scheduled and has loaded its separator.
    """

    def __init__(self, config: EvaluateConfig, separator: SeparatorSystem, cluster: Cluster) -> None:
        self._config, self._separator, self._cluster = config, separator, cluster
        self._use_gpu = uses_gpu(config, cluster.capacity)
        self._gpus_per_actor = gpus_per_actor(config, cluster.capacity)
        self._actors: list[PoolActor] = []
        self._num_failed_starts = 0
        # Slots that were given up.
        self._num_broken_slots = 0
        self._last_loaded = self._last_gpu = time.monotonic()
        self._warned_not_starting = self._warned_no_gpu = False

    @property
    def size(self) -> int:
        """Maximum number of actors."""
        num_slots = int(self._cluster.capacity.gpus / self._gpus_per_actor + _ROUNDING) if self._use_gpu else 1
        return max(1, (self._config.num_separation_actors or num_slots) - self._num_broken_slots)

    @property
    def starting(self) -> list[Any]:
        """References that become ready when an actor has started or failed to start."""
        return [actor.loaded for actor in self._actors if actor.loaded is not None]

    def grow(self, num_waiting: int) -> None:
        """Start actors for this many waiting tracks."""
        num_free = sum(not actor.pending for actor in self._actors)
        for _ in range(min(num_waiting - num_free, self.size - len(self._actors))):
            handle = self._start_actor()
            self._actors.append(PoolActor(handle=handle, loaded=handle.load.remote()))

    def handle_started(self, loaded: Any) -> None:
        """Mark an actor as loaded, or remove it if it failed to start.

        After several consecutive failures one slot is given up, for example a GPU with a broken driver. Raises the
        cause if no other slot is left.
        """
        actor = next(actor for actor in self._actors if actor.loaded == loaded)
        try:
            ray.get(loaded)
        except exceptions.RayError as problem:
            self._stop(actor)
            self._num_failed_starts += 1
            if self._num_failed_starts == _MAX_FAILED_STARTS:
                self._give_up_slot(problem)
        else:
            actor.loaded = None
            self._num_failed_starts = 0

    def separate(self, task: EvaluationTask, *, exclusive: bool) -> SeparationJob | None:
        """Submit a track to the least busy actor, or return None if all actors are busy.

        `exclusive`: to an idle actor, which gets no second track; if it is lost, this track is the cause.
        """
        limit = 1 if exclusive else _TRACKS_PER_ACTOR
        free = [
            actor
            for actor in self._actors
            if actor.loaded is None and len(actor.pending) < limit and not actor.exclusive
        ]
        actor = min(free, key=lambda each: len(each.pending), default=None)
        if actor is None:
            return None
        stats, estimates = actor.handle.separate.options(num_returns=2).remote(task.track)
        actor.pending.append(stats)
        actor.exclusive = exclusive
        return SeparationJob(task=task, actor=actor, stats=stats, estimates=estimates)

    def handle_done(self, job: SeparationJob) -> None:
        """Remove a finished track from its actor."""
        job.actor.pending.remove(job.stats)
        job.actor.exclusive = False

    def handle_lost(self, job: SeparationJob) -> None:
        """Remove an actor whose process was lost, with all its pending tracks."""
        self._stop(job.actor)

    def check_gpu_timeout(self, *, needed: bool) -> None:
        """Warn once if there is no GPU but one is needed; raises ClusterError if there was none for too long."""
        self._warn_if_not_starting(needed)
        if self._cluster.capacity.gpus or not (needed and self._use_gpu):
            self._last_gpu, self._warned_no_gpu = time.monotonic(), False
            return
        timeout = max(_MIN_WAIT_SECONDS, 60 * self._config.scale_up_timeout_minutes)
        if not self._warned_no_gpu:
            self._warned_no_gpu = True
            _log.warning("the cluster has no GPU; waiting %g s for one", timeout)
        if time.monotonic() - self._last_gpu > timeout:
            raise ClusterError(
                f"the cluster has had no GPU for {timeout:g} s; finished results are saved: run the same command again "
                f"when there is one, or with separation.device=cpu; to wait longer, set scale_up_timeout_minutes="
            )

    def stop_idle(self) -> None:
        """Stop actors without pending tracks, to release their resources."""
        for actor in [actor for actor in self._actors if not actor.pending]:
            self._stop(actor)

    def close(self) -> None:
        """Stop all actors."""
        for actor in list(self._actors):
            self._stop(actor)

    def _warn_if_not_starting(self, needed: bool) -> None:
        """Warn once if no actor has started for a minute, for example because other jobs occupy the GPUs."""
        now = time.monotonic()
        is_waiting = needed and self._use_gpu and self._cluster.capacity.gpus > 0 and bool(self._actors)
        if not is_waiting or any(actor.loaded is None for actor in self._actors):
            self._last_loaded, self._warned_not_starting = now, False
        elif not self._warned_not_starting and now - self._last_loaded > _MIN_WAIT_SECONDS:
            self._warned_not_starting = True
            _log.warning("no separator has started for %g s; other jobs may occupy the GPUs", _MIN_WAIT_SECONDS)

    def _give_up_slot(self, problem: exceptions.RayError) -> None:
        cause = problem.cause if isinstance(problem, exceptions.RayTaskError) else problem
        message = error_message(cause)[:300]
        if any(actor.loaded is None for actor in self._actors):
            _log.warning("a separation process does not start (%s); continuing with one process less", message)
            self._num_broken_slots += 1
            self._num_failed_starts = 0
        elif isinstance(cause, CyclesepError):
            raise cause from problem
        else:
            raise ClusterError(f"separation processes do not start ({message})") from problem

    def _start_actor(self) -> Any:
        options = {
            "num_cpus": SEPARATOR_CPUS,
            "scheduling_strategy": "SPREAD",
            "num_gpus": self._gpus_per_actor,
            "max_concurrency": _TRACKS_PER_ACTOR,
        }
        device = "cuda" if self._use_gpu else "cpu"
        actor = ray.remote(SeparationActor).options(**options)
        return actor.remote(self._separator.checkpoint, self._config.separation, device)

    def _stop(self, actor: PoolActor) -> None:
        if actor in self._actors:
            ray.kill(actor.handle)
            self._actors.remove(actor)
