"""Items on Ray: actors separate, tasks score, a bounded number of both is under way, and lost processes are replaced.

Plain actors and tasks rather than Ray Data, because of what a long item with a reason to fail needs: a lost process
costs its own track and no other, a track that keeps losing processes is given up and told, and estimates wait in the
object store only as far as the scorers keep up.
"""

from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import ray
from ray import exceptions

from cyclesep.evaluation.actor_pool import SCORER_CPUS, Separating, SeparatorPool
from cyclesep.evaluation.cluster_resources import Cluster, refuse_impossible, tell_if_on_cpus, uses_gpu
from cyclesep.evaluation.config import EvaluateConfig
from cyclesep.evaluation.systems import Separator
from cyclesep.evaluation.track_result import TrackResult
from cyclesep.evaluation.worker import Item, Separation, failed, score, told

# An item that loses this many processes of its own, or this many nodes, is given up.
_MAX_PROCESSES, _MAX_NODES = 3, 20
# Tasks that wait for a CPU, so that none of them waits for the driver.
_TASKS_PER_CPU = 2
# Of the object store; the rest is for what other jobs put there.
_STORE_SHARE = 0.5
# How often to look at the cluster while nothing is done.
_LOOK_SECONDS = 5.0
# The node was lost on which a task ran, or on which the estimates lay that it was to score.
_NODE_LOST = (exceptions.NodeDiedError, exceptions.ObjectLostError, exceptions.OwnerDiedError)


@dataclass(frozen=True, kw_only=True)
class _Scoring:
    """One item that a task is at, or is to be."""

    item: Item
    separation: Separation | None = None
    estimates: Any = None
    """Reference; None for what is made where it is scored."""


