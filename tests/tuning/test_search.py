"""Searches on a real Ray cluster of two cores: trials that fail, searches that are stopped, killed and gone on with."""

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

from cyclesep import checkpoints
from cyclesep.config import settings
from cyclesep.errors import ConfigError
from cyclesep.training.config import TrainConfig
from cyclesep.training.fit import fit
from cyclesep.tuning.config import TuneConfig
from cyclesep.tuning.placement_groups import groups_of_this_job
from cyclesep.tuning.search import search
from cyclesep.tuning.search_artifacts import BEST, PAGE, SUMMARY, TRIALS
from cyclesep.tuning.search_result import SearchReport

# A minute on an idle machine of two cores; ten where ten others share them.
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
    """A config of a small search, in one folder for all."""
    storage = tmp_path_factory.mktemp("searches")

    def build(name: str, **values: Any) -> TuneConfig:
        train = TRAIN | {"shards": str(tiny_shards)} | values.pop("train", {})
        return settings.build(TuneConfig, {"name": name, "output_dir": str(storage), "train": train} | values)

    return build


@pytest.fixture(scope="module")
def report(configured: Configured) -> SearchReport:
    """A grid of three batch sizes, one of which no trial can have, and the finals of one beside the default."""
    config = configured(
        "grid",
        search="grid",
        scheduler="none",
        space={"crops.batch_size": {"choice": [4, 6, 8]}},
        num_finalists=1,
        num_seeds=1,
        evaluate=True,
    )
    return search(config)


def test_a_trial_that_fails_is_a_row_with_its_reason_and_the_search_goes_on(report: SearchReport) -> None:
    good, bad, other = report.rows
    assert (other.outcome, other.values) == ("completed", {"crops.batch_size": 8})
    assert (good.outcome, good.reason, good.values) == ("completed", "", {"crops.batch_size": 4})
    assert (bad.outcome, bad.values) == ("failed", {"crops.batch_size": 6})
    assert "remix_group_size=4" in bad.reason
    assert [step for step, _ in good.curve] == [4, 8]
    assert good.card["manifest_digest"]


def test_a_trial_is_deterministic(report: SearchReport) -> None:
    """The default has the batch size of the first trial, the finalist that of another: both were trained before."""
    before = {row.values["crops.batch_size"]: row.curve for row in report.rows}
    assert [row.curve for row in report.finals] == [
        before[row.values.get("crops.batch_size", 4)] for row in report.finals
    ]
    assert len(report.finals) == 2


def test_no_more_trials_begin_than_two_cores_hold(report: SearchReport) -> None:
    spans = []
    for file in (report.folder.path / "tune" / "search").glob("*/result.json"):
        told = [json.loads(line) for line in file.read_text().splitlines()]
        spans.append((told[0]["timestamp"] - told[0]["time_total_s"], told[-1]["timestamp"]))
    assert len(spans) == 3
    assert all(
        sum(begin + 1 < other_end and other < begin + 1 for other, other_end in spans) <= 2 for begin, _ in spans
    )


def test_losing_trials_leave_no_checkpoints(report: SearchReport) -> None:
    kept = {path.parent for path in report.folder.path.rglob("step-*")}
    best = max((row for row in report.rows if row.outcome == "completed"), key=lambda row: row.sdr)
    assert kept == {report.winner_run.path, report.folder.path / "trials" / best.run}


def test_the_folder_of_a_search_stands_for_its_winner(report: SearchReport) -> None:
    source = checkpoints.find(report.winner_run)
    assert checkpoints.read_metadata(checkpoints.find(report.folder)) == checkpoints.read_metadata(source)
    assert checkpoints.load_separator(report.folder).targets == ("vocals",)


def test_the_winner_is_scored_on_the_test_split(report: SearchReport) -> None:
    assert report.scores is not None
    scored = [row for row in report.scores.tracks.scored if row.system == report.winner.label]
    assert {row.track_id for row in scored} == {"Song 8", "Song 9"}
    assert all(math.isfinite(row.values["SI-SDR"]) for row in scored)


def test_a_finished_search_is_read_and_not_run_again(report: SearchReport) -> None:
    again = search(report.config)
    assert (again.rows, again.finals) == (report.rows, report.finals)
    with pytest.raises(ConfigError, match=r"was started with other settings \(trials\); give this one another name="):
        search(settings.replace(report.config, {"num_trials": 3}))


def test_everything_that_a_search_leaves_is_there(report: SearchReport) -> None:
    assert {BEST, TRIALS, SUMMARY, PAGE} <= {path.name for path in report.folder.path.iterdir()}
    page = (report.folder.path / PAGE).read_text()
    assert page.count("<svg") == 4
    assert not re.search(r"(?:src|href)=[\"']https?:", page)


def test_the_best_config_trains_as_it_is(report: SearchReport, tmp_path: Path) -> None:
    best = settings.load(TrainConfig, [report.folder.path / BEST])
    assert best == report.best
    trained = fit(settings.replace(best, {"output_dir": str(tmp_path), "init_from": report.folder.place, "steps": 12}))
    assert trained.progress.step == 12


