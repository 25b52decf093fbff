"""When a run asks whether it is to save or to stop, and that a notice is heeded once; Ray's part is played here."""

from types import SimpleNamespace
from typing import Any

import pytest
import ray
import ray.train

from cyclesep.training import preemption
from cyclesep.training.preemption import PreemptionMonitor


class Cluster:
    """What Ray tells: nodes that will go, whether the bell has rung, and the time."""

    def __init__(self) -> None:
        self.leaving: list[str] = []
        self.has_rung = False
        self.seconds = 0.0
        self.bell = SimpleNamespace(excerpts=SimpleNamespace(remote=lambda: "the bell"))
        self.num_asked = 0
        self.is_bell_lost = False

    def preemption(self) -> Any:
        self.num_asked += 1
        return SimpleNamespace(preempted_node_ids=self.leaving) if self.leaving else None

    def wait(self, references: list[object], **_: object) -> tuple[list[object], list[object]]:
        return (references, []) if self.has_rung or self.is_bell_lost else ([], references)

    def get(self, _: object) -> None:
        if self.is_bell_lost:
            raise ray.exceptions.ActorDiedError


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Cluster:
    playing = Cluster()
    monkeypatch.setattr(ray, "wait", playing.wait)
    monkeypatch.setattr(ray, "get", playing.get)
    monkeypatch.setattr(ray.train, "get_preemption_info", playing.preemption)
    monkeypatch.setattr(ray.train.collective, "broadcast_from_rank_zero", lambda told: told)
    monkeypatch.setattr(preemption.time, "monotonic", lambda: playing.seconds)
    return playing


def asked_at(cluster: Cluster, asking: PreemptionMonitor, *, steps: range, step_seconds: float) -> list[int]:
    """The steps after which workers speak to each other."""
    found = []
    for step in steps:
        cluster.seconds += step_seconds
        before = cluster.num_asked
        assert asking.poll(step) is None
        found += [step] if cluster.num_asked > before else []
    return found


@pytest.mark.parametrize(
    ("step_seconds", "expected"),
    [(0.1, [1, 3, 7, 15, 25, 35]), (0.5, [1, 3, 5, 7, 9]), (3.0, [1, 2, 3, 4, 5])],
)
def test_workers_ask_each_other_about_once_a_second(cluster: Cluster, step_seconds: float, expected: list[int]) -> None:
    asking = PreemptionMonitor(cluster.bell, rank=0, step=0)
    steps = range(1, expected[-1] + 1)
    assert asked_at(cluster, asking, steps=steps, step_seconds=step_seconds) == expected


def test_each_node_that_will_go_leads_to_one_checkpoint(cluster: Cluster) -> None:
    asking = PreemptionMonitor(None, rank=1, step=100)
    told = []
    for step, leaving in ((101, []), (102, ["a"]), (103, ["a"]), (104, ["a", "b"]), (105, ["b"])):
        cluster.seconds += 2.0
        cluster.leaving = leaving
        told.append(asking.poll(step))
    assert told == [None, "save", None, "save", None]


def test_the_bell_stops_a_run_at_the_next_step_that_asks(cluster: Cluster) -> None:
    asking = PreemptionMonitor(cluster.bell, rank=0, step=7)
    assert asking.poll(8) is None
    cluster.has_rung = True
    cluster.leaving = ["a"]
    cluster.seconds += 2.0
    assert asking.poll(10) == "stop"


def test_a_bell_that_is_lost_with_its_node_stops_nothing(cluster: Cluster) -> None:
    asking = PreemptionMonitor(cluster.bell, rank=0, step=0)
    cluster.is_bell_lost = True
    assert [asking.poll(step) for step in (1, 2, 3)] == [None, None, None]
