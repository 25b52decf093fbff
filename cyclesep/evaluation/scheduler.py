"""Scheduling of an evaluation's tasks on Ray: actors separate, Ray tasks score, lost processes are replaced.

Plain actors and tasks rather than Ray Data, because tasks are long and can fail: a lost process costs only its own
track, a track that repeatedly loses its process fails with a reason, and estimates accumulate in the object store only
as far as the scorers keep up.
"""

from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import ray
from ray import exceptions

from cyclesep.evaluation.actor_pool import SCORER_CPUS, SeparationJob, SeparatorPool
from cyclesep.evaluation.cluster_resources import Cluster, check_resources, uses_gpu, warn_if_no_gpu
from cyclesep.evaluation.config import EvaluateConfig
from cyclesep.evaluation.systems import SeparatorSystem
from cyclesep.evaluation.tasks import EvaluationTask
from cyclesep.evaluation.track_scores import TrackResult
from cyclesep.evaluation.worker import SeparationStats, error_message, score

# A task fails after losing this many of its processes, or this many nodes.
_MAX_LOST_PROCESSES, _MAX_LOST_NODES = 3, 20
# Submitted Ray tasks per CPU: a second one is queued so that no CPU waits for the driver.
_TASKS_PER_CPU = 2
# Usable fraction of the object store; the rest is left to other jobs.
_STORE_FRACTION = 0.5
# Interval for checking the cluster while no task finishes.
_POLL_SECONDS = 5.0
# The node of a task was lost, or the node that stored the estimates it needed.
_NODE_LOST = (exceptions.NodeDiedError, exceptions.ObjectLostError, exceptions.OwnerDiedError)


@dataclass(frozen=True, kw_only=True)
class _ScoringJob:
    """A task whose scoring is queued or running."""

    task: EvaluationTask
    stats: SeparationStats | None = None
    estimates: Any = None
    """Object reference; None if the scoring process makes the estimates."""


