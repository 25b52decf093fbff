"""Training runs and searches stored in S3: their files, readers, and resuming from them."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow.parquet
import pytest
import ray
import torch

from cyclesep.checkpoints.loaded_separator import load_separator
from cyclesep.checkpoints.metadata import TRAINING_STATE_FILE
from cyclesep.checkpoints.run_folder import RunFolder
from cyclesep.config import settings
from cyclesep.evaluation.config import EvaluateConfig
from cyclesep.evaluation.evaluate import evaluate
from cyclesep.reports.search_report import write_search_report
from cyclesep.reports.training_report import write_training_report
from cyclesep.storage import s3_objects
from cyclesep.storage.path import StoragePath
from cyclesep.training.config import TrainConfig
from cyclesep.training.fit import TrainingResult, fit
from cyclesep.tuning.config import TuneConfig
from cyclesep.tuning.search import search
from cyclesep.tuning.search_result import SearchResult
from tests.support.tiny_evaluation import SHORT_SEGMENTS
from tests.support.tiny_models import flattened

if TYPE_CHECKING:
    from tests.support.s3_server import S3

# Half a minute on an idle machine of two cores.
pytestmark = [pytest.mark.usefixtures("ray_cluster"), pytest.mark.timeout(1200)]

SMALL = {
    "crops": {"crop_seconds": 0.5, "batch_size": 8, "pairing": "unpaired"},
    "method": {
        "separator": {"channels": 8, "depth": 2},
        "discriminator": {"channels": 4},
        "optimizer": {"schedule": "constant"},
        "replay_buffer_size": 16,
    },
    "steps": 8,
    "validate_every": 2,
    "num_validation_crops": 4,
    "num_sample_crops": 1,
    "num_dataloader_workers": 0,
    "name": "tiny",
}
SNAPSHOT = "checkpoint_manager_snapshot.json"

Configured = Callable[..., TrainConfig]


@pytest.fixture(scope="module")
def configured(tiny_shards: Path) -> Configured:
    """Return configs of a small unpaired run with all components that have state."""

    def build(storage: Path | str, **changes: Any) -> TrainConfig:
        return settings.build(TrainConfig, SMALL | {"shards": str(tiny_shards), "output_dir": str(storage)} | changes)

    return build


@pytest.fixture(scope="module")
def uninterrupted(configured: Configured, tmp_path_factory: pytest.TempPathFactory) -> TrainingResult:
    """An uninterrupted run in a local folder."""
    return fit(configured(tmp_path_factory.mktemp("runs")))


@pytest.fixture(scope="module")
def resumed(s3: "S3", configured: Configured) -> TrainingResult:
    """A run in S3 that was started with four steps and resumed up to eight."""
    place = f"{s3.new_prefix()}/runs"
    fit(configured(place, steps=4))
    return fit(configured(place))


def state(report: TrainingResult) -> Any:
    """Return the final training state in a form in which == compares every bit."""
    folder = report.last.local_path(TRAINING_STATE_FILE)
    return flattened(torch.load(folder / TRAINING_STATE_FILE, weights_only=True))


def metrics(report: TrainingResult) -> list[dict[str, float]]:
    return [json.loads(line) for line in report.folder.read_text("metrics.jsonl").splitlines()]


def test_a_resumed_run_in_s3_equals_a_local_run_bitwise(resumed: TrainingResult, uninterrupted: TrainingResult) -> None:
    assert state(resumed) == state(uninterrupted)
    assert [line["step"] for line in metrics(resumed)] == [2, 4, 6, 8]
    sdr = [[line["validation/sdr"] for line in metrics(report)] for report in (resumed, uninterrupted)]
    assert sdr[0] == sdr[1]


def test_the_run_folder_in_s3_has_the_files_of_a_local_one(
    resumed: TrainingResult, uninterrupted: TrainingResult
) -> None:
    there, here = resumed.folder, uninterrupted.folder
    assert there.sizes("").keys() == here.sizes("").keys() >= {"run.json", "config.yaml", "metrics.jsonl", SNAPSHOT}
    assert (
        there.folders()
        == here.folders()
        == sorted({"logs", "tensorboard", *(step.name for step in RunFolder(here).checkpoints())})
    )
    assert there.sizes("step-00000008").keys() == here.sizes("step-00000008").keys()
    log = [json.loads(line)["message"] for line in there.read_text("logs/rank-0.jsonl").splitlines()]
    assert log.count("started") == log.count("ended") == 2
    assert log.count("validated") == 4
    assert len(there.sizes("tensorboard")) == 2


def test_the_report_covers_both_parts_of_a_resumed_run(resumed: TrainingResult, uninterrupted: TrainingResult) -> None:
    assert write_training_report(resumed.folder) == resumed.folder.file_uri("report.html")
    write_training_report(uninterrupted.folder)
    there, here = (report.folder.read_text("report.html") for report in (resumed, uninterrupted))
    resumed.folder.delete("report.html")
    uninterrupted.folder.delete("report.html")
    for mark in ("<svg", 'class="lane"', "vocals"):
        assert there.count(mark) == here.count(mark) > 0


def test_no_secret_is_stored_in_the_run_or_in_files_of_ray(s3: "S3", resumed: TrainingResult) -> None:
    secret = s3.server.secret_key.encode()
    for name in s3_objects.list_objects(resumed.folder.uri):
        with resumed.folder.reading(name) as file:
            assert secret not in file.read_bytes(), name
    context = ray.get_runtime_context()
    session = Path(context.get_temp_dir()) / context.get_session_name()
    logs = [file for file in session.rglob("*") if file.is_file() and not file.is_symlink()]
    assert len(logs) > 10
    assert [file.name for file in logs if secret in file.read_bytes()] == []


def test_a_run_in_s3_is_evaluated_and_used_as_init_from(
    resumed: TrainingResult, configured: Configured, tiny_shards: Path, tmp_path: Path
) -> None:
    run = resumed.folder.uri
    config = EvaluateConfig(
        checkpoint=run,
        shards=str(tiny_shards),
        separation=SHORT_SEGMENTS,
        heuristic=False,
        output=str(tmp_path / "out"),
    )
    done = evaluate(config)
    assert done.failed == ()
    (card,) = [
        each["card"] for each in json.loads((tmp_path / "out/summary.json").read_text())["systems"] if each["card"]
    ]
    assert card["path"] == resumed.best.uri
    further = fit(configured(tmp_path / "runs", name="further", init_from=resumed.last.uri, steps=10))
    assert [line["step"] for line in metrics(further)] == [10]


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


def wait_for_a_checkpoint(folder: StoragePath, ended: Callable[[], bool] = lambda: False) -> None:
    end = time.monotonic() + 300
    while not folder.has_file(SNAPSHOT):
        assert time.monotonic() < end
        assert not ended()
        time.sleep(0.05)


@pytest.mark.slow
def test_resuming_after_a_killed_driver_with_an_empty_cache_is_bit_exact(
    configured: Configured, prefix: str, tmp_path: Path
) -> None:
    """As when Kubernetes restarts a job on another machine: only the files in S3 are available."""
    straight = fit(configured(tmp_path / "runs", steps=40))
    config = configured(f"{prefix}/runs", steps=40)
    (tmp_path / "config.yaml").write_text(settings.to_yaml(config))
    (tmp_path / "driver.py").write_text(DRIVER)
    driver = subprocess.Popen(
        [sys.executable, str(tmp_path / "driver.py"), str(tmp_path / "config.yaml")],
        env=os.environ | {"RAY_ADDRESS": ray.get_runtime_context().gcs_address},
    )
    wait_for_a_checkpoint(StoragePath.of(f"{prefix}/runs/tiny"), lambda: driver.poll() is not None)
    driver.kill()
    driver.wait()
    report = fit(config)
    assert state(report) == state(straight)
    assert [line["step"] for line in metrics(report)] == list(range(2, 41, 2))
    assert json.loads(report.folder.read_text("logs/rank-0.jsonl").splitlines()[-1])["message"] == "ended"
    assert ".train.lock" not in report.folder.sizes("")


@pytest.mark.slow
def test_resuming_after_a_killed_worker_is_bit_exact(
    configured: Configured, prefix: str, uninterrupted: TrainingResult
) -> None:
    config = configured(f"{prefix}/runs")
    killed: list[int] = []

    def kill_one() -> None:
        wait_for_a_checkpoint(StoragePath.of(f"{prefix}/runs/tiny"))
        names = [int(path.name) for path in Path("/proc").glob("[0-9]*") if _is_worker_of_this_test(path)]
        os.kill(names[0], signal.SIGKILL)
        killed.append(names[0])

    killer = threading.Thread(target=kill_one)
    killer.start()
    report = fit(config)
    killer.join()
    assert len(killed) == 1
    assert state(report) == state(uninterrupted)
    assert [line["step"] for line in metrics(report)] == [2, 4, 6, 8]


def _is_worker_of_this_test(process: Path) -> bool:
    """Return whether a process is a Ray Train worker descended from this one, according to /proc."""
    try:
        if "RayTrainWorker" not in (process / "cmdline").read_text():
            return False
        while process.name not in ("0", "1", str(os.getpid())):
            process = process.with_name((process / "stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return False
    return process.name == str(os.getpid())


TUNE = {
    "name": "hunt",
    "search": "grid",
    "scheduler": "none",
    "grace_period": 8,
    "num_finalists": 1,
    "num_seeds": 1,
    "space": {"crops.batch_size": {"choice": [4, 8]}},
}
TUNED = {
    "steps": 8,
    "validate_every": 4,
    "num_validation_crops": 4,
    "num_dataloader_workers": 0,
    "num_sample_crops": 0,
    "crops": {"crop_seconds": 0.5, "batch_size": 4},
    "method": {
        "recipe": "supervised",
        "separator": {"name": "tfsep", "channels": 8, "depth": 1},
        "optimizer": {"lr_separator": 0.02, "schedule": "constant", "warmup_steps": 0},
    },
}


def kept_checkpoints(result: SearchResult) -> set[str]:
    names = s3_objects.list_objects(result.folder.uri)
    return {name.rpartition("/step-")[0] for name in names if "/step-" in name}


@pytest.mark.slow
def test_a_search_in_s3_has_the_files_of_a_local_one_and_is_not_run_again(prefix: str, tiny_shards: Path) -> None:
    train = TUNED | {"shards": str(tiny_shards)}
    config = settings.build(TuneConfig, TUNE | {"output_dir": f"{prefix}/searches", "train": train})
    result = search(config)
    write_search_report(result)
    folder = result.folder
    assert folder.uri == f"{prefix}/searches/hunt"
    assert {"best.yaml", "trials.parquet", "report.html", "summary.json", "run.json"} <= folder.sizes("").keys()
    assert ".tune.lock" not in folder.sizes("")
    with folder.reading("trials.parquet") as file:
        assert pyarrow.parquet.read_table(file).num_rows == len(result.trials) + len(result.finals) == 4
    assert [row.outcome for row in result.trials] == ["completed", "completed"]
    # The winning final and the better of the two trials.
    assert len(kept_checkpoints(result)) == 2
    assert load_separator(folder.uri).targets == ("vocals",)
    again = search(config)
    assert (again.trials, again.finals) == (result.trials, result.finals)
    # The trial table can be rebuilt from the state of Ray Tune.
    folder.delete("search.parquet")
    assert {row.trial: row.curve for row in search(config).trials} == {row.trial: row.curve for row in result.trials}
