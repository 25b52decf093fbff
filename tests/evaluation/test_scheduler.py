"""Scheduling of an evaluation: backpressure, actors that follow the cluster, lost processes and nodes."""

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
from torch import Tensor, nn
from typing_extensions import override

from cyclesep.audio.audio_io import Waveform
from cyclesep.audio.stem_names import MIXTURE
from cyclesep.checkpoints.loaded_separator import LoadedSeparator
from cyclesep.errors import ClusterError, ConfigError
from cyclesep.evaluation import actor_pool, scheduler, worker
from cyclesep.evaluation.actor_pool import SeparatorPool
from cyclesep.evaluation.cluster_resources import Capacity, Cluster, warn_if_no_gpu
from cyclesep.evaluation.config import EvaluateConfig
from cyclesep.evaluation.results import ResultKey, Results
from cyclesep.evaluation.scheduler import Scheduler
from cyclesep.evaluation.systems import MixtureBaseline, SeparatorSystem, System
from cyclesep.evaluation.tasks import EvaluationTask
from cyclesep.evaluation.track_scores import TrackResult
from cyclesep.evaluation.worker import Pcm16Estimates, SeparationActor, SeparationStats
from cyclesep.inference.config import SeparationConfig
from cyclesep.storage.path import StoragePath
from tests.support.tiny_evaluation import SHORT_SEGMENTS, save_separator

# Ray's workers cannot import this module, but receive its tracks.
cloudpickle.register_pickle_by_value(sys.modules[__name__])

RATE = 8000


@dataclass(frozen=True, kw_only=True)
class Song:
    """A track of noise; reading it is slow for a scorer, but not for a separator."""

    track_id: str
    seconds: float
    scorer_delay: float = 0.0
    split: str = "test"

    def digest(self) -> str:
        return self.track_id

    def mixture(self) -> Waveform:
        return self._stems()[MIXTURE]

    def read(self) -> dict[str, Waveform]:
        time.sleep(self.scorer_delay)
        return self._stems()

    def _stems(self) -> dict[str, Waveform]:
        samples = np.random.default_rng(0).normal(0, 0.1, (2, 1, round(self.seconds * RATE))).astype(np.float32)
        stems = {"vocals": samples[0], "drums": samples[1], MIXTURE: samples[0] + samples[1]}
        return {name: Waveform(samples=stem, sample_rate=RATE) for name, stem in stems.items()}


@pytest.fixture(scope="module")
def separator(tmp_path_factory: pytest.TempPathFactory) -> SeparatorSystem:
    folder = save_separator(tmp_path_factory.mktemp("checkpoint"))
    return SeparatorSystem(
        name="separator", targets=("vocals",), checkpoint=folder, weights="w", separation=SHORT_SEGMENTS
    )


def make_tasks(system: System, songs: list[Song], output: Path) -> list[EvaluationTask]:
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
def monitored_store() -> Iterator[list[int]]:
    """Record the bytes in use in the cluster's object store every few milliseconds."""
    total = ray.cluster_resources()["object_store_memory"]
    seen: list[int] = []
    stop = threading.Event()

    def poll() -> None:
        while not stop.wait(0.01):
            # A full store is missing from the available resources.
            seen.append(int(total - ray.available_resources().get("object_store_memory", 0)))

    thread = threading.Thread(target=poll)
    thread.start()
    try:
        yield seen
    finally:
        stop.set()
        thread.join()


@pytest.mark.usefixtures("ray_cluster")
def test_separated_tracks_in_the_object_store_are_bounded(separator: SeparatorSystem, tmp_path: Path) -> None:
    songs = [Song(track_id=f"song {n}", seconds=60.0, scorer_delay=1.0) for n in range(12)]
    # Vocals and accompaniment, 16 bits.
    bytes_per_song = 2 * 60 * RATE * 2
    results: list[TrackResult] = []
    config = EvaluateConfig(num_separation_actors=1, separation=SHORT_SEGMENTS)
    with monitored_store() as seen:
        before = seen[-1] if seen else 0
        Scheduler(config, make_tasks(separator, songs, tmp_path)).run(lambda _, result: results.append(result))
    assert [result.reason for result in results] == [""] * 12
    # One separator and two scorers: three tracks. Ray frees memory once a second, when two more tracks may be done.
    assert bytes_per_song < max(seen) - before < 6 * bytes_per_song