class Schedule:
    """Runs items until each has an outcome.

    Backpressure: an actor has at most two tracks, one of them being read; as many tracks are separated and not yet
    scored as there are processes, and no more than half of the object store holds. Estimates go from actor to task
    through that store, not through here. Without a pool, a task separates its track and scores it at once.

    `task` is what a task does; `cluster` the one whose size decides how much is under way, by default this one.
    """

    def __init__(
        self,
        config: EvaluateConfig,
        items: Sequence[Item],
        *,
        task: Callable[..., TrackResult] = score,
        cluster: Cluster | None = None,
    ) -> None:
        self._cluster = cluster or Cluster()
        refuse_impossible(config, self._cluster.capacity)
        self._scoring_bytes = config.scorer_memory_gb * 1e9
        separator = next((item.system for item in items if isinstance(item.system, Separator)), None)
        if separator is not None:
            tell_if_on_cpus(config, self._cluster.capacity)
        self._pool: SeparatorPool | None = None
        if separator is not None and (config.num_separation_actors or uses_gpu(config, self._cluster.capacity)):
            self._pool = SeparatorPool(config, separator, self._cluster)
        self._to_separate = deque(item for item in items if self._by_actor(item))
        self._to_score = deque(_Scoring(item=item) for item in items if not self._by_actor(item))
        self._separating: dict[Any, Separating] = {}
        self._scoring: dict[Any, _Scoring] = {}
        self._lost_processes: Counter[str] = Counter()
        self._lost_nodes: Counter[str] = Counter()
        self._largest_estimates = 0
        self._task = ray.remote(max_retries=0)(task)

    def run(self, finished: Callable[[Item, TrackResult], None]) -> None:
        """Call `finished` for each item as soon as it has its outcome."""
        try:
            while waited_for := self._fill():
                ready, _ = ray.wait(waited_for, num_returns=1, timeout=_LOOK_SECONDS, fetch_local=False)
                for reference in ready:
                    self._ready(reference, finished)
                if self._pool:
                    self._pool.check_gpu_timeout(needed=bool(self._to_separate))
        finally:
            for reference in self._scoring:
                ray.cancel(reference, force=True)
            if self._pool is not None:
                self._pool.close()

    def _by_actor(self, item: Item) -> bool:
        return self._pool is not None and isinstance(item.system, Separator)

    def _ready(self, reference: Any, finished: Callable[[Item, TrackResult], None]) -> None:
        if reference in self._separating:
            item, outcome = self._separated(reference)
        elif reference in self._scoring:
            item, outcome = self._scored(reference)
        else:
            assert self._pool is not None
            self._pool.started(reference)
            return
        if outcome is not None:
            finished(item, outcome)

    def _fill(self) -> list[Any]:
        """Start what may be started; the references of all that is under way."""
        if self._pool:
            self._pool.grow(len(self._to_separate))
        while self._pool and self._to_separate and self._may_separate(self._pool):
            item = self._to_separate[0]
            work = self._pool.separate(item, alone=self._lost_processes[item.part.name] > 0)
            if work is None:
                break
            self._separating[work.told] = work
            self._to_separate.popleft()
        if self._pool and not self._to_separate:
            self._pool.dismiss_idle()
        while self._to_score and len(self._scoring) < _TASKS_PER_CPU * self._cluster.capacity.cpus:
            scoring = self._to_score.popleft()
            num_cpus = SCORER_CPUS if self._pool else 1
            task = self._task.options(num_cpus=num_cpus, memory=self._reserved(scoring.item))
            self._scoring[task.remote(scoring.item, scoring.separation, scoring.estimates)] = scoring
        return [*self._scoring, *self._separating, *(self._pool.starting if self._pool else ())]

    def _may_separate(self, pool: SeparatorPool) -> bool:
        """Whether the scorers keep up."""
        waiting = [work for work in (*self._to_score, *self._scoring.values()) if work.estimates is not None]
        count, capacity = len(waiting) + len(self._separating), self._cluster.capacity
        fits = (count + 1) * self._largest_estimates <= _STORE_SHARE * capacity.object_store
        return count < pool.size + capacity.cpus and (fits or count == 0)

    def _reserved(self, item: Item) -> float | None:
        """Bytes to set aside: twice as many after each process that was lost, and no more than any node has."""
        most = self._cluster.capacity.node_memory
        return min(self._scoring_bytes * 2 ** self._lost_processes[item.part.name], most) if most else None

    def _separated(self, reference: Any) -> tuple[Item, TrackResult | None]:
        """An actor has made its estimates, which go to be scored, or has told why not, or was lost."""
        work = self._separating.pop(reference)
        assert self._pool is not None
        try:
            separation: Separation = ray.get(reference)
        except exceptions.RayError as problem:
            # What else it owed is lost as well; each such track goes on alone, and shows whether it was the reason.
            self._pool.lost(work)
            return work.item, self._again(_Scoring(item=work.item), problem, self._lost_processes, _MAX_PROCESSES)
        self._pool.done(work)
        if separation.reason:
            return work.item, failed(work.item, separation.reason)
        self._largest_estimates = max(self._largest_estimates, separation.num_bytes)
        # Before all else: it takes memory while it waits.
        self._to_score.appendleft(_Scoring(item=work.item, separation=separation, estimates=work.estimates))
        return work.item, None

    def _scored(self, reference: Any) -> tuple[Item, TrackResult | None]:
        """A task has an outcome, or it was lost, or the estimates were that it needed."""
        work = self._scoring.pop(reference)
        try:
            return work.item, ray.get(reference)
        except exceptions.RayTaskError as problem:
            if isinstance(problem.cause, _NODE_LOST):
                return work.item, self._again(replace(work, estimates=None), problem, self._lost_nodes, _MAX_NODES)
            # `score` raises nothing of its own: the task could not even be unpacked.
            return work.item, failed(work.item, told(problem.cause))
        except exceptions.NodeDiedError as problem:
            return work.item, self._again(work, problem, self._lost_nodes, _MAX_NODES)
        except exceptions.RayError as problem:
            return work.item, self._again(work, problem, self._lost_processes, _MAX_PROCESSES)

    def _again(self, work: _Scoring, problem: Exception, lost: Counter[str], limit: int) -> TrackResult | None:
        """Put an item back that has lost a process or a node, or give it up if that was once too often."""
        lost[work.item.part.name] += 1
        if lost[work.item.part.name] == limit:
            return failed(work.item, f"its process was lost {limit} times ({told(problem)[:300]})")
        if self._by_actor(work.item) and work.estimates is None:
            self._to_separate.append(work.item)
        else:
            self._to_score.append(work)
        return None
