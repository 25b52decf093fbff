"""How an evaluation uses its cluster: bounds on what waits, memory that runs out, and whom a lost process is put on."""

import logging
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
import torch
from ray import cloudpickle
from ray._private import internal_api
from torch import Tensor, nn
from typing_extensions import override

from cyclesep import checkpoints
from cyclesep.audio.audio_io import Waveform
from cyclesep.data.shards.manifest import MIXTURE
from cyclesep.errors import ClusterError, ConfigError
from cyclesep.evaluation import actor_pool, scheduler
from cyclesep.evaluation.actor_pool import SeparatorPool
from cyclesep.evaluation.cluster_resources import Capacity, Cluster, warn_if_no_gpu
from cyclesep.evaluation.config import EvaluateConfig
from cyclesep.evaluation.results import ResultKey, Results
from cyclesep.evaluation.scheduler import Scheduler
from cyclesep.evaluation.systems import MixtureBaseline, SeparatorSystem, System
from cyclesep.evaluation.tasks import EvaluationTask
from cyclesep.evaluation.track_scores import TrackResult
from cyclesep.evaluation.worker import Pcm16Estimates, SeparationActor, SeparationStats
from cyclesep.inference.chunked_inference import SeparationConfig
from cyclesep.storage.path import StoragePath
from tests.support.tiny_evaluation import WINDOWS, save_separator

# Ray's workers cannot import this file, and its tracks go there.
cloudpickle.register_pickle_by_value(sys.modules[__name__])

RATE = 8000


@dataclass(frozen=True, kw_only=True)
class Song:
    """Noise that is read at once by a separator and slowly by a scorer."""

    track_id: str
    seconds: float
    scorer_waits: float = 0.0
    split: str = "test"

    def digest(self) -> str:
        return self.track_id

    def mixture(self) -> Waveform:
        return self._stems()[MIXTURE]

    def read(self) -> dict[str, Waveform]:
        time.sleep(self.scorer_waits)
        return self._stems()

    def _stems(self) -> dict[str, Waveform]:
        samples = np.random.default_rng(0).normal(0, 0.1, (2, 1, round(self.seconds * RATE))).astype(np.float32)
        stems = {"vocals": samples[0], "drums": samples[1], MIXTURE: samples[0] + samples[1]}
        return {name: Waveform(samples=stem, sample_rate=RATE) for name, stem in stems.items()}


@pytest.fixture(scope="module")
def separator(tmp_path_factory: pytest.TempPathFactory) -> SeparatorSystem:
    folder = save_separator(tmp_path_factory.mktemp("checkpoint"))
    return SeparatorSystem(name="separator", targets=("vocals",), checkpoint=folder, weights="w", separation=WINDOWS)


def items(system: System, songs: list[Song], output: Path) -> list[EvaluationTask]:
    return [
        EvaluationTask(
            system=system,
            track=song,
            key=ResultKey.of(system.name, song.track_id, []),
            results=Results(folder=StoragePath.of(output)),
            frame_seconds=1.0,
            save_estimates=False,
        )
        for song in songs
    ]


@contextmanager
def watched_store() -> Iterator[list[int]]:
    """The bytes in this node's object store, looked at every few milliseconds."""
    (node,) = ray.nodes()
    seen: list[int] = []
    over = threading.Event()

    def look() -> None:
        while not over.wait(0.01):
            told = internal_api.node_stats(node["NodeManagerAddress"], node["NodeManagerPort"], False)
            seen.append(int(told.store_stats.object_store_bytes_used))

    watcher = threading.Thread(target=look)
    watcher.start()
    try:
        yield seen
    finally:
        over.set()
        watcher.join()


@pytest.mark.usefixtures("ray_cluster")
def test_separated_tracks_wait_in_the_object_store_only_up_to_the_bound(
    separator: SeparatorSystem, tmp_path: Path
) -> None:
    songs = [Song(track_id=f"song {n}", seconds=60.0, scorer_waits=1.0) for n in range(12)]
    # Vocals and accompaniment in 16 bits.
    each = 2 * 60 * RATE * 2
    outcomes: list[TrackResult] = []
    config = EvaluateConfig(num_separation_actors=1, separation=WINDOWS)
    with watched_store() as seen:
        before = seen[-1] if seen else 0
        Scheduler(config, items(separator, songs, tmp_path)).run(lambda _, outcome: outcomes.append(outcome))
    assert [outcome.reason for outcome in outcomes] == [""] * 12
    # One separator and two CPUs that score: three tracks. Ray frees what is no longer needed once a second, by when two
    # more may be done.
    assert each < max(seen) - before < 6 * each