class Scheduler:
    """Runs tasks until each has a result.

    Backpressure: an actor has at most two tracks, one of them being read. The number of tracks that are separated and
    not yet scored is at most the number of processes, and they use at most half of the object store. Estimates pass
    from actor to scorer through the object store, not through the driver. Without actors, a scorer separates its track.

    `score_function` is what a Ray task runs; the size of `cluster` determines how many tasks run at a time. Both are
    replaced in tests and benchmarks.
    """

    def __init__(
        self,
        config: EvaluateConfig,
        tasks: Sequence[EvaluationTask],
        *,
        score_function: Callable[..., TrackResult] = score,
        cluster: Cluster | None = None,
    ) -> None:
        self._cluster = cluster or Cluster()
        check_resources(config, self._cluster.capacity)
        self._scorer_bytes = config.scorer_memory_gb * 1e9
        separator = next((task.system for task in tasks if isinstance(task.system, SeparatorSystem)), None)
        if separator is not None:
            warn_if_no_gpu(config, self._cluster.capacity)
        self._pool: SeparatorPool | None = None
        if separator is not None and (config.num_separation_actors or uses_gpu(config, self._cluster.capacity)):
            self._pool = SeparatorPool(config, separator, self._cluster)
        self._to_separate = deque(task for task in tasks if self._needs_actor(task))
        self._to_score = deque(_ScoringJob(task=task) for task in tasks if not self._needs_actor(task))
        self._separating: dict[Any, SeparationJob] = {}
        self._scoring: dict[Any, _ScoringJob] = {}
        self._lost_processes: Counter[str] = Counter()
        self._lost_nodes: Counter[str] = Counter()
        self._largest_estimates = 0
        self._score = ray.remote(max_retries=0)(score_function)

    def run(self, on_result: Callable[[EvaluationTask, TrackResult], None]) -> None:
        """Run all tasks, and call `on_result` with each result as soon as it is available."""
        try:
            while references := self._submit():
                ready, _ = ray.wait(references, num_returns=1, timeout=_POLL_SECONDS, fetch_local=False)
                for reference in ready:
                    self._handle(reference, on_result)
                if self._pool:
                    self._pool.check_gpu_timeout(needed=bool(self._to_separate))
        finally:
            for reference in self._scoring:
                ray.cancel(reference, force=True)
            if self._pool is not None:
                self._pool.close()

    def _needs_actor(self, task: EvaluationTask) -> bool:
        return self._pool is not None and isinstance(task.system, SeparatorSystem)

    def _handle(self, reference: Any, on_result: Callable[[EvaluationTask, TrackResult], None]) -> None:
        """Process a reference that is ready."""
        if reference in self._separating:
            task, result = self._handle_separated(reference)
        elif reference in self._scoring:
            task, result = self._handle_scored(reference)
        else:
            assert self._pool is not None
            self._pool.handle_started(reference)
            return
        if result is not None:
            on_result(task, result)

    def _submit(self) -> list[Any]:
        """Submit as much work as allowed, and return the references of all submitted work."""
        if self._pool:
            self._submit_separation(self._pool)
        while self._to_score and len(self._scoring) < _TASKS_PER_CPU * self._cluster.capacity.cpus:
            job = self._to_score.popleft()
            num_cpus = SCORER_CPUS if self._pool else 1
            remote = self._score.options(num_cpus=num_cpus, memory=self._memory(job.task))
            self._scoring[remote.remote(job.task, job.stats, job.estimates)] = job
        return [*self._scoring, *self._separating, *(self._pool.starting if self._pool else ())]

    def _submit_separation(self, pool: SeparatorPool) -> None:
        pool.grow(len(self._to_separate))
        while self._to_separate and self._can_separate(pool):
            task = self._to_separate[0]
            job = pool.separate(task, exclusive=self._lost_processes[task.key.name] > 0)
            if job is None:
                break
            self._separating[job.stats] = job
            self._to_separate.popleft()
        if not self._to_separate:
            pool.stop_idle()

    def _can_separate(self, pool: SeparatorPool) -> bool:
        """Return whether the scorers keep up with the separators."""
        unscored = [job for job in (*self._to_score, *self._scoring.values()) if job.estimates is not None]
        count, capacity = len(unscored) + len(self._separating), self._cluster.capacity
        fits = (count + 1) * self._largest_estimates <= _STORE_FRACTION * capacity.object_store
        return count < pool.size + capacity.cpus and (fits or count == 0)

    def _memory(self, task: EvaluationTask) -> float | None:
        """Return the bytes to reserve: doubled after each lost process, at most what a node has."""
        limit = self._cluster.capacity.node_memory
        return min(self._scorer_bytes * 2 ** self._lost_processes[task.key.name], limit) if limit else None

    def _handle_separated(self, reference: Any) -> tuple[EvaluationTask, TrackResult | None]:
        """Queue estimates for scoring; returns a result only if the task failed."""
        job = self._separating.pop(reference)
        assert self._pool is not None
        try:
            stats: SeparationStats = ray.get(reference)
        except exceptions.RayError as problem:
            # All pending tracks of this actor are lost. Each is retried exclusively, which shows if it is the cause.
            self._pool.handle_lost(job)
            retry = _ScoringJob(task=job.task)
            return job.task, self._retry(retry, problem, self._lost_processes, _MAX_LOST_PROCESSES)
        self._pool.handle_done(job)
        if stats.reason:
            return job.task, job.task.failure(stats.reason)
        self._largest_estimates = max(self._largest_estimates, stats.num_bytes)
        # First in the queue, because its estimates occupy memory.
        self._to_score.appendleft(_ScoringJob(task=job.task, stats=stats, estimates=job.estimates))
        return job.task, None

    def _handle_scored(self, reference: Any) -> tuple[EvaluationTask, TrackResult | None]:
        """Return the result of a task, or None if it was lost and is retried."""
        job = self._scoring.pop(reference)
        try:
            return job.task, ray.get(reference)
        except exceptions.RayError as problem:
            cause = problem.cause if isinstance(problem, exceptions.RayTaskError) else problem
            if isinstance(cause, _NODE_LOST):
                # The estimates may have been on that node.
                without_estimates = replace(job, estimates=None)
                return job.task, self._retry(without_estimates, cause, self._lost_nodes, _MAX_LOST_NODES)
            if isinstance(problem, exceptions.RayTaskError):
                # `score` catches all exceptions: the task's arguments could not be unpickled.
                return job.task, job.task.failure(error_message(cause))
            return job.task, self._retry(job, problem, self._lost_processes, _MAX_LOST_PROCESSES)

    def _retry(self, job: _ScoringJob, problem: Exception, lost: Counter[str], limit: int) -> TrackResult | None:
        """Queue a task again after it lost its process or node; returns a failed result at the limit."""
        name = job.task.key.name
        lost[name] += 1
        if lost[name] == limit:
            return job.task.failure(f"its process was lost {limit} times ({error_message(problem)[:300]})")
        if self._needs_actor(job.task) and job.estimates is None:
            self._to_separate.append(job.task)
        else:
            self._to_score.append(job)
        return None