@pytest.mark.usefixtures("ray_cluster")
def test_the_number_of_submitted_tasks_is_bounded(tmp_path: Path) -> None:
    most = 0

    class Monitored(Scheduler):
        def _submit(self) -> list[Any]:
            nonlocal most
            references = super()._submit()
            most = max(most, len(self._scoring) + len(self._separating))
            return references

    done: list[str] = []
    mixture = MixtureBaseline(name="mixture", targets=("vocals",))
    songs = [Song(track_id=f"song {n:03}", seconds=1.0) for n in range(60)]
    Monitored(EvaluateConfig(), make_tasks(mixture, songs, tmp_path)).run(
        lambda task, _: done.append(task.track.track_id)
    )
    assert sorted(done) == [song.track_id for song in songs]
    assert most == 4


class LimitedMemory(nn.Module):
    """Returns its input as the only target; runs out of GPU memory above `max_batch` segments."""

    def __init__(self, max_batch: int) -> None:
        super().__init__()
        self.max_batch = max_batch
        self.batches: list[int] = []

    def forward(self, mixture: Tensor) -> Tensor:
        self.batches.append(len(mixture))
        if len(mixture) > self.max_batch:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return mixture[:, None]


def actor_of(module: nn.Module, monkeypatch: pytest.MonkeyPatch) -> SeparationActor:
    loaded = LoadedSeparator(
        module=module, targets=("vocals",), sample_rate=RATE, channels=1, digest="", path=Path(), uri=""
    )
    monkeypatch.setattr(worker, "load_separator", lambda *_: loaded)
    return SeparationActor("somewhere", SHORT_SEGMENTS, "cpu")


