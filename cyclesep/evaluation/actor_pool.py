"""The pool of processes that hold a separator: on GPUs, or on CPUs where that is asked for."""

import logging
import time
from dataclasses import dataclass, field
from typing import Any

import ray
from ray import exceptions

from cyclesep.errors import ClusterError, CyclesepError
from cyclesep.evaluation.cluster_resources import Cluster, gpus_per_actor, uses_gpu
from cyclesep.evaluation.config import EvaluateConfig
from cyclesep.evaluation.systems import Separator
from cyclesep.evaluation.worker import Item, SeparationActor, told

_log = logging.getLogger(__name__)

# One is separated while the next is read.
_TRACKS_PER_ACTOR = 2
# Without one that succeeds among them.
_MAX_STARTS = 3
# Seconds in which a node that was lost may come back.
_LEAST_PATIENCE = 60.0
# Shares such as a third are not exact.
_ROUNDING = 1e-6

# Together one CPU, so that wherever a separator runs there is room for a scorer too, however the cluster shrinks.
SEPARATOR_CPUS, SCORER_CPUS = 0.1, 0.9


@dataclass(kw_only=True, eq=False)
class Actor:
    """One process, and what it still owes."""

    handle: Any
    loaded: Any
    """Reference that is there when it has its separator; None once that was seen."""
    owes: list[Any] = field(default_factory=list)
    alone: bool = False
    """Whether it works on a suspect, and gets nothing beside it."""


@dataclass(frozen=True, kw_only=True)
class Separating:
    """One track that an actor is at."""

    item: Item
    actor: Actor
    told: Any
    """Reference of the `Separation`."""
    estimates: Any
    """Reference of the estimates, which the driver never fetches."""


