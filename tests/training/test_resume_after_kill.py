"""Runs that are stopped, killed or resumed with another number of workers, on a local Ray cluster."""

import functools
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import ray
import torch

from cyclesep.checkpoints.metadata import METADATA_FILE, TRAINING_STATE_FILE
from cyclesep.config import settings
from cyclesep.training.config import TrainConfig
from cyclesep.training.fit import TrainingResult, fit
from tests.support.tiny_models import flattened

# A minute on an idle machine of two cores; ten where ten others share them.
pytestmark = [pytest.mark.usefixtures("ray_cluster"), pytest.mark.timeout(900)]

STEPS, EVERY = 24, 4
SMALL = {
    "crops": {"crop_seconds": 0.5, "batch_size": 8, "pairing": "unpaired"},
    "method": {
        "separator": {"channels": 8, "depth": 2},
        "discriminator": {"channels": 4, "r1_gamma": 1.0, "r1_interval": 4},
        "optimizer": {"schedule": "constant"},
        "replay_buffer_size": 16,
        "loss_balancer": {"adversarial_gradient_share": 0.1},
    },
    "steps": STEPS,
    "validate_every": EVERY,
    "num_validation_crops": 4,
    "num_dataloader_workers": 0,
    "keep_checkpoints": 2,
    "num_workers": 2,
}

Configured = Callable[..., TrainConfig]


@pytest.fixture(scope="module")
def configured(tiny_shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Configured:
    """Return configs of unpaired remix runs with all components that have state, in one output folder."""
    output_dir = tmp_path_factory.mktemp("runs")

    def build(name: str, **changes: Any) -> TrainConfig:
        return settings.build(
            TrainConfig, SMALL | {"name": name, "shards": str(tiny_shards), "output_dir": str(output_dir)} | changes
        )

    return build


@pytest.fixture(scope="module")
def uninterrupted(configured: Configured) -> Callable[[], TrainingResult]:
    """Return the result of an uninterrupted run on two workers."""
    return functools.cache(lambda: fit(configured("uninterrupted")))


def state(report: TrainingResult) -> Any:
    """Return the final training state in a form in which == compares every bit."""
    assert report.metadata.step == STEPS
    return flattened(torch.load(report.last.path / TRAINING_STATE_FILE, weights_only=True))


def curve(report: TrainingResult) -> dict[int, float]:
    """Return validation SDR by step; repeated steps count with their last value."""
    lines = [json.loads(line) for line in (report.folder.path / "metrics.jsonl").read_text().splitlines()]
    return {line["step"]: line["validation/sdr"] for line in lines}


def wait_for(condition: Callable[[], bool], seconds: float = 240.0) -> None:
    """Wait until a condition is true; raise TimeoutError after `seconds`."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError
        time.sleep(0.01)


def checkpointed(config: TrainConfig) -> bool:
    return any((Path(config.output_dir) / config.name).glob(f"step-*/{METADATA_FILE}"))


def workers_of_this_process() -> list[int]:
    """Return the ids of the Ray Train workers descended from this process, according to /proc."""
    parents: dict[int, int] = {}
    named = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
            title = (folder / "cmdline").read_text()
        except OSError:
            continue
        parents[int(folder.name)] = int(fields[1])
        named += [int(folder.name)] if "RayTrainWorker" in title else []

    def below(process: int) -> bool:
        return process == os.getpid() or (process in parents and below(parents[process]))

    return [process for process in named if below(process)]


def test_two_workers_have_the_curve_of_one_worker(
    configured: Configured, uninterrupted: Callable[[], TrainingResult]
) -> None:
    alone = curve(fit(configured("one", num_workers=1)))
    assert list(alone) == list(range(EVERY, STEPS + 1, EVERY))
    assert curve(uninterrupted()) == pytest.approx(alone, abs=0.02)


@pytest.mark.slow
def test_a_resumed_run_equals_an_uninterrupted_one(
    configured: Configured, uninterrupted: Callable[[], TrainingResult]
) -> None:
    fit(configured("resumed", steps=12))
    assert state(fit(configured("resumed"))) == state(uninterrupted())


@pytest.mark.slow
def test_resuming_with_more_workers_continues_the_curve(
    configured: Configured, uninterrupted: Callable[[], TrainingResult]
) -> None:
    fit(configured("grown", steps=12, num_workers=1))
    report = fit(configured("grown", num_workers=2))
    assert report.metadata.hardware.startswith("2 x")
    assert curve(report) == pytest.approx(curve(uninterrupted()), abs=0.02)


@pytest.mark.slow
def test_resuming_with_fewer_workers_and_accumulation_continues_the_curve(
    configured: Configured, uninterrupted: Callable[[], TrainingResult]
) -> None:
    fit(configured("shrunk", steps=12))
    report = fit(configured("shrunk", num_workers=1, method=SMALL["method"] | {"gradient_accumulation_steps": 2}))
    assert curve(report) == pytest.approx(curve(uninterrupted()), abs=0.02)


def test_resuming_after_a_killed_worker_is_bit_exact(
    configured: Configured, uninterrupted: Callable[[], TrainingResult]
) -> None:
    config = configured("worker-killed")
    killed: list[int] = []

    def kill_one() -> None:
        wait_for(lambda: checkpointed(config))
        worker = workers_of_this_process()[0]
        os.kill(worker, signal.SIGKILL)
        killed.append(worker)

    killer = threading.Thread(target=kill_one)
    killer.start()
    report = fit(config)
    killer.join()
    assert len(killed) == 1
    assert state(report) == state(uninterrupted())


DRIVER = """
import sys
from cyclesep.config import settings
from cyclesep.cluster.connect import connect
from cyclesep.training.config import TrainConfig
from cyclesep.training.fit import fit
if __name__ == "__main__":
    with connect():
        fit(settings.load(TrainConfig, [sys.argv[1]]))
"""


def test_resuming_after_a_killed_driver_is_bit_exact(
    configured: Configured, uninterrupted: Callable[[], TrainingResult], tmp_path: Path
) -> None:
    config = configured("driver-killed")
    (tmp_path / "config.yaml").write_text(settings.to_yaml(config))
    (tmp_path / "driver.py").write_text(DRIVER)
    address = ray.get_runtime_context().gcs_address
    driver = subprocess.Popen(
        [sys.executable, str(tmp_path / "driver.py"), str(tmp_path / "config.yaml")],
        env=os.environ | {"RAY_ADDRESS": address},
    )
    wait_for(lambda: checkpointed(config) or driver.poll() is not None)
    assert driver.poll() is None
    driver.kill()
    driver.wait()
    assert state(fit(config)) == state(uninterrupted())