def test_an_actor_out_of_gpu_memory_halves_its_batch_size(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    module = LimitedMemory(max_batch=1)
    song = Song(track_id="song", seconds=9.0)
    with caplog.at_level(logging.WARNING):
        stats, estimates = actor_of(module, monkeypatch).separate(song)
    assert stats.reason == ""
    assert estimates is not None
    expected = Pcm16Estimates.of({"vocals": song.mixture()}).stems["vocals"][0]
    assert np.array_equal(estimates.stems["vocals"][0], expected)
    assert module.batches[:4] == [4, 2, 1, 1]
    assert "batch_size=1" in caplog.text


def test_a_track_fails_if_a_single_segment_does_not_fit_into_gpu_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    stats, estimates = actor_of(LimitedMemory(max_batch=0), monkeypatch).separate(Song(track_id="song", seconds=9.0))
    assert "GPU memory" in stats.reason
    assert estimates is None


def test_a_gpu_error_does_not_fail_the_track(monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken(nn.Module):
        def forward(self, _: Tensor) -> Tensor:
            raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")

    with pytest.raises(torch.AcceleratorError):
        actor_of(Broken(), monkeypatch).separate(Song(track_id="song", seconds=2.0))


class FakeActor:
    """Stands in for a Ray actor, and records its tracks in order."""

    def __init__(self) -> None:
        self.calls: list[Any] = []
        self.load = FakeMethod(object)
        self.separate = FakeMethod(lambda: (object(), object()), self.calls)


@dataclass
class FakeMethod:
    """Stands in for an actor's method: returns fake references, and records its arguments."""

    make_reference: Callable[[], Any]
    calls: list[Any] = field(default_factory=list)

    def options(self, **_: object) -> "FakeMethod":
        return self

    def remote(self, *arguments: Any) -> Any:
        self.calls += arguments
        return self.make_reference()


@dataclass
class FakeCluster(Cluster):
    """A cluster with the given resources."""

    gpus: int = 0
    cpus: int = 4

    @property
    @override
    def capacity(self) -> Capacity:
        return Capacity(cpus=self.cpus, gpus=self.gpus, node_memory=0, object_store=10**9)


@pytest.fixture
def requested_gpus(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Replace actors by fakes; the GPUs that each of them requests."""
    requested: list[float] = []

    def start(pool: SeparatorPool) -> FakeActor:
        requested.append(pool._gpus_per_actor)
        return FakeActor()

    monkeypatch.setattr(SeparatorPool, "_start_actor", start)
    monkeypatch.setattr(ray, "kill", lambda _: None)
    monkeypatch.setattr(ray, "get", lambda _: None)
    return requested


def start_all(pool: SeparatorPool) -> None:
    for loaded in pool.starting:
        pool.handle_started(loaded)


def restart(pool: SeparatorPool, times: int) -> None:
    """Start actors this many times, and request new ones once more."""
    for _ in range(times):
        pool.grow(9)
        start_all(pool)
    pool.grow(9)


@pytest.fixture
def pool(separator: SeparatorSystem, requested_gpus: list[float]) -> SeparatorPool:  # noqa: ARG001
    """Two fake actors that have started."""
    pool = SeparatorPool(EvaluateConfig(num_separation_actors=2), separator, FakeCluster())
    pool.grow(6)
    start_all(pool)
    return pool


def on_gpus(device: str = "auto", **changes: Any) -> EvaluateConfig:
    return EvaluateConfig(separation=SeparationConfig(device=device), **changes)


@pytest.mark.parametrize(
    ("gpus", "config", "gpus_per_actor"),
    [
        (3, on_gpus(), [1.0] * 3),
        (1, on_gpus(num_separation_actors=4), [0.25] * 4),
        (2, on_gpus(num_separation_actors=3), [0.5] * 3),
        (2, on_gpus(gpus_per_actor=0.5), [0.5] * 4),
        (2, on_gpus(gpus_per_actor=0.3), [0.3] * 6),
        (1, on_gpus(gpus_per_actor=2), [2.0]),
        # Whole GPUs, so that an autoscaling cluster scales up.
        (1, on_gpus(num_separation_actors=4, scale_up_timeout_minutes=20), [1.0] * 4),
        (0, on_gpus("cuda", num_separation_actors=4, scale_up_timeout_minutes=20), [1.0] * 4),
        (0, on_gpus("cuda", scale_up_timeout_minutes=20), [1.0]),
        (3, on_gpus("cpu", num_separation_actors=2), [0.0] * 2),
        (0, on_gpus(num_separation_actors=2, scale_up_timeout_minutes=20), [0.0] * 2),
    ],
)
def test_number_of_actors_and_gpus_per_actor(
    separator: SeparatorSystem,
    requested_gpus: list[float],
    gpus: int,
    config: EvaluateConfig,
    gpus_per_actor: list[float],
) -> None:
    SeparatorPool(config, separator, FakeCluster(gpus=gpus)).grow(10)
    assert requested_gpus == gpus_per_actor


def test_actors_follow_the_size_of_the_cluster(separator: SeparatorSystem, requested_gpus: list[float]) -> None:
    cluster = FakeCluster(gpus=1)
    pool = SeparatorPool(on_gpus(), separator, cluster)
    tasks = make_tasks(separator, [Song(track_id=str(n), seconds=1.0) for n in range(6)], Path("/nowhere"))
    pool.grow(6)
    assert pool.separate(tasks[0], exclusive=False) is None
    start_all(pool)
    jobs = [pool.separate(task, exclusive=False) for task in tasks]
    assert sum(job is not None for job in jobs) == 2
    cluster.gpus = 2
    pool.grow(4)
    assert len(pool.starting) == 1
    start_all(pool)
    cluster.gpus = 0
    assert jobs[0] is not None
    pool.handle_lost(jobs[0])
    pool.stop_idle()
    pool.grow(4)
    assert (len(pool.starting), requested_gpus) == (1, [1.0] * 3)


def test_no_more_actors_are_started_than_tracks_wait(separator: SeparatorSystem, requested_gpus: list[float]) -> None:
    pool = SeparatorPool(on_gpus(), separator, FakeCluster(gpus=8))
    for num_waiting in (2, 2, 3, 0):
        pool.grow(num_waiting)
    assert len(requested_gpus) == 3


def test_a_cluster_without_gpus_gives_a_warning_then_a_timeout(
    separator: SeparatorSystem, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    now = 1000.0
    monkeypatch.setattr(actor_pool.time, "monotonic", lambda: now)
    cluster = FakeCluster(gpus=1)
    pool = SeparatorPool(on_gpus(scale_up_timeout_minutes=2), separator, cluster)
    for gpus, seconds, needed in (
        (1, 500.0, True), (0, 60.0, True), (0, 59.0, True), (1, 10.0, True), (0, 500.0, False), (0, 100.0, True)
    ):  # fmt: skip
        cluster.gpus = gpus
        now += seconds
        pool.check_gpu_timeout(needed=needed)
    assert caplog.messages == ["the cluster has no GPU; waiting 120 s for one"] * 2
    now += 21.0
    with pytest.raises(ClusterError, match=r"no GPU for 120 s; finished results are saved: run the same command again"):
        pool.check_gpu_timeout(needed=True)


@pytest.mark.parametrize(
    ("address", "device", "gpus", "is_warned"),
    [
        ("head:6379", "auto", 0, True),
        ("head:6379", "auto", 1, False),
        ("head:6379", "cpu", 0, False),
        ("", "auto", 0, False),
    ],
)
def test_a_shared_cluster_without_a_gpu_gives_a_warning_unless_device_is_cpu(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    address: str,
    device: str,
    gpus: int,
    is_warned: bool,
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", address)
    warn_if_no_gpu(on_gpus(device), FakeCluster(gpus=gpus).capacity)
    assert [message[:30] for message in caplog.messages] == ["the cluster has no GPU now, so"] * is_warned


def test_an_actor_that_fails_to_start_three_times_raises_the_cause(
    separator: SeparatorSystem, requested_gpus: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    reason = ConfigError("device: cuda is not available")

    def fail(_: object) -> None:
        raise ray.exceptions.RayTaskError("load", "", reason)

    monkeypatch.setattr(ray, "get", fail)
    pool = SeparatorPool(on_gpus(), separator, FakeCluster(gpus=1))
    restart(pool, 2)
    with pytest.raises(ConfigError, match="cuda is not available"):
        start_all(pool)
    assert len(requested_gpus) == 3


def fail_starts(failures: Sequence[bool], monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the next starts fail where `failures` is true."""
    remaining = iter(failures)

    def get(_: object) -> None:
        if next(remaining):
            raise ray.exceptions.NodeDiedError("its node died")

    monkeypatch.setattr(ray, "get", get)


def test_a_successful_start_resets_the_count_of_failures(
    separator: SeparatorSystem, requested_gpus: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    fail_starts([True, True, False, True, True, True], monkeypatch)
    pool = SeparatorPool(on_gpus(), separator, FakeCluster(gpus=1))
    restart(pool, 3)
    pool.stop_idle()
    restart(pool, 2)
    with pytest.raises(ClusterError, match="separation processes do not start .*its node died"):
        start_all(pool)
    assert len(requested_gpus) == 6


def test_a_slot_with_failing_starts_is_given_up_while_others_work(
    separator: SeparatorSystem,
    requested_gpus: list[float],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    fail_starts([False, True, True, True], monkeypatch)
    pool = SeparatorPool(on_gpus(), separator, FakeCluster(gpus=2))
    restart(pool, 5)
    assert (len(requested_gpus), pool.size) == (4, 1)
    (warning,) = caplog.messages
    assert warning.startswith("a separation process does not start (NodeDiedError:")


def test_actors_that_are_not_scheduled_give_one_warning(
    separator: SeparatorSystem,
    requested_gpus: list[float],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    now = 1000.0
    monkeypatch.setattr(actor_pool.time, "monotonic", lambda: now)
    pool = SeparatorPool(on_gpus(), separator, FakeCluster(gpus=1))
    pool.grow(3)
    for _ in range(5):
        now += 30.0
        pool.check_gpu_timeout(needed=True)
    assert caplog.messages == ["no separator has started for 60 s; other jobs may occupy the GPUs"]
    start_all(pool)
    now += 300.0
    pool.check_gpu_timeout(needed=True)
    assert (len(caplog.messages), len(requested_gpus)) == (1, 1)


def test_an_actor_has_at_most_two_tracks(pool: SeparatorPool, separator: SeparatorSystem) -> None:
    tasks = make_tasks(separator, [Song(track_id=str(n), seconds=1.0) for n in range(6)], Path("/nowhere"))
    jobs = [pool.separate(task, exclusive=False) for task in tasks]
    actors = [job.actor for job in jobs if job is not None]
    assert len(actors) == 4
    assert jobs[4:] == [None, None]
    assert [actors.count(actor) for actor in dict.fromkeys(actors)] == [2, 2]
    assert jobs[0] is not None
    pool.handle_done(jobs[0])
    assert pool.separate(tasks[4], exclusive=False) is not None


def test_an_exclusive_track_has_an_actor_to_itself(pool: SeparatorPool, separator: SeparatorSystem) -> None:
    tasks = make_tasks(separator, [Song(track_id=str(n), seconds=1.0) for n in range(6)], Path("/nowhere"))
    exclusive = pool.separate(tasks[0], exclusive=True)
    others = [pool.separate(task, exclusive=False) for task in tasks[1:4]]
    assert exclusive is not None
    assert exclusive.actor not in [job.actor for job in others if job is not None]
    assert sum(job is not None for job in others) == 2
    # A second exclusive track waits until an actor is idle.
    assert pool.separate(tasks[4], exclusive=True) is None
    pool.handle_done(exclusive)
    assert pool.separate(tasks[4], exclusive=True) is not None


class LossyScheduler(Scheduler):
    """A scheduler that loses processes on request."""

    def lose(self, task: EvaluationTask, error: Exception) -> TrackResult | None:
        """Lose the process of a task with this error; return its result, or None if it is retried."""
        reference = object()
        self._scoring[reference] = scheduler._ScoringJob(task=task)
        ray_get = ray.get
        try:
            ray.get = lambda _: (_ for _ in ()).throw(error)
            return self._handle_scored(reference)[1]
        finally:
            ray.get = ray_get

    def memory_of(self, task: EvaluationTask) -> float | None:
        return self._memory(task)


@pytest.fixture
def lossy(monkeypatch: pytest.MonkeyPatch) -> tuple[LossyScheduler, EvaluationTask]:
    capacity = Capacity(cpus=2, gpus=0, node_memory=5 * 10**9, object_store=10**9)
    monkeypatch.setattr(Capacity, "now", lambda: capacity)
    (task,) = make_tasks(
        MixtureBaseline(name="mixture", targets=()), [Song(track_id="song", seconds=1.0)], Path("/nowhere")
    )
    return LossyScheduler(EvaluateConfig(), [task]), task


def test_memory_is_doubled_after_each_lost_process_up_to_that_of_a_node(
    lossy: tuple[LossyScheduler, EvaluationTask],
) -> None:
    scheduling, task = lossy
    reserved = [scheduling.memory_of(task)]
    for _ in range(2):
        assert scheduling.lose(task, ray.exceptions.OutOfMemoryError("killed")) is None
        reserved.append(scheduling.memory_of(task))
    assert reserved == [2e9, 4e9, 5e9]
    result = scheduling.lose(task, ray.exceptions.OutOfMemoryError("killed"))
    assert result is not None
    assert result.reason.startswith("its process was lost 3 times (OutOfMemoryError")


def test_a_track_fails_after_twenty_lost_nodes(lossy: tuple[LossyScheduler, EvaluationTask]) -> None:
    scheduling, task = lossy
    results = [scheduling.lose(task, ray.exceptions.NodeDiedError("died")) for _ in range(20)]
    assert results[:19] == [None] * 19
    assert results[19] is not None
    assert scheduling.memory_of(task) == 2e9


def test_lost_estimates_are_separated_again(
    separator: SeparatorSystem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    capacity = Capacity(cpus=2, gpus=0, node_memory=0, object_store=10**9)
    monkeypatch.setattr(Capacity, "now", lambda: capacity)
    (task,) = make_tasks(separator, [Song(track_id="song", seconds=1.0)], tmp_path)
    scheduling = LossyScheduler(EvaluateConfig(num_separation_actors=1), [task])
    scheduling._to_separate.clear()
    reference = object()
    scheduling._scoring[reference] = scheduler._ScoringJob(task=task, stats=SeparationStats(), estimates="lost")
    lost = ray.exceptions.RayTaskError("score", "", ray.exceptions.ObjectLostError("00", None, ""))

    def raise_lost(_: object) -> None:
        raise lost

    monkeypatch.setattr(ray, "get", raise_lost)
    assert scheduling._handle_scored(reference) == (task, None)
    assert list(scheduling._to_separate) == [task]