class SeparatorPool:
    """Actors that are started when they are needed and follow the cluster as it grows.

    One that still waits for its place in the cluster, or loads its separator, gets no track.
    """

    def __init__(self, config: EvaluateConfig, separator: Separator, cluster: Cluster) -> None:
        self._config, self._separator, self._cluster = config, separator, cluster
        self._use_gpu = uses_gpu(config, cluster.capacity)
        self._gpus_each = gpus_per_actor(config, cluster.capacity)
        self._actors: list[Actor] = []
        self._num_failed_starts = 0
        # Places in which none starts.
        self._num_broken = 0
        self._some_loaded = time.monotonic()
        self._is_starving = False
        self._gpu_seen = time.monotonic()
        self._is_waiting = False

    @property
    def size(self) -> int:
        """How many actors there may be."""
        fitting = int(self._cluster.capacity.gpus / self._gpus_each + _ROUNDING) if self._use_gpu else 1
        return max(1, (self._config.num_separation_actors or fitting) - self._num_broken)

    @property
    def starting(self) -> list[Any]:
        """References of which one is there when an actor has started, or could not."""
        return [actor.loaded for actor in self._actors if actor.loaded is not None]

    def grow(self, num_waiting: int) -> None:
        """Start actors for so many tracks that wait."""
        free = sum(not actor.owes for actor in self._actors)
        for _ in range(min(num_waiting - free, self.size - len(self._actors))):
            handle = self._started()
            self._actors.append(Actor(handle=handle, loaded=handle.load.remote()))

    def started(self, loaded: Any) -> None:
        """An actor has its separator, or could not get it, for which another one is started.

        When that has happened too often since the last one that started, its place is given up: a GPU of which the
        driver is broken, say. Raises what was in the way if no other place is left.
        """
        actor = next(actor for actor in self._actors if actor.loaded == loaded)
        try:
            ray.get(loaded)
        except exceptions.RayError as problem:
            self._dismiss(actor)
            self._num_failed_starts += 1
            if self._num_failed_starts == _MAX_STARTS:
                self._give_up_place(problem)
        else:
            actor.loaded = None
            self._num_failed_starts = 0

    def separate(self, item: Item, *, alone: bool) -> Separating | None:
        """Hand a track to the actor that has least to do, or nothing if all have enough.

        `alone`: to an actor that has nothing else, so that if it is lost, this track is to blame.
        """
        room = 1 if alone else _TRACKS_PER_ACTOR
        free = [each for each in self._actors if each.loaded is None and len(each.owes) < room and not each.alone]
        actor = min(free, key=lambda each: len(each.owes), default=None)
        if actor is None:
            return None
        separation, estimates = actor.handle.separate.options(num_returns=2).remote(item.track)
        actor.owes.append(separation)
        actor.alone = alone
        return Separating(item=item, actor=actor, told=separation, estimates=estimates)

    def done(self, work: Separating) -> None:
        """An actor has done a track."""
        work.actor.owes.remove(work.told)
        work.actor.alone = False

    def lost(self, work: Separating) -> None:
        """The process of an actor is gone, and all that it owed."""
        self._dismiss(work.actor)

    def check_gpu_timeout(self, *, needed: bool) -> None:
        """Say once that there is no GPU where one is needed; raises ClusterError when there was none for too long."""
        self._tell_of_starving(needed)
        if self._cluster.capacity.gpus or not (needed and self._use_gpu):
            self._gpu_seen, self._is_waiting = time.monotonic(), False
            return
        patience = max(_LEAST_PATIENCE, 60 * self._config.scale_up_timeout_minutes)
        if not self._is_waiting:
            self._is_waiting = True
            _log.warning("the cluster has no GPU; waiting %g s for one", patience)
        if time.monotonic() - self._gpu_seen > patience:
            raise ClusterError(
                f"the cluster has had no GPU for {patience:g} s; what is done is kept: run the same command again when "
                "there is one, or with separation.device=cpu; scale_up_timeout_minutes= waits longer"
            )

    def _tell_of_starving(self, needed: bool) -> None:
        """Say once when no process has started for a minute, as where other jobs hold what it takes."""
        now = time.monotonic()
        is_waiting = needed and self._use_gpu and self._cluster.capacity.gpus > 0 and bool(self._actors)
        if not is_waiting or any(actor.loaded is None for actor in self._actors):
            self._some_loaded, self._is_starving = now, False
        elif not self._is_starving and now - self._some_loaded > _LEAST_PATIENCE:
            self._is_starving = True
            _log.warning("no separator has started for %g s; other jobs may hold the GPUs", _LEAST_PATIENCE)

    def _give_up_place(self, problem: exceptions.RayError) -> None:
        cause = problem.cause if isinstance(problem, exceptions.RayTaskError) else problem
        if any(actor.loaded is None for actor in self._actors):
            _log.warning("one process less separates: it does not start (%s)", told(cause)[:300])
            self._num_broken += 1
            self._num_failed_starts = 0
        elif isinstance(cause, CyclesepError):
            raise cause from problem
        else:
            raise ClusterError(f"processes that separate do not start ({told(cause)[:300]})") from problem

    def dismiss_idle(self) -> None:
        """Nothing is left to separate: actors without work give back what they occupy."""
        for actor in [actor for actor in self._actors if not actor.owes]:
            self._dismiss(actor)

    def close(self) -> None:
        """End all processes."""
        for actor in list(self._actors):
            self._dismiss(actor)

    def _started(self) -> Any:
        options = {
            "num_cpus": SEPARATOR_CPUS,
            "scheduling_strategy": "SPREAD",
            "num_gpus": self._gpus_each,
            "max_concurrency": _TRACKS_PER_ACTOR,
        }
        device = "cuda" if self._use_gpu else "cpu"
        actor = ray.remote(SeparationActor).options(**options)
        return actor.remote(self._separator.checkpoint, self._config.separation, device)

    def _dismiss(self, actor: Actor) -> None:
        if actor in self._actors:
            ray.kill(actor.handle)
            self._actors.remove(actor)
