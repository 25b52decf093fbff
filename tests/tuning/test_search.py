"""Searches on a Ray cluster of two cores: failed trials, finals, interrupted and killed searches, schedulers."""

import json
import math
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import ray
import torch
from ray.util.state import list_placement_groups

from cyclesep.checkpoints.loaded_separator import load_separator
from cyclesep.checkpoints.metadata import CONFIG_FILE, TRAINING_STATE_FILE, read_metadata
from cyclesep.checkpoints.run_folder import download_checkpoint
from cyclesep.config import settings
from cyclesep.errors import ConfigError
from cyclesep.training.config import TrainConfig
from cyclesep.training.fit import fit
from cyclesep.tuning.config import TuneConfig
from cyclesep.tuning.search import evaluate_winner, search
from cyclesep.tuning.search_result import BEST, SUMMARY, TRIALS, SearchResult
from cyclesep.tuning.trial_resources import job_placement_groups

# A minute on two idle cores; the limit allows for a machine under load.
pytestmark = [pytest.mark.usefixtures("ray_cluster"), pytest.mark.timeout(1200)]

TRAIN = {
    "steps": 8,
    "validate_every": 4,
    "num_validation_crops": 4,
    "num_dataloader_workers": 0,
    "crops": {"crop_seconds": 0.5, "batch_size": 4},
    "method": {
        "recipe": "supervised",
        "separator": {"name": "tfsep", "channels": 8, "depth": 1},
        "optimizer": {"lr_separator": 0.02, "schedule": "constant", "warmup_steps": 0},
    },
}
LR = "method.optimizer.lr_separator"

Configured = Callable[..., TuneConfig]


