"""The pool of processes that hold a separator: on GPUs, or on CPUs where that is asked for."""

from dataclasses import dataclass, field
from typing import Any

import ray

from cyclesep.evaluation.capacity import Cluster, uses_gpu
from cyclesep.evaluation.config import EvaluateConfig
from cyclesep.evaluation.systems import Separator
from cyclesep.evaluation.work import Item, SeparationActor

# One is separated while the next is read.
_TRACKS_PER_ACTOR = 2

# Together one CPU, so that wherever a separator runs there is room for a scorer too, however the cluster shrinks.
SEPARATOR_CPUS, SCORER_CPUS = 0.1, 0.9


@dataclass(kw_only=True, eq=False)
class Actor:
    """One process, and what it still owes."""

    handle: Any
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
    """Actors that are started when they are needed and follow the cluster as it grows."""

    def __init__(self, config: EvaluateConfig, separator: Separator, cluster: Cluster) -> None:
        self._config, self._separator, self._cluster = config, separator, cluster
        self._use_gpu = uses_gpu(config, cluster.capacity)
        self._actors: list[Actor] = []

    @property
    def size(self) -> int:
        """How many actors there may be."""
        return self._config.num_separators or max(1, self._cluster.capacity.gpus)

    def separate(self, item: Item, *, alone: bool) -> Separating | None:
        """Hand a track to the actor that has least to do, or nothing if all have enough.

        `alone`: to an actor that has nothing else, so that if it is lost, this track is to blame.
        """
        actor = self._free_actor(alone=alone)
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

    def dismiss_idle(self) -> None:
        """Nothing is left to separate: actors without work give back what they occupy."""
        for actor in [actor for actor in self._actors if not actor.owes]:
            self._dismiss(actor)

    def close(self) -> None:
        """End all processes."""
        for actor in list(self._actors):
            self._dismiss(actor)

    def _free_actor(self, *, alone: bool) -> Actor | None:
        if len(self._actors) < self.size and all(actor.owes for actor in self._actors):
            self._actors.append(Actor(handle=self._started()))
        room = 1 if alone else _TRACKS_PER_ACTOR
        free = [actor for actor in self._actors if len(actor.owes) < room and not actor.alone]
        return min(free, key=lambda actor: len(actor.owes), default=None)

    def _started(self) -> Any:
        capacity = self._cluster.capacity
        options = {
            "num_cpus": SEPARATOR_CPUS,
            "scheduling_strategy": "SPREAD",
            "num_gpus": min(1.0, capacity.gpus / self.size) if self._use_gpu else 0,
            "max_concurrency": _TRACKS_PER_ACTOR,
        }
        device = "cuda" if self._use_gpu else "cpu"
        actor = ray.remote(SeparationActor).options(**options)
        return actor.remote(self._separator.checkpoint, self._config.separation, device)

    def _dismiss(self, actor: Actor) -> None:
        if actor in self._actors:
            ray.kill(actor.handle)
            self._actors.remove(actor)
