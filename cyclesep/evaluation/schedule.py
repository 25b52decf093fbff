"""Items on Ray: separators are actors, scorers are tasks, and a bounded number of both is under way."""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import ray

from cyclesep.errors import ConfigError
from cyclesep.evaluation.config import EvaluateConfig
from cyclesep.evaluation.outcomes import Part, TrackOutcome
from cyclesep.evaluation.progress import Display
from cyclesep.evaluation.systems import Separator
from cyclesep.evaluation.work import Item, SeparationActor, failed, score, told

# A lost process takes its items along, those that only waited for it too; an item that keeps losing processes is bad.
_MAX_ATTEMPTS = 3


@dataclass(kw_only=True, eq=False)
class _Actor:
    """A separator's process, and the estimates that it still owes."""

    handle: Any
    owes: set[Any] = field(default_factory=set)


class Schedule:
    """Runs items until each has an outcome.

    Backpressure: an actor has at most two tracks, so that it never waits, and at most as many tracks are separated and
    not yet scored as there are processes. Estimates go from actor to task through Ray's object store, not through here.
    Actors start when they are needed and stop when nothing is left to separate, which frees their CPUs for scoring.
    """

    def __init__(self, config: EvaluateConfig, items: Sequence[Item]) -> None:
        resources = ray.cluster_resources()
        self._config = config
        self._cpus, gpus = max(1, int(resources.get("CPU", 1))), int(resources.get("GPU", 0))
        self._use_gpu = _use_gpu(config, gpus)
        self._num_actors = _num_separators(config, self._cpus, gpus if self._use_gpu else 0)
        self._gpus_per_actor = min(1.0, gpus / self._num_actors) if self._use_gpu else 0
        self._to_separate = deque(item for item in items if isinstance(item.system, Separator))
        self._to_score = deque(item for item in items if not isinstance(item.system, Separator))
        self._actors: list[_Actor] = []
        self._scoring: dict[Any, Item] = {}
        self._makers: dict[Any, _Actor] = {}
        self._attempts: dict[Part, int] = {}
        self._task = ray.remote(num_cpus=1, max_retries=0)(score)

    def run(self, display: Display) -> dict[Part, TrackOutcome]:
        """The outcome of each item."""
        outcomes: dict[Part, TrackOutcome] = {}
        try:
            while self._fill() or self._scoring:
                owed = [reference for actor in self._actors for reference in actor.owes]
                ready, _ = ray.wait([*self._scoring, *owed], num_returns=1, fetch_local=False)
                for reference in ready:
                    if reference not in self._scoring:
                        self._separated(reference)
                        continue
                    item = self._scoring.pop(reference)
                    outcome = self._outcome(item, reference)
                    if outcome is not None:
                        outcomes[item.part] = outcome
                        display.advance(outcome)
        finally:
            for reference in self._scoring:
                ray.cancel(reference, force=True)
            for actor in self._actors:
                ray.kill(actor.handle)
        return outcomes

    def _fill(self) -> bool:
        """Start what may be started; whether anything is left to start."""
        waiting = sum(isinstance(item.system, Separator) for item in self._scoring.values())
        while (
            self._to_separate and waiting < self._num_actors + self._cpus and (actor := self._free_actor()) is not None
        ):
            item = self._to_separate.popleft()
            estimates = actor.handle.separate.remote(item.track)
            actor.owes.add(estimates)
            scores = self._task.remote(item, estimates)
            self._scoring[scores], self._makers[scores] = item, actor
            waiting += 1
        while self._to_score and len(self._scoring) - waiting < 2 * self._cpus:
            item = self._to_score.popleft()
            self._scoring[self._task.remote(item, None)] = item
        return bool(self._to_separate or self._to_score)

    def _free_actor(self) -> _Actor | None:
        if len(self._actors) < self._num_actors and all(actor.owes for actor in self._actors):
            self._actors.append(_Actor(handle=self._started()))
        actor = min(self._actors, key=lambda actor: len(actor.owes))
        return actor if len(actor.owes) < 2 else None

    def _started(self) -> Any:
        separator = next(item.system for item in self._to_separate)
        assert isinstance(separator, Separator)
        # On as many CPUs as separators, scorers would never get one.
        num_cpus = 1 if self._cpus > self._num_actors else 0
        options = {"num_cpus": num_cpus, "num_gpus": self._gpus_per_actor}
        device = "cuda" if self._use_gpu else "cpu"
        return (
            ray.remote(SeparationActor)
            .options(**options)
            .remote(str(separator.checkpoint), self._config.separation, device)
        )

    def _separated(self, reference: Any) -> None:
        """An actor has made its estimates, or was lost, which the task that waits for them will tell."""
        for actor in self._actors:
            actor.owes.discard(reference)
        if not self._to_separate:
            for actor in [actor for actor in self._actors if not actor.owes]:
                self._dismiss(actor)

    def _dismiss(self, actor: _Actor | None) -> None:
        if actor in self._actors:
            ray.kill(actor.handle)
            self._actors.remove(actor)

    def _outcome(self, item: Item, reference: Any) -> TrackOutcome | None:
        """The outcome, or None if a process was lost and the item is tried again."""
        try:
            outcome: TrackOutcome = ray.get(reference)
            self._makers.pop(reference, None)
            return outcome
        except ray.exceptions.RayError as problem:
            # `score` raises nothing of its own: its process, or the actor that it waited for, is gone.
            self._dismiss(self._makers.pop(reference, None))
            attempts = self._attempts[item.part] = self._attempts.get(item.part, 0) + 1
            if attempts < _MAX_ATTEMPTS:
                (self._to_separate if isinstance(item.system, Separator) else self._to_score).append(item)
                return None
            cause = problem.cause if isinstance(problem, ray.exceptions.RayTaskError) else problem
            return failed(item, f"its process was lost {attempts} times ({told(cause)[:300]})")


def _use_gpu(config: EvaluateConfig, gpus: int) -> bool:
    if config.separation.device == "cuda" and gpus == 0:
        raise ConfigError("separation.device: cuda was asked for, but the cluster has no GPU; set it to auto or cpu")
    return config.separation.device != "cpu" and gpus > 0


def _num_separators(config: EvaluateConfig, cpus: int, gpus: int) -> int:
    if config.num_separators is None:
        return gpus or max(1, cpus // 2)
    if not gpus and config.num_separators > cpus:
        raise ConfigError(f"num_separators: {config.num_separators}, but the cluster has {cpus} CPUs; ask for fewer")
    return config.num_separators