@pytest.mark.usefixtures("ray_cluster")
def test_of_many_items_few_are_handed_to_ray_at_a_time(tmp_path: Path) -> None:
    most = 0

    class Watched(Scheduler):
        def _submit(self) -> list[Any]:
            nonlocal most
            under_way = super()._submit()
            most = max(most, len(self._scoring) + len(self._separating))
            return under_way

    done: list[str] = []
    mixture = MixtureBaseline(name="mixture", targets=("vocals",))
    songs = [Song(track_id=f"song {n:03}", seconds=1.0) for n in range(60)]
    Watched(EvaluateConfig(), items(mixture, songs, tmp_path)).run(lambda item, _: done.append(item.track.track_id))
    assert sorted(done) == [song.track_id for song in songs]
    assert most == 4


class Crowded(nn.Module):
    """Gives its input as the only target, for at most `room` windows at a time."""

    def __init__(self, room: int) -> None:
        super().__init__()
        self.room = room
        self.batches: list[int] = []

    def forward(self, mixture: Tensor) -> Tensor:
        self.batches.append(len(mixture))
        if len(mixture) > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return mixture[:, None]


def actor_of(module: nn.Module, monkeypatch: pytest.MonkeyPatch) -> SeparationActor:
    loaded = checkpoints.LoadedSeparator(
        module=module, targets=("vocals",), sample_rate=RATE, channels=1, digest="", path=Path(), place=""
    )
    monkeypatch.setattr(checkpoints, "load_separator", lambda *_: loaded)
    return SeparationActor("somewhere", WINDOWS, "cpu")


