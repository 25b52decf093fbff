"""When workers poll for preemption, and what they do, with a fake of Ray."""

from types import SimpleNamespace
from typing import Any

import pytest
import ray
import ray.train

from cyclesep.training import preemption
from cyclesep.training.preemption import PreemptionMonitor


class Cluster:
    """A fake of Ray: nodes that will be removed, the state of the stop signal, and the time."""

    def __init__(self) -> None:
        self.leaving: list[str] = []
        self.is_set = False
        self.seconds = 0.0
        self.stop_signal = SimpleNamespace(wait=SimpleNamespace(remote=lambda: "stop signal"))
        self.num_polls = 0
        self.is_lost = False

    def preemption(self) -> Any:
        self.num_polls += 1
        return SimpleNamespace(preempted_node_ids=self.leaving) if self.leaving else None

    def wait(self, references: list[object], **_: object) -> tuple[list[object], list[object]]:
        return (references, []) if self.is_set or self.is_lost else ([], references)

    def get(self, _: object) -> None:
        if self.is_lost:
            raise ray.exceptions.ActorDiedError


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Cluster:
    fake = Cluster()
    monkeypatch.setattr(ray, "wait", fake.wait)
    monkeypatch.setattr(ray, "get", fake.get)
    monkeypatch.setattr(ray.train, "get_preemption_info", fake.preemption)
    monkeypatch.setattr(ray.train.collective, "broadcast_from_rank_zero", lambda value: value)
    monkeypatch.setattr(preemption.time, "monotonic", lambda: fake.seconds)
    return fake


def poll_steps(cluster: Cluster, monitor: PreemptionMonitor, *, steps: range, step_seconds: float) -> list[int]:
    """Return the steps after which workers poll."""
    found = []
    for step in steps:
        cluster.seconds += step_seconds
        before = cluster.num_polls
        assert monitor.poll(step) is None
        found += [step] if cluster.num_polls > before else []
    return found


@pytest.mark.parametrize(
    ("step_seconds", "expected"),
    [(0.1, [1, 3, 7, 15, 25, 35]), (0.5, [1, 3, 5, 7, 9]), (3.0, [1, 2, 3, 4, 5])],
)
def test_workers_poll_about_once_a_second(cluster: Cluster, step_seconds: float, expected: list[int]) -> None:
    monitor = PreemptionMonitor(cluster.stop_signal, rank=0, step=0)
    steps = range(1, expected[-1] + 1)
    assert poll_steps(cluster, monitor, steps=steps, step_seconds=step_seconds) == expected


def test_each_node_to_be_removed_leads_to_one_checkpoint(cluster: Cluster) -> None:
    monitor = PreemptionMonitor(None, rank=1, step=100)
    actions = []
    for step, leaving in ((101, []), (102, ["a"]), (103, ["a"]), (104, ["a", "b"]), (105, ["b"])):
        cluster.seconds += 2.0
        cluster.leaving = leaving
        actions.append(monitor.poll(step))
    assert actions == [None, "save", None, "save", None]


def test_the_signal_stops_a_run_at_the_next_poll(cluster: Cluster) -> None:
    monitor = PreemptionMonitor(cluster.stop_signal, rank=0, step=7)
    assert monitor.poll(8) is None
    cluster.is_set = True
    cluster.leaving = ["a"]
    cluster.seconds += 2.0
    assert monitor.poll(10) == "stop"


def test_a_lost_signal_actor_does_not_stop_the_run(cluster: Cluster) -> None:
    monitor = PreemptionMonitor(cluster.stop_signal, rank=0, step=0)
    cluster.is_lost = True
    assert [monitor.poll(step) for step in (1, 2, 3)] == [None, None, None]
