"""Jobs on several Ray nodes of this machine, each with its own resources, folders and shard cache, beside a real S3.

Nodes, heads, workers and drivers are killed, interrupted and replaced in the middle; what comes out is what comes out
when nothing happens.
"""

import functools
import json
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
import torch

from cyclesep import checkpoints
from tests.support import processes
from tests.support.ray_site import Driver, Site
from tests.support.s3_server import S3
from tests.support.tiny_evaluation import save_separator
from tests.support.tiny_models import flattened

# With the other tests that start Ray, one of which runs at a time.
pytestmark = [pytest.mark.xdist_group("ray"), pytest.mark.timeout(1800)]

STEPS, EVERY = 80, 10
TRAINING = (
    f"steps={STEPS}", f"validate_every={EVERY}", "num_workers=2", "use_gpu=false", "num_validation_crops=4",
    "num_dataloader_workers=0", "keep_checkpoints=2", "max_failures=20", "scale_up_timeout_minutes=2", "crops.crop_seconds=0.5",
    "crops.batch_size=8", "method.recipe=supervised", "method.separator.name=waveunet",
    "method.separator.channels=8", "method.separator.depth=2", "method.optimizer.schedule=constant",
)  # fmt: skip


@pytest.fixture(scope="module")
def site(s3: S3, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with Site(s3, tmp_path_factory.mktemp("site")) as running:
        yield running


@pytest.fixture(scope="module")
def shards(site: Site, tiny_shards: Path) -> str:
    """The tiny corpus in S3."""
    place = site.s3.new_prefix()
    site.upload(tiny_shards, place)
    return place


# Evaluation


@pytest.fixture(scope="module")
def scoring(tmp_path_factory: pytest.TempPathFactory, shards: str) -> list[str]:
    """Six songs under the mixture, an untrained separator and an oracle: 18 items."""
    checkpoint = save_separator(tmp_path_factory.mktemp("checkpoint"))
    small = ["separation.segment_seconds=1.5", "separation.context_seconds=0.2", "heuristic=false", "excerpts=[]"]
    return ["evaluate", f"checkpoint={checkpoint}", f"shards={shards}", "split=train", *small]


@pytest.fixture(scope="module")
def scored(site: Site, scoring: list[str]) -> pa.Table:
    """The table of an evaluation on three nodes that nobody disturbed."""
    site.has(3)
    output = site.s3.new_prefix()
    driver = site.start(*scoring, f"output={output}")
    assert driver.status() == 0, driver.told
    return frames(site, output)


def frames(site: Site, output: str) -> pa.Table:
    return pyarrow.parquet.read_table(site.content(f"{output}/scores.parquet"))


def outcomes(site: Site, output: str) -> list[str]:
    return [name for name in site.listed(f"{output}/parts") if name.endswith(".json")]


@pytest.mark.slow
def test_a_node_of_three_is_lost_and_each_track_is_scored_once(
    site: Site, scoring: list[str], scored: pa.Table
) -> None:
    site.has(3)
    output = site.s3.new_prefix()
    driver = site.start(*scoring, f"output={output}")
    driver.wait_for(lambda: len(outcomes(site, output)) >= 3)
    site.nodes[1].kill()
    assert driver.is_running
    assert driver.status() == 0, driver.told
    assert frames(site, output).equals(scored)
    assert len(outcomes(site, output)) == 18
    rows = pyarrow.parquet.read_table(site.content(f"{output}/tracks.parquet"))
    keys = list(zip(*(rows[name].to_pylist() for name in ("system", "track_id", "target")), strict=True))
    assert len(keys) == len(set(keys)) == 36
    # Each node has fetched for itself.
    assert sum(size > 0 for size in site.cached_bytes().values()) >= 3


# Training


@pytest.fixture(scope="module")
def trained(site: Site, shards: str) -> Callable[[], Any]:
    """The whole state of a run on two nodes that nobody disturbed."""

    def train() -> Any:
        site.has(2)
        run = site.s3.new_prefix()
        assert training(site, shards, run).status() == 0
        return state(site, run)

    return functools.cache(train)


def training(site: Site, shards: str, run: str) -> Driver:
    """A training run whose folder is `run`, or its continuation."""
    storage, _, name = run.rpartition("/")
    return site.start("train", *TRAINING, f"shards={shards}", f"output_dir={storage}", f"name={name}")


def steps(site: Site, run: str) -> list[int]:
    """The steps at which whole checkpoints lie in S3."""
    names = [name for name in site.listed(run) if name.endswith(f"/{checkpoints.METADATA}")]
    return sorted(int(name.split("/")[0].removeprefix("step-")) for name in names)


def state(site: Site, run: str) -> Any:
    """The whole training state at the end, so that == compares every bit."""
    last = json.loads(site.content(f"{run}/{checkpoints.RUN}").read())["last"]
    assert last == f"step-{STEPS:08d}"
    return flattened(torch.load(site.content(f"{run}/{last}/{checkpoints.STATE}"), weights_only=True))


def in_the_middle(site: Site, shards: str) -> tuple[str, Driver]:
    """A run on two nodes that has its first checkpoint in S3 and goes on."""
    site.has(2)
    run = site.s3.new_prefix()
    driver = training(site, shards, run)
    driver.wait_for(lambda: bool(steps(site, run)))
    return run, driver


def goes_on(site: Site, shards: str, run: str, expected: Any) -> None:
    """The same command ends the run with the state of one that nobody disturbed."""
    again = training(site, shards, run)
    assert again.status() == 0, again.told
    assert state(site, run) == expected


@pytest.mark.slow
def test_a_training_node_is_lost_and_a_new_one_goes_on_from_s3(
    site: Site, shards: str, trained: Callable[[], Any]
) -> None:
    expected = trained()
    run, driver = in_the_middle(site, shards)
    site.nodes[0].kill()
    site.has(2)
    assert driver.status() == 0, driver.told
    assert state(site, run) == expected
    assert sum(size > 0 for size in site.cached_bytes().values()) >= 3


@pytest.mark.slow
def test_a_training_node_is_lost_and_the_rest_goes_on_with_the_curve(
    site: Site, shards: str, trained: Callable[[], Any]
) -> None:
    trained()
    run, driver = in_the_middle(site, shards)
    site.nodes[0].kill()
    driver.process.kill()
    driver.process.wait()
    before = steps(site, run)
    storage, _, name = run.rpartition("/")
    words = [*TRAINING, "num_workers=1", f"shards={shards}", f"output_dir={storage}", f"name={name}"]
    alone = site.start("train", *words)
    assert alone.status() == 0, alone.told
    state(site, run)
    assert min(steps(site, run)) >= min(before)


@pytest.mark.slow
def test_sigterm_to_a_node_leads_to_a_checkpoint_before_it_is_gone(
    site: Site, shards: str, trained: Callable[[], Any]
) -> None:
    expected = trained()
    run, driver = in_the_middle(site, shards)
    site.nodes[0].interrupt()
    driver.wait_for(lambda: any(step % EVERY for step in steps(site, run)))
    assert site.nodes[0].process.poll() is None
    site.has(2)
    assert driver.status() == 0, driver.told
    assert state(site, run) == expected


@pytest.mark.slow
def test_sigterm_to_a_driver_ends_it_with_a_checkpoint_to_go_on_from(
    site: Site, shards: str, trained: Callable[[], Any]
) -> None:
    expected = trained()
    run, driver = in_the_middle(site, shards)
    driver.process.send_signal(signal.SIGTERM)
    assert driver.status() == 143, driver.told
    last = steps(site, run)[-1]
    assert f"stopped after step {last} of {STEPS}" in driver.told
    assert 0 < last < STEPS
    goes_on(site, shards, run, expected)


@pytest.mark.slow
def test_the_head_is_lost_and_the_same_command_goes_on_at_a_new_one(
    site: Site, shards: str, trained: Callable[[], Any]
) -> None:
    expected = trained()
    run, driver = in_the_middle(site, shards)
    site.replace_head()
    driver.process.kill()
    driver.process.wait()
    before = steps(site, run)
    assert before
    assert before[-1] < STEPS
    goes_on(site, shards, run, expected)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_ten_random_kills_of_workers_drivers_and_nodes_lose_nothing(
    site: Site, shards: str, scoring: list[str], scored: pa.Table, trained: Callable[[], Any]
) -> None:
    expected = trained()
    rng = np.random.default_rng(10)
    run, output = site.s3.new_prefix(), site.s3.new_prefix()
    survive(
        site,
        rng.permutation(["worker", "worker", "driver", "node", "node"]).tolist(),
        start=lambda: training(site, shards, run),
        progress=lambda: max(steps(site, run), default=0),
        rng=rng,
    )
    assert state(site, run) == expected
    survive(
        site,
        rng.permutation(["worker", "worker", "driver", "node", "node"]).tolist(),
        start=lambda: site.start(*scoring, f"output={output}"),
        progress=lambda: len(outcomes(site, output)),
        rng=rng,
    )
    assert frames(site, output).equals(scored)
    assert len(outcomes(site, output)) == 18


def survive(
    site: Site,
    victims: list[str],
    *,
    start: Callable[[], Driver],
    progress: Callable[[], int],
    rng: np.random.Generator,
) -> None:
    """Run a job to its end while one thing after the other is killed, each when the job has got further."""
    site.has(2)
    driver, done = start(), progress()
    for victim in victims:
        driver.wait_for(lambda done=done: progress() > done)
        if victim == "driver":
            driver.process.kill()
            driver.process.wait()
            driver = start()
        elif victim == "node":
            site.nodes[int(rng.integers(2))].kill()
            site.has(2)
        else:
            driver.wait_for(lambda: kill_one(site.workers(), rng))
        done = progress()
    assert driver.status() == 0, driver.told


def kill_one(workers: dict[int, str], rng: np.random.Generator) -> bool:
    """SIGKILL one of several processes, if there are any."""
    chosen = rng.permutation(list(workers))[:1]
    return processes.kill({int(process): workers[process] for process in chosen}) == 1