def test_an_actor_without_enough_gpu_memory_halves_its_batches_and_goes_on(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    module = Crowded(room=1)
    song = Song(track_id="song", seconds=9.0)
    with caplog.at_level(logging.WARNING):
        separation, estimates = actor_of(module, monkeypatch).separate(song)
    assert separation.reason == ""
    assert estimates is not None
    expected = Pcm16Estimates.of({"vocals": song.mixture()}).stems["vocals"][0]
    assert np.array_equal(estimates.stems["vocals"][0], expected)
    assert module.batches[:4] == [4, 2, 1, 1]
    assert "going on with batch_size=1" in caplog.text


def test_a_track_of_which_not_one_window_fits_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    separation, estimates = actor_of(Crowded(room=0), monkeypatch).separate(Song(track_id="song", seconds=9.0))
    assert "not even one window fits into GPU memory" in separation.reason
    assert estimates is None


def test_a_gpu_that_no_longer_answers_is_no_fault_of_the_track(monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken(nn.Module):
        def forward(self, _: Tensor) -> Tensor:
            raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")

    with pytest.raises(torch.AcceleratorError):
        actor_of(Broken(), monkeypatch).separate(Song(track_id="song", seconds=2.0))


class FakeActor:
    """Takes calls, and keeps the tracks in order."""

    def __init__(self) -> None:
        self.calls: list[Any] = []
        self.load = FakeMethod(object)
        self.separate = FakeMethod(lambda: (object(), object()), self.calls)


@dataclass
class FakeMethod:
    """Gives references that are none, and keeps what it is called with."""

    gives: Callable[[], Any]
    calls: list[Any] = field(default_factory=list)

    def options(self, **_: object) -> "FakeMethod":
        return self

    def remote(self, *given: Any) -> Any:
        self.calls += given
        return self.gives()


@dataclass
class ToldCluster(Cluster):
    """A cluster that has what a test says."""

    gpus: int = 0
    cpus: int = 4

    @property
    @override
    def capacity(self) -> Capacity:
        return Capacity(cpus=self.cpus, gpus=self.gpus, node_memory=0, object_store=10**9)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The GPUs that pools ask for, for each of their actors, which are none."""
    asked: list[float] = []

    def started(pool: SeparatorPool) -> FakeActor:
        asked.append(pool._gpus_per_actor)
        return FakeActor()

    monkeypatch.setattr(SeparatorPool, "_start_actor", started)
    monkeypatch.setattr(ray, "kill", lambda _: None)
    monkeypatch.setattr(ray, "get", lambda _: None)
    return asked


def start_all(pool: SeparatorPool) -> None:
    for loaded in pool.starting:
        pool.handle_started(loaded)


def start_again(pool: SeparatorPool, times: int) -> None:
    """Let actors start so often, and ask for new ones once more."""
    for _ in range(times):
        pool.grow(9)
        start_all(pool)
    pool.grow(9)


@pytest.fixture
def pool(separator: SeparatorSystem, asked: list[float]) -> SeparatorPool:  # noqa: ARG001
    """Two actors that are none, and have started."""
    pool = SeparatorPool(EvaluateConfig(num_separation_actors=2), separator, ToldCluster())
    pool.grow(6)
    start_all(pool)
    return pool


def on_gpus(device: str = "auto", **changes: Any) -> EvaluateConfig:
    return EvaluateConfig(separation=SeparationConfig(device=device), **changes)


@pytest.mark.parametrize(
    ("gpus", "config", "shares"),
    [
        (3, on_gpus(), [1.0] * 3),
        (1, on_gpus(num_separation_actors=4), [0.25] * 4),
        (2, on_gpus(num_separation_actors=3), [0.5] * 3),
        (2, on_gpus(gpus_per_actor=0.5), [0.5] * 4),
        (2, on_gpus(gpus_per_actor=0.3), [0.3] * 6),
        (1, on_gpus(gpus_per_actor=2), [2.0]),
        # So that a cluster which grows on demand has a demand to grow on.
        (1, on_gpus(num_separation_actors=4, scale_up_timeout_minutes=20), [1.0] * 4),
        (0, on_gpus("cuda", num_separation_actors=4, scale_up_timeout_minutes=20), [1.0] * 4),
        (0, on_gpus("cuda", scale_up_timeout_minutes=20), [1.0]),
        (3, on_gpus("cpu", num_separation_actors=2), [0.0] * 2),
        (0, on_gpus(num_separation_actors=2, scale_up_timeout_minutes=20), [0.0] * 2),
    ],
)
def test_how_many_processes_ask_for_which_share_of_a_gpu(
    separator: SeparatorSystem, asked: list[float], gpus: int, config: EvaluateConfig, shares: list[float]
) -> None:
    SeparatorPool(config, separator, ToldCluster(gpus=gpus)).grow(10)
    assert asked == shares


def test_processes_follow_a_cluster_that_grows_and_ask_for_as_much_after_its_last_gpu_has_gone(
    separator: SeparatorSystem, asked: list[float]
) -> None:
    cluster = ToldCluster(gpus=1)
    pool = SeparatorPool(on_gpus(), separator, cluster)
    entries = items(separator, [Song(track_id=str(n), seconds=1.0) for n in range(6)], Path("/nowhere"))
    pool.grow(6)
    assert pool.separate(entries[0], exclusive=False) is None
    start_all(pool)
    works = [pool.separate(entry, exclusive=False) for entry in entries]
    assert sum(work is not None for work in works) == 2
    cluster.gpus = 2
    pool.grow(4)
    assert len(pool.starting) == 1
    start_all(pool)
    cluster.gpus = 0
    assert works[0] is not None
    pool.handle_lost(works[0])
    pool.stop_idle()
    pool.grow(4)
    assert (len(pool.starting), asked) == (1, [1.0] * 3)


def test_no_more_processes_are_started_than_tracks_wait(separator: SeparatorSystem, asked: list[float]) -> None:
    pool = SeparatorPool(on_gpus(), separator, ToldCluster(gpus=8))
    for num_waiting in (2, 2, 3, 0):
        pool.grow(num_waiting)
    assert len(asked) == 3


def test_a_cluster_that_has_lost_its_gpus_is_waited_for_and_told_and_then_given_up(
    separator: SeparatorSystem, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    now = 1000.0
    monkeypatch.setattr(actor_pool.time, "monotonic", lambda: now)
    cluster = ToldCluster(gpus=1)
    pool = SeparatorPool(on_gpus(scale_up_timeout_minutes=2), separator, cluster)
    for gpus, seconds, needed in (
        (1, 500.0, True), (0, 60.0, True), (0, 59.0, True), (1, 10.0, True), (0, 500.0, False), (0, 100.0, True)
    ):  # fmt: skip
        cluster.gpus = gpus
        now += seconds
        pool.check_gpu_timeout(needed=needed)
    assert caplog.messages == ["the cluster has no GPU; waiting 120 s for one"] * 2
    now += 21.0
    with pytest.raises(ClusterError, match=r"no GPU for 120 s; what is done is kept: run the same command again"):
        pool.check_gpu_timeout(needed=True)


@pytest.mark.parametrize(
    ("address", "device", "gpus", "is_told"),
    [
        ("head:6379", "auto", 0, True),
        ("head:6379", "auto", 1, False),
        ("head:6379", "cpu", 0, False),
        ("", "auto", 0, False),
    ],
)
def test_a_cluster_without_a_gpu_is_told_unless_cpus_are_meant(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    address: str,
    device: str,
    gpus: int,
    is_told: bool,
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", address)
    warn_if_no_gpu(on_gpus(device), ToldCluster(gpus=gpus).capacity)
    assert [message[:30] for message in caplog.messages] == ["the cluster has no GPU now, so"] * is_told


def test_processes_that_do_not_start_are_replaced_twice_and_then_told(
    separator: SeparatorSystem, asked: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    reason = ConfigError("device: cuda was asked for, but torch finds no GPU here")

    def fail(_: object) -> None:
        raise ray.exceptions.RayTaskError("load", "", reason)

    monkeypatch.setattr(ray, "get", fail)
    pool = SeparatorPool(on_gpus(), separator, ToldCluster(gpus=1))
    start_again(pool, 2)
    with pytest.raises(ConfigError, match="torch finds no GPU here"):
        start_all(pool)
    assert len(asked) == 3


def fail_where(answers: Sequence[bool], monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the next starts fail, or not."""
    left = iter(answers)

    def get(_: object) -> None:
        if next(left):
            raise ray.exceptions.NodeDiedError("its node went")

    monkeypatch.setattr(ray, "get", get)


def test_a_process_that_starts_makes_up_for_those_that_did_not(
    separator: SeparatorSystem, asked: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    fail_where([True, True, False, True, True, True], monkeypatch)
    pool = SeparatorPool(on_gpus(), separator, ToldCluster(gpus=1))
    start_again(pool, 3)
    pool.stop_idle()
    start_again(pool, 2)
    with pytest.raises(ClusterError, match="processes that separate do not start .*its node went"):
        start_all(pool)
    assert len(asked) == 6


def test_a_place_in_which_none_starts_is_given_up_while_others_work(
    separator: SeparatorSystem, asked: list[float], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    fail_where([False, True, True, True], monkeypatch)
    pool = SeparatorPool(on_gpus(), separator, ToldCluster(gpus=2))
    start_again(pool, 5)
    assert (len(asked), pool.size) == (4, 1)
    (told,) = caplog.messages
    assert told.startswith("one process less separates: it does not start (NodeDiedError:")


def test_processes_for_which_there_is_no_room_are_told_once(
    separator: SeparatorSystem,
    asked: list[float],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    now = 1000.0
    monkeypatch.setattr(actor_pool.time, "monotonic", lambda: now)
    pool = SeparatorPool(on_gpus(), separator, ToldCluster(gpus=1))
    pool.grow(3)
    for _ in range(5):
        now += 30.0
        pool.check_gpu_timeout(needed=True)
    assert caplog.messages == ["no separator has started for 60 s; other jobs may hold the GPUs"]
    start_all(pool)
    now += 300.0
    pool.check_gpu_timeout(needed=True)
    assert (len(caplog.messages), len(asked)) == (1, 1)


def test_an_actor_has_one_track_to_separate_and_one_to_read(pool: SeparatorPool, separator: SeparatorSystem) -> None:
    entries = items(separator, [Song(track_id=str(n), seconds=1.0) for n in range(6)], Path("/nowhere"))
    work = [pool.separate(entry, exclusive=False) for entry in entries]
    handed = [one.actor for one in work if one is not None]
    assert len(handed) == 4
    assert work[4:] == [None, None]
    assert [handed.count(actor) for actor in dict.fromkeys(handed)] == [2, 2]
    assert work[0] is not None
    pool.handle_done(work[0])
    assert pool.separate(entries[4], exclusive=False) is not None


def test_a_suspect_is_separated_alone(pool: SeparatorPool, separator: SeparatorSystem) -> None:
    entries = items(separator, [Song(track_id=str(n), seconds=1.0) for n in range(6)], Path("/nowhere"))
    suspect = pool.separate(entries[0], exclusive=True)
    beside = [pool.separate(entry, exclusive=False) for entry in entries[1:4]]
    assert suspect is not None
    assert suspect.actor not in [one.actor for one in beside if one is not None]
    assert sum(one is not None for one in beside) == 2
    # And a second one has to wait until an actor has nothing else.
    assert pool.separate(entries[4], exclusive=True) is None
    pool.handle_done(suspect)
    assert pool.separate(entries[4], exclusive=True) is not None


class Unlucky(Scheduler):
    """A schedule whose processes are lost as a script says."""

    def __init__(self, config: EvaluateConfig, entries: list[EvaluationTask]) -> None:
        super().__init__(config, entries)
        self.reserved: list[float | None] = []

    def lose(self, item: EvaluationTask, problem: Exception) -> TrackResult | None:
        """What becomes of an item whose task is lost that way."""
        reference = object()
        self._scoring[reference] = scheduler._ScoringJob(task=item)
        ray_get = ray.get
        try:
            ray.get = lambda _: (_ for _ in ()).throw(problem)
            return self._handle_scored(reference)[1]
        finally:
            ray.get = ray_get

    def memory_of(self, item: EvaluationTask) -> float | None:
        return self._memory(item)


@pytest.fixture
def unlucky(monkeypatch: pytest.MonkeyPatch) -> tuple[Unlucky, EvaluationTask]:
    capacity = Capacity(cpus=2, gpus=0, node_memory=5 * 10**9, object_store=10**9)
    monkeypatch.setattr(Capacity, "now", lambda: capacity)
    (entry,) = items(
        MixtureBaseline(name="mixture", targets=()), [Song(track_id="song", seconds=1.0)], Path("/nowhere")
    )
    return Unlucky(EvaluateConfig(), [entry]), entry


def test_a_task_that_ran_out_of_memory_gets_twice_as_much_and_no_more_than_there_is(
    unlucky: tuple[Unlucky, EvaluationTask],
) -> None:
    plan, entry = unlucky
    reserved = [plan.memory_of(entry)]
    for _ in range(2):
        assert plan.lose(entry, ray.exceptions.OutOfMemoryError("killed")) is None
        reserved.append(plan.memory_of(entry))
    assert reserved == [2e9, 4e9, 5e9]
    outcome = plan.lose(entry, ray.exceptions.OutOfMemoryError("killed"))
    assert outcome is not None
    assert outcome.reason.startswith("its process was lost 3 times (OutOfMemoryError")


def test_lost_nodes_are_held_against_a_track_only_after_twenty(unlucky: tuple[Unlucky, EvaluationTask]) -> None:
    plan, entry = unlucky
    outcomes = [plan.lose(entry, ray.exceptions.NodeDiedError("gone")) for _ in range(20)]
    assert outcomes[:19] == [None] * 19
    assert outcomes[19] is not None
    assert plan.memory_of(entry) == 2e9


def test_estimates_that_went_with_their_node_are_made_again(
    separator: SeparatorSystem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    capacity = Capacity(cpus=2, gpus=0, node_memory=0, object_store=10**9)
    monkeypatch.setattr(Capacity, "now", lambda: capacity)
    (entry,) = items(separator, [Song(track_id="song", seconds=1.0)], tmp_path)
    plan = Unlucky(EvaluateConfig(num_separation_actors=1), [entry])
    plan._to_separate.clear()
    reference = object()
    plan._scoring[reference] = scheduler._ScoringJob(task=entry, stats=SeparationStats(), estimates="on a lost node")
    lost = ray.exceptions.RayTaskError("score", "", ray.exceptions.ObjectLostError("00", None, ""))

    def gone(_: object) -> None:
        raise lost

    monkeypatch.setattr(ray, "get", gone)
    assert plan._handle_scored(reference) == (entry, None)
    assert list(plan._to_separate) == [entry]