@pytest.fixture(scope="module")
def configured(tiny_shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Configured:
    """Function that builds the config of a small search, in a common folder."""
    storage = tmp_path_factory.mktemp("searches")

    def build(name: str, **values: Any) -> TuneConfig:
        train = TRAIN | {"shards": str(tiny_shards)} | values.pop("train", {})
        return settings.build(TuneConfig, {"name": name, "output_dir": str(storage), "train": train} | values)

    return build


@pytest.fixture(scope="module")
def result(configured: Configured) -> SearchResult:
    """Result of a grid of three batch sizes, one of them invalid, with finals of the best and the default."""
    config = configured(
        "grid",
        search="grid",
        scheduler="none",
        space={"crops.batch_size": {"choice": [4, 6, 8]}},
        num_finalists=1,
        num_seeds=1,
    )
    return search(config)


def test_failed_trial_has_a_reason_and_the_search_continues(result: SearchResult) -> None:
    good, bad, other = result.trials
    assert (other.outcome, other.values) == ("completed", {"crops.batch_size": 8})
    assert (good.outcome, good.reason, good.values) == ("completed", "", {"crops.batch_size": 4})
    assert (bad.outcome, bad.values) == ("failed", {"crops.batch_size": 6})
    assert "remix_group_size=4" in bad.reason
    assert [step for step, _ in good.curve] == [4, 8]
    assert good.origin["manifest_digest"]


def test_trials_are_deterministic(result: SearchResult) -> None:
    """The default and the finalist have batch sizes of two trials, so their curves must be the same."""
    before = {row.values["crops.batch_size"]: row.curve for row in result.trials}
    assert [row.curve for row in result.finals] == [
        before[row.values.get("crops.batch_size", 4)] for row in result.finals
    ]
    assert len(result.finals) == 2


def test_at_most_two_trials_run_on_two_cores(result: SearchResult) -> None:
    spans = []
    for file in (result.folder.path / "tune" / "search").glob("*/result.json"):
        reports = [json.loads(line) for line in file.read_text().splitlines()]
        spans.append((reports[0]["timestamp"] - reports[0]["time_total_s"], reports[-1]["timestamp"]))
    assert len(spans) == 3
    assert all(
        sum(start + 1 < other_end and other < start + 1 for other, other_end in spans) <= 2 for start, _ in spans
    )


def test_checkpoints_of_losing_trials_are_deleted(result: SearchResult) -> None:
    kept = {path.parent for path in result.folder.path.rglob("step-*")}
    best = max((row for row in result.trials if row.outcome == "completed"), key=lambda row: row.sdr)
    assert kept == {result.winner_run.path, result.folder.path / "trials" / best.run}


def test_search_folder_resolves_to_its_winner(result: SearchResult) -> None:
    source = download_checkpoint(result.winner_run)
    assert read_metadata(download_checkpoint(result.folder)) == read_metadata(source)
    assert load_separator(result.folder).targets == ("vocals",)


def test_winner_is_scored_on_the_test_split(result: SearchResult) -> None:
    scores = evaluate_winner(result)
    scored = [row for row in scores.tracks.scored if row.system == result.winner.label]
    assert {row.track_id for row in scored} == {"Song 8", "Song 9"}
    assert all(math.isfinite(row.values["SI-SDR"]) for row in scored)


def test_finished_search_is_loaded(result: SearchResult) -> None:
    again = search(result.config)
    assert (again.trials, again.finals) == (result.trials, result.finals)
    with pytest.raises(ConfigError, match=r"was started with other settings \(num_trials\); choose another name="):
        search(settings.replace(result.config, {"num_trials": 3}))


def test_search_writes_its_files(result: SearchResult) -> None:
    assert {BEST, TRIALS, SUMMARY, "run.json"} <= {path.name for path in result.folder.path.iterdir()}


def test_best_config_can_be_trained(result: SearchResult, tmp_path: Path) -> None:
    best = settings.load(TrainConfig, [result.folder.path / BEST])
    assert best == result.best
    trained = fit(settings.replace(best, {"output_dir": str(tmp_path), "init_from": result.folder.uri, "steps": 12}))
    assert trained.metadata.step == 12


DRIVER = """
import sys
from cyclesep.cli.main import main
if __name__ == "__main__":
    main(["tune", *sys.argv[1:]])
"""


def wait_for(condition: Callable[[], bool], seconds: float = 600.0) -> None:
    """Wait until a condition is true; raises TimeoutError."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError
        time.sleep(0.02)


def placement_groups() -> set[str]:
    """Return the placement groups of the cluster that are not removed."""
    listed = list_placement_groups(address=ray.get_runtime_context().gcs_address, limit=1000)
    return {group.placement_group_id for group in listed if group.state != "REMOVED"}


def start_search(config: TuneConfig, folder: Path) -> subprocess.Popen[str]:
    """Start a search in another process, on the cluster of the tests."""
    (folder / "tune.yaml").write_text(settings.to_yaml(config))
    (folder / "driver.py").write_text(DRIVER)
    return subprocess.Popen(
        [sys.executable, str(folder / "driver.py"), str(folder / "tune.yaml")],
        env=os.environ | {"RAY_ADDRESS": ray.get_runtime_context().gcs_address},
        stderr=subprocess.PIPE,
        text=True,
    )


def test_job_writes_the_report_of_a_finished_search(result: SearchResult, tmp_path: Path) -> None:
    job = start_search(result.config, tmp_path)
    _, errors = job.communicate(timeout=300)
    assert job.returncode == 0, errors
    page = (result.folder.path / "report.html").read_text()
    assert page.count("<svg") == 4
    assert not re.search(r"(?:src|href)=[\"']https?:", page)


def test_interrupted_and_killed_search_resumes_and_releases_placement_groups(
    configured: Configured, tmp_path: Path
) -> None:
    config = configured(
        "stopped", num_trials=3, num_finalists=0, scheduler="none", space={LR: {"loguniform": [0.005, 0.02]}}
    )
    trials = Path(config.output_dir) / config.name / "trials"

    interrupted = start_search(config, tmp_path)
    wait_for(lambda: any(trials.glob("*/config.yaml")) or interrupted.poll() is not None)
    first = {path.name for path in trials.iterdir()}
    interrupted.send_signal(signal.SIGINT)
    _, errors = interrupted.communicate(timeout=300)
    assert interrupted.returncode == 130
    assert errors.splitlines()[-1].startswith("cyclesep tune: error: interrupted; finished work is kept")
    assert "Traceback" not in errors
    wait_for(lambda: not placement_groups(), seconds=120)

    killed = start_search(config, tmp_path)
    wait_for(lambda: any(trials.glob("*/step-*/metadata.json")) or killed.poll() is not None)
    killed.kill()
    killed.communicate()
    wait_for(lambda: not placement_groups(), seconds=120)

    result = search(config)
    assert [row.outcome for row in result.trials] == ["completed"] * 3
    assert first <= {row.run for row in result.trials}
    assert result.winner.label == max(result.trials, key=lambda row: row.sdr).label
    assert not job_placement_groups()


@pytest.mark.slow
def test_asha_stops_trials_early_with_optuna(configured: Configured) -> None:
    config = configured(
        "halved",
        num_trials=4,
        search="optuna",
        objectives=["sdr", "sir"],
        reduction_factor=2,
        grace_period=4,
        num_finalists=0,
        space={LR: {"loguniform": [1e-7, 0.02]}},
    )
    result = search(config)
    assert len(result.trials) == 4
    ended = {row.outcome for row in result.trials}
    assert ended <= {"completed", "stopped early", "diverged"}
    assert len(ended) > 1
    assert all(row.step == 4 for row in result.trials if row.outcome == "stopped early")
    assert result.pareto_front
    assert all(row.metrics["sir"] > row.sdr for row in result.pareto_front)


def weight_of(run: Path) -> float:
    return settings.load(TrainConfig, [run / CONFIG_FILE]).method.loss_weights["spectral"]


def sdr_of(run: Path, *, step: int) -> float:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return next(float(line["validation/sdr"]) for line in lines if line["step"] == step)


def adam_steps(run: Path) -> set[int]:
    """Return the step counts of Adam in the last checkpoint of a run."""
    (checkpoint,) = [path.parent for path in run.glob(f"step-{TRAIN['steps']:08d}/{TRAINING_STATE_FILE}")]
    state = torch.load(checkpoint / TRAINING_STATE_FILE, weights_only=True)
    return {int(each["step"]) for each in state["optimizers"][0]["state"].values()}


@pytest.mark.slow
def test_pbt_continues_a_bad_trial_from_a_good_one_with_its_optimizer(configured: Configured) -> None:
    weight = "method.loss_weights.spectral"
    config = configured(
        "population",
        num_trials=2,
        scheduler="pbt",
        perturbation_interval=4,
        num_finalists=0,
        grace_period=8,
        # One of the two learns nothing and copies the other, including its learning rate.
        space={weight: {"uniform": [0.1, 1.0]}, LR: {"loguniform": [1e-5, 0.02]}},
    )
    result = search(config)
    trials = result.folder.path / "trials"
    perturbed = [row for row in result.trials if row.values[weight] != weight_of(trials / row.trial)]
    assert perturbed, "no trial continued from the checkpoint of another"
    for row in result.trials:
        assert "-" in row.run
        assert row.values[weight] == weight_of(trials / row.run)
        assert 0.1 <= row.values[weight] <= 1.0
    best = trials / result.winner.rows[0].run
    assert adam_steps(best) == {TRAIN["steps"]}
    # The copy is at least as good as the original was. Tune may drop the last report of a trial that continues from
    # another; metrics.jsonl of the run has it.
    before = [sdr_of(trials / row.trial, step=4) for row in result.trials]
    assert min(sdr_of(trials / row.run, step=8) for row in result.trials) > min(before) + 1.0
