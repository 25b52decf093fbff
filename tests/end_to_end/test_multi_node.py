"""Jobs on several local Ray nodes, each with its own resources, folders and shard cache, and a real S3 server.

Nodes, heads, workers and drivers are killed, interrupted and replaced during a job. The results must equal those of an
uninterrupted job.
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

from cluster.local import processes
from cyclesep.checkpoints.metadata import METADATA_FILE, TRAINING_STATE_FILE
from cyclesep.checkpoints.run_folder import RunFolder
from tests.support.job_cluster import Driver, JobCluster
from tests.support.s3_server import S3
from tests.support.tiny_evaluation import save_separator
from tests.support.tiny_models import flattened

# In the group of tests that start Ray, of which one runs at a time.
pytestmark = [pytest.mark.xdist_group("ray"), pytest.mark.timeout(1800)]

STEPS, EVERY = 80, 10
TRAINING = (
    f"steps={STEPS}", f"validate_every={EVERY}", "num_workers=2", "use_gpu=false", "num_validation_crops=4",
    "num_dataloader_workers=0", "keep_checkpoints=2", "max_failures=20", "scale_up_timeout_minutes=2",
    "crops.crop_seconds=0.5", "crops.batch_size=8", "method.recipe=supervised", "method.separator.name=waveunet",
    "method.separator.channels=8", "method.separator.depth=2", "method.optimizer.schedule=constant",
)  # fmt: skip


@pytest.fixture(scope="module")
def cluster(s3: S3, tmp_path_factory: pytest.TempPathFactory) -> Iterator[JobCluster]:
    with JobCluster(s3, tmp_path_factory.mktemp("cluster")) as running:
        yield running


@pytest.fixture(scope="module")
def shards(cluster: JobCluster, tiny_shards: Path) -> str:
    """The tiny corpus in S3."""
    place = cluster.s3.new_prefix()
    cluster.upload(tiny_shards, place)
    return place


# Evaluation


@pytest.fixture(scope="module")
def scoring(tmp_path_factory: pytest.TempPathFactory, shards: str) -> list[str]:
    """Arguments to evaluate six songs with the mixture, an untrained separator and an oracle: 18 tasks."""
    checkpoint = save_separator(tmp_path_factory.mktemp("checkpoint"))
    small = ["separation.segment_seconds=1.5", "separation.context_seconds=0.2", "heuristic=false", "excerpts=[]"]
    return ["evaluate", f"checkpoint={checkpoint}", f"shards={shards}", "split=train", *small]


@pytest.fixture(scope="module")
def scored(cluster: JobCluster, scoring: list[str]) -> pa.Table:
    """The table of an uninterrupted evaluation on three nodes."""
    cluster.ensure_nodes(3)
    output = cluster.s3.new_prefix()
    driver = cluster.start(*scoring, f"output={output}")
    assert driver.status() == 0, driver.output
    return frames(cluster, output)


def frames(cluster: JobCluster, output: str) -> pa.Table:
    return pyarrow.parquet.read_table(cluster.open_object(f"{output}/scores.parquet"))


def outcomes(cluster: JobCluster, output: str) -> list[str]:
    return [name for name in cluster.list_keys(f"{output}/parts") if name.endswith(".json")]


@pytest.mark.slow
def test_evaluation_scores_each_track_once_when_a_node_is_lost(
    cluster: JobCluster, scoring: list[str], scored: pa.Table
) -> None:
    cluster.ensure_nodes(3)
    output = cluster.s3.new_prefix()
    driver = cluster.start(*scoring, f"output={output}")
    driver.wait_for(lambda: len(outcomes(cluster, output)) >= 3)
    cluster.nodes[1].kill()
    assert driver.is_running
    assert driver.status() == 0, driver.output
    assert frames(cluster, output).equals(scored)
    assert len(outcomes(cluster, output)) == 18
    rows = pyarrow.parquet.read_table(cluster.open_object(f"{output}/tracks.parquet"))
    keys = list(zip(*(rows[name].to_pylist() for name in ("system", "track_id", "target")), strict=True))
    assert len(keys) == len(set(keys)) == 36
    # Each node has downloaded shards into its own cache.
    assert sum(size > 0 for size in cluster.cached_bytes().values()) >= 3


# Training


@pytest.fixture(scope="module")
def trained(cluster: JobCluster, shards: str) -> Callable[[], Any]:
    """Return the final state of an uninterrupted run on two nodes."""

    def train() -> Any:
        cluster.ensure_nodes(2)
        run = cluster.s3.new_prefix()
        assert training(cluster, shards, run).status() == 0
        return state(cluster, run)

    return functools.cache(train)


def training(cluster: JobCluster, shards: str, run: str) -> Driver:
    """Start or resume a training run in the folder `run`."""
    output_dir, _, name = run.rpartition("/")
    return cluster.start("train", *TRAINING, f"shards={shards}", f"output_dir={output_dir}", f"name={name}")


def steps(cluster: JobCluster, run: str) -> list[int]:
    """Return the steps of complete checkpoints in S3."""
    names = [name for name in cluster.list_keys(run) if name.endswith(f"/{METADATA_FILE}")]
    return sorted(int(name.split("/")[0].removeprefix("step-")) for name in names)


def state(cluster: JobCluster, run: str) -> Any:
    """Return the final training state in a form in which == compares every bit."""
    last = json.loads(cluster.open_object(f"{run}/{RunFolder.RESULT}").read())["last"]
    assert last == f"step-{STEPS:08d}"
    return flattened(torch.load(cluster.open_object(f"{run}/{last}/{TRAINING_STATE_FILE}"), weights_only=True))


def started_run(cluster: JobCluster, shards: str) -> tuple[str, Driver]:
    """Start a run on two nodes and wait for its first checkpoint in S3."""
    cluster.ensure_nodes(2)
    run = cluster.s3.new_prefix()
    driver = training(cluster, shards, run)
    driver.wait_for(lambda: bool(steps(cluster, run)))
    return run, driver


def assert_resumes(cluster: JobCluster, shards: str, run: str, expected: Any) -> None:
    """Check that the same command completes the run with the state of an uninterrupted one."""
    again = training(cluster, shards, run)
    assert again.status() == 0, again.output
    assert state(cluster, run) == expected


@pytest.mark.slow
def test_training_resumes_from_s3_on_a_new_node_when_a_node_is_lost(
    cluster: JobCluster, shards: str, trained: Callable[[], Any]
) -> None:
    expected = trained()
    run, driver = started_run(cluster, shards)
    cluster.nodes[0].kill()
    cluster.ensure_nodes(2)
    assert driver.status() == 0, driver.output
    assert state(cluster, run) == expected
    assert sum(size > 0 for size in cluster.cached_bytes().values()) >= 3


@pytest.mark.slow
def test_training_resumes_on_the_remaining_node_when_a_node_is_lost(
    cluster: JobCluster, shards: str, trained: Callable[[], Any]
) -> None:
    trained()
    run, driver = started_run(cluster, shards)
    cluster.nodes[0].kill()
    driver.process.kill()
    driver.process.wait()
    before = steps(cluster, run)
    output_dir, _, name = run.rpartition("/")
    words = [*TRAINING, "num_workers=1", f"shards={shards}", f"output_dir={output_dir}", f"name={name}"]
    alone = cluster.start("train", *words)
    assert alone.status() == 0, alone.output
    state(cluster, run)
    assert min(steps(cluster, run)) >= min(before)


@pytest.mark.slow
def test_sigterm_to_a_node_writes_a_checkpoint_first(
    cluster: JobCluster, shards: str, trained: Callable[[], Any]
) -> None:
    expected = trained()
    run, driver = started_run(cluster, shards)
    cluster.nodes[0].interrupt()
    driver.wait_for(lambda: any(step % EVERY for step in steps(cluster, run)))
    assert cluster.nodes[0].process.poll() is None
    cluster.ensure_nodes(2)
    assert driver.status() == 0, driver.output
    assert state(cluster, run) == expected


@pytest.mark.slow
def test_sigterm_to_a_driver_writes_a_checkpoint_to_resume_from(
    cluster: JobCluster, shards: str, trained: Callable[[], Any]
) -> None:
    expected = trained()
    run, driver = started_run(cluster, shards)
    driver.process.send_signal(signal.SIGTERM)
    assert driver.status() == 143, driver.output
    last = steps(cluster, run)[-1]
    assert f"stopped after step {last} of {STEPS}" in driver.output
    assert 0 < last < STEPS
    assert_resumes(cluster, shards, run, expected)


@pytest.mark.slow
def test_the_same_command_resumes_on_a_new_head(cluster: JobCluster, shards: str, trained: Callable[[], Any]) -> None:
    expected = trained()
    run, driver = started_run(cluster, shards)
    cluster.replace_head()
    driver.process.kill()
    driver.process.wait()
    before = steps(cluster, run)
    assert before
    assert before[-1] < STEPS
    assert_resumes(cluster, shards, run, expected)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_ten_random_kills_do_not_change_results(
    cluster: JobCluster, shards: str, scoring: list[str], scored: pa.Table, trained: Callable[[], Any]
) -> None:
    expected = trained()
    rng = np.random.default_rng(10)
    run, output = cluster.s3.new_prefix(), cluster.s3.new_prefix()
    survive(
        cluster,
        rng.permutation(["worker", "worker", "driver", "node", "node"]).tolist(),
        start=lambda: training(cluster, shards, run),
        progress=lambda: max(steps(cluster, run), default=0),
        rng=rng,
    )
    assert state(cluster, run) == expected
    survive(
        cluster,
        rng.permutation(["worker", "worker", "driver", "node", "node"]).tolist(),
        start=lambda: cluster.start(*scoring, f"output={output}"),
        progress=lambda: len(outcomes(cluster, output)),
        rng=rng,
    )
    assert frames(cluster, output).equals(scored)
    assert len(outcomes(cluster, output)) == 18


def survive(
    cluster: JobCluster,
    victims: list[str],
    *,
    start: Callable[[], Driver],
    progress: Callable[[], int],
    rng: np.random.Generator,
) -> None:
    """Run a job to its end while victims are killed one by one, each after the job has made progress."""
    cluster.ensure_nodes(2)
    driver, done = start(), progress()
    for victim in victims:
        driver.wait_for(lambda done=done: progress() > done)
        if victim == "driver":
            driver.process.kill()
            driver.process.wait()
            driver = start()
        elif victim == "node":
            cluster.nodes[int(rng.integers(2))].kill()
            cluster.ensure_nodes(2)
        else:
            driver.wait_for(lambda: kill_one(cluster.workers(), rng))
        done = progress()
    assert driver.status() == 0, driver.output


def kill_one(workers: dict[int, str], rng: np.random.Generator) -> bool:
    """SIGKILL one of several processes, if there are any."""
    chosen = rng.permutation(list(workers))[:1]
    return processes.kill({int(process): workers[process] for process in chosen}) == 1
