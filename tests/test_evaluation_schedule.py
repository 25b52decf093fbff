"""How an evaluation uses its cluster: bounds on what waits, memory that runs out, and whom a lost process is put on."""

import logging
import sys
import threading
import time
from collections.abc import Iterator
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
from tiny_evaluation import WINDOWS, save_separator
from torch import Tensor, nn

from cyclesep import checkpoints
from cyclesep.audio import Waveform
from cyclesep.evaluation import EvaluateConfig, TrackOutcome, schedule
from cyclesep.evaluation.capacity import Capacity, Cluster
from cyclesep.evaluation.results import Part, Results
from cyclesep.evaluation.schedule import Schedule
from cyclesep.evaluation.separators import SeparatorPool
from cyclesep.evaluation.systems import Separator, System, Untouched
from cyclesep.evaluation.work import Item, PackedEstimates, Separation, SeparationActor
from cyclesep.folder import Folder
from cyclesep.shards.manifest import MIXTURE

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
def separator(tmp_path_factory: pytest.TempPathFactory) -> Separator:
    folder = save_separator(tmp_path_factory.mktemp("checkpoint"))
    return Separator(name="separator", targets=("vocals",), checkpoint=folder, weights="w", windows=WINDOWS)


def items(system: System, songs: list[Song], output: Path) -> list[Item]:
    return [
        Item(
            system=system,
            track=song,
            part=Part.of(system.name, song.track_id, []),
            results=Results(folder=Folder.of(output)),
            window_seconds=1.0,
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
def test_separated_tracks_wait_in_the_object_store_only_up_to_the_bound(separator: Separator, tmp_path: Path) -> None:
    songs = [Song(track_id=f"song {n}", seconds=60.0, scorer_waits=1.0) for n in range(12)]
    # Vocals and accompaniment in 16 bits.
    each = 2 * 60 * RATE * 2
    outcomes: list[TrackOutcome] = []
    config = EvaluateConfig(num_separators=1, separation=WINDOWS)
    with watched_store() as seen:
        before = seen[-1] if seen else 0
        Schedule(config, items(separator, songs, tmp_path)).run(lambda _, outcome: outcomes.append(outcome))
    assert [outcome.reason for outcome in outcomes] == [""] * 12
    # One separator and two CPUs that score: three tracks. Ray frees what is no longer needed once a second, by when two
    # more may be done.
    assert each < max(seen) - before < 6 * each


@pytest.mark.usefixtures("ray_cluster")
def test_of_many_items_few_are_handed_to_ray_at_a_time(tmp_path: Path) -> None:
    most = 0

    class Watched(Schedule):
        def _fill(self) -> bool:
            nonlocal most
            under_way = super()._fill()
            most = max(most, len(self._scoring) + len(self._separating))
            return under_way

    done: list[str] = []
    mixture = Untouched(name="mixture", targets=("vocals",))
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
    expected = PackedEstimates.of({"vocals": song.mixture()}).stems["vocals"][0]
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


@dataclass
class FakeActor:
    """Takes calls, and keeps the tracks in order."""

    calls: list[Any] = field(default_factory=list)

    @property
    def separate(self) -> "FakeActor":
        return self

    def options(self, **_: object) -> "FakeActor":
        return self

    def remote(self, track: Any) -> tuple[object, object]:
        self.calls.append(track)
        return object(), object()


@pytest.fixture
def pool(separator: Separator, monkeypatch: pytest.MonkeyPatch) -> SeparatorPool:
    """Two actors that are none."""
    capacity = Capacity(cpus=4, gpus=0, node_memory=0, object_store=10**9)
    monkeypatch.setattr(Capacity, "now", lambda: capacity)
    monkeypatch.setattr(SeparatorPool, "_started", lambda _: FakeActor())
    monkeypatch.setattr(ray, "kill", lambda _: None)
    return SeparatorPool(EvaluateConfig(num_separators=2), separator, Cluster())


def test_an_actor_has_one_track_to_separate_and_one_to_read(pool: SeparatorPool, separator: Separator) -> None:
    entries = items(separator, [Song(track_id=str(n), seconds=1.0) for n in range(6)], Path("/nowhere"))
    work = [pool.separate(entry, alone=False) for entry in entries]
    handed = [one.actor for one in work if one is not None]
    assert len(handed) == 4
    assert work[4:] == [None, None]
    assert [handed.count(actor) for actor in dict.fromkeys(handed)] == [2, 2]
    assert work[0] is not None
    pool.done(work[0])
    assert pool.separate(entries[4], alone=False) is not None


def test_a_suspect_is_separated_alone(pool: SeparatorPool, separator: Separator) -> None:
    entries = items(separator, [Song(track_id=str(n), seconds=1.0) for n in range(6)], Path("/nowhere"))
    suspect = pool.separate(entries[0], alone=True)
    beside = [pool.separate(entry, alone=False) for entry in entries[1:4]]
    assert suspect is not None
    assert suspect.actor not in [one.actor for one in beside if one is not None]
    assert sum(one is not None for one in beside) == 2
    # And a second one has to wait until an actor has nothing else.
    assert pool.separate(entries[4], alone=True) is None
    pool.done(suspect)
    assert pool.separate(entries[4], alone=True) is not None


class Unlucky(Schedule):
    """A schedule whose processes are lost as a script says."""

    def __init__(self, config: EvaluateConfig, entries: list[Item]) -> None:
        super().__init__(config, entries)
        self.reserved: list[float | None] = []

    def lose(self, item: Item, problem: Exception) -> TrackOutcome | None:
        """What becomes of an item whose task is lost that way."""
        reference = object()
        self._scoring[reference] = schedule._Scoring(item=item)
        ray_get = ray.get
        try:
            ray.get = lambda _: (_ for _ in ()).throw(problem)
            return self._scored(reference)[1]
        finally:
            ray.get = ray_get

    def memory_of(self, item: Item) -> float | None:
        return self._reserved(item)


@pytest.fixture
def unlucky(monkeypatch: pytest.MonkeyPatch) -> tuple[Unlucky, Item]:
    capacity = Capacity(cpus=2, gpus=0, node_memory=5 * 10**9, object_store=10**9)
    monkeypatch.setattr(Capacity, "now", lambda: capacity)
    (entry,) = items(Untouched(name="mixture", targets=()), [Song(track_id="song", seconds=1.0)], Path("/nowhere"))
    return Unlucky(EvaluateConfig(), [entry]), entry


def test_a_task_that_ran_out_of_memory_gets_twice_as_much_and_no_more_than_there_is(
    unlucky: tuple[Unlucky, Item],
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


def test_lost_nodes_are_held_against_a_track_only_after_twenty(unlucky: tuple[Unlucky, Item]) -> None:
    plan, entry = unlucky
    outcomes = [plan.lose(entry, ray.exceptions.NodeDiedError("gone")) for _ in range(20)]
    assert outcomes[:19] == [None] * 19
    assert outcomes[19] is not None
    assert plan.memory_of(entry) == 2e9


def test_estimates_that_went_with_their_node_are_made_again(
    separator: Separator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    capacity = Capacity(cpus=2, gpus=0, node_memory=0, object_store=10**9)
    monkeypatch.setattr(Capacity, "now", lambda: capacity)
    (entry,) = items(separator, [Song(track_id="song", seconds=1.0)], tmp_path)
    plan = Unlucky(EvaluateConfig(num_separators=1), [entry])
    plan._to_separate.clear()
    reference = object()
    plan._scoring[reference] = schedule._Scoring(item=entry, separation=Separation(), estimates="on a lost node")
    lost = ray.exceptions.RayTaskError("score", "", ray.exceptions.ObjectLostError("00", None, ""))

    def gone(_: object) -> None:
        raise lost

    monkeypatch.setattr(ray, "get", gone)
    assert plan._scored(reference) == (entry, None)
    assert list(plan._to_separate) == [entry]