DRIVER = """
import sys
from cyclesep.cli.main import main
if __name__ == "__main__":
    main(["tune", *sys.argv[1:]])
"""


def wait_for(there: Callable[[], bool], seconds: float = 600.0) -> None:
    """Raise TimeoutError unless something is there in time."""
    end = time.monotonic() + seconds
    while not there():
        if time.monotonic() > end:
            raise TimeoutError
        time.sleep(0.02)


def groups() -> set[str]:
    """All placement groups of the cluster that are not removed."""
    listed = list_placement_groups(address=ray.get_runtime_context().gcs_address, limit=1000)
    return {group.placement_group_id for group in listed if group.state != "REMOVED"}


def started(config: TuneConfig, folder: Path) -> subprocess.Popen[str]:
    """The search in a process of its own, on the cluster of the tests."""
    (folder / "tune.yaml").write_text(settings.to_yaml(config))
    (folder / "driver.py").write_text(DRIVER)
    return subprocess.Popen(
        [sys.executable, str(folder / "driver.py"), str(folder / "tune.yaml")],
        env=os.environ | {"RAY_ADDRESS": ray.get_runtime_context().gcs_address},
        stderr=subprocess.PIPE,
        text=True,
    )


def test_a_search_that_was_interrupted_and_killed_goes_on_and_leaves_no_placement_group(
    configured: Configured, tmp_path: Path
) -> None:
    config = configured(
        "stopped", num_trials=3, num_finalists=0, scheduler="none", space={LR: {"loguniform": [0.005, 0.02]}}
    )
    trials = Path(config.output_dir) / config.name / "trials"

    interrupted = started(config, tmp_path)
    wait_for(lambda: any(trials.glob("*/config.yaml")) or interrupted.poll() is not None)
    first = {path.name for path in trials.iterdir()}
    interrupted.send_signal(signal.SIGINT)
    _, told = interrupted.communicate(timeout=300)
    assert interrupted.returncode == 130
    assert told.splitlines()[-1].startswith("cyclesep tune: error: interrupted; what was finished is kept")
    assert "Traceback" not in told
    wait_for(lambda: not groups(), seconds=120)

    killed = started(config, tmp_path)
    wait_for(lambda: any(trials.glob("*/step-*/metadata.json")) or killed.poll() is not None)
    killed.kill()
    killed.communicate()
    wait_for(lambda: not groups(), seconds=120)

    report = search(config)
    assert [row.outcome for row in report.rows] == ["completed"] * 3
    assert first <= {row.run for row in report.rows}
    assert report.winner.label == max(report.rows, key=lambda row: row.sdr).label
    assert not groups_of_this_job()


@pytest.mark.slow
def test_halving_stops_trials_early_and_optuna_proposes_them(configured: Configured) -> None:
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
    report = search(config)
    assert len(report.rows) == 4
    ended = {row.outcome for row in report.rows}
    assert ended <= {"completed", "stopped early", "diverged"}
    assert len(ended) > 1
    assert all(row.step == 4 for row in report.rows if row.outcome == "stopped early")
    assert report.front
    assert all(row.figures["sir"] > row.sdr for row in report.front)


def weight_of(run: Path) -> float:
    return settings.load(TrainConfig, [run / checkpoints.CONFIG]).cyclegan.loss_weights["spectral"]


def sdr_of(run: Path, *, step: int) -> float:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return next(float(line["validation/sdr"]) for line in lines if line["step"] == step)


def adam_steps(run: Path) -> set[int]:
    """The steps that Adam has counted in the last checkpoint of a run."""
    (checkpoint,) = [path.parent for path in run.glob(f"step-{TRAIN['steps']:08d}/{checkpoints.STATE}")]
    state = torch.load(checkpoint / checkpoints.STATE, weights_only=True)
    return {int(each["step"]) for each in state["optimizers"][0]["state"].values()}


def test_a_bad_trial_goes_on_from_a_good_one_with_another_weight_and_its_optimizer(configured: Configured) -> None:
    weight = "method.loss_weights.spectral"
    config = configured(
        "population",
        num_trials=2,
        scheduler="pbt",
        perturbation_interval=4,
        num_finalists=0,
        grace_period=8,
        # One of the two learns nothing: it takes over the other, rate and all.
        space={weight: {"uniform": [0.1, 1.0]}, LR: {"loguniform": [1e-5, 0.02]}},
    )
    report = search(config)
    trials = report.folder.path / "trials"
    followed = [row for row in report.rows if row.values[weight] != weight_of(trials / row.trial)]
    assert followed, "no trial took over another's checkpoint"
    for row in report.rows:
        assert "-" in row.run
        assert row.values[weight] == weight_of(trials / row.run)
        assert 0.1 <= row.values[weight] <= 1.0
    best = trials / report.winner.rows[0].run
    assert adam_steps(best) == {TRAIN["steps"]}
    # What took over the good one is as good as that was, or better. Tune may drop the last report of a trial that goes
    # on from another; the trainer's own metrics hold it.
    before = [sdr_of(trials / row.trial, step=4) for row in report.rows]
    assert min(sdr_of(trials / row.run, step=8) for row in report.rows) > min(before) + 1.0
