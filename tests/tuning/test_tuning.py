"""The parts of a search that need no cluster: how many trials fit, who is best, what is noise, what is left to wait."""

import json
import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from ray.util.state.exception import ServerUnavailable

from cyclesep.config import settings
from cyclesep.errors import ConfigError
from cyclesep.storage.path import StoragePath
from cyclesep.tuning import placement_groups, search_artifacts
from cyclesep.tuning.config import TuneConfig
from cyclesep.tuning.finalists import Contender, standings, verdicts
from cyclesep.tuning.importance import common_step, importance
from cyclesep.tuning.report_callback import Report
from cyclesep.tuning.si_sir import si_sir
from cyclesep.tuning.space import Parameter, Space
from cyclesep.tuning.trial import Plan, divergence
from cyclesep.tuning.trial_progress import TrialStats
from cyclesep.tuning.trial_resources import DRIVER_MEMORY, num_concurrent
from cyclesep.tuning.trial_table import TrialRow, label, pareto_front, rank, read_rows, write_rows

GIB = float(1 << 30)
LAPTOP = {"CPU": 2.0, "memory": 8 * GIB}
ONE_GPU = {"CPU": 16.0, "GPU": 1.0, "memory": 64 * GIB}
LR, NAME = "method.optimizer.lr_separator", "method.separator.name"
SPACE = Space(
    parameters=(
        Parameter(name=LR, kind="loguniform", values=(1e-4, 1e-2)),
        Parameter(name=NAME, kind="choice", values=("tfsep", "waveunet")),
    )
)


def config(**values: Any) -> TuneConfig:
    return settings.build(TuneConfig, values)


def row(number: int, sdr: float = math.nan, *, step: int = 90, lr: float = 1e-3, **values: Any) -> TrialRow:
    """A trial that was validated every 30 steps, the same value each time."""
    made = TrialRow(
        phase="search",
        trial=f"ab_{number:05d}",
        run=f"ab_{number:05d}",
        values={LR: lr, NAME: "tfsep"},
        outcome="completed" if step == 90 else "stopped early",
        step=step,
        figures={} if math.isnan(sdr) else {"sdr": sdr, "seconds": float(step)},
        curve=() if math.isnan(sdr) else tuple((at, sdr) for at in range(30, step + 1, 30)),
    )
    return replace(made, **values)


@pytest.mark.parametrize(
    ("values", "nodes", "fitting"),
    [
        ({}, [LAPTOP], 2),
        ({"train": {"num_workers": 2}}, [LAPTOP], 1),
        ({"train": {"cpus_per_worker": 0.5}}, [LAPTOP], 4),
        ({"max_concurrent": 1}, [LAPTOP], 1),
        # Each driver is counted by its memory, beside the processors of its workers.
        ({}, [{"CPU": 64.0, "memory": 3.5 * DRIVER_MEMORY}], 3),
        # One GPU: alone, or in shares; processors may be what is short.
        ({"train": {"cpus_per_worker": 4}}, [ONE_GPU], 1),
        ({"gpus_per_trial": 0.25, "train": {"cpus_per_worker": 2}}, [ONE_GPU], 4),
        ({"gpus_per_trial": 0.3, "train": {"cpus_per_worker": 2}}, [ONE_GPU], 3),
        ({"gpus_per_trial": 0.1, "train": {"cpus_per_worker": 4}}, [ONE_GPU], 4),
        ({"gpus_per_trial": 0.1, "train": {"use_gpu": False, "cpus_per_worker": 1}}, [ONE_GPU], 16),
        # A cluster: a worker lies on one machine, the workers of a trial on any.
        ({"train": {"num_workers": 2, "cpus_per_worker": 8}}, [ONE_GPU] * 3 + [LAPTOP], 1),
        ({"train": {"num_workers": 3, "use_gpu": False, "cpus_per_worker": 5}}, [ONE_GPU] * 3, 3),
        ({"train": {"cpus_per_worker": 1.5}}, [LAPTOP] * 3, 3),
    ],
)
def test_as_many_trials_run_as_their_drivers_and_workers_fit_together(
    values: dict[str, Any], nodes: list[dict[str, float]], fitting: int
) -> None:
    assert num_concurrent(config(**values), nodes) == fitting


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"train": {"num_workers": 3}}, "takes 3 workers of 1 CPU each.* the cluster has 2 CPUs"),
        ({"train": {"cpus_per_worker": 4}}, "lower what a trial takes"),
        ({"train": {"use_gpu": True}}, "and 1 GPU each.* 0 GPUs"),
        ({"scheduler": "pbt", "num_trials": 4}, "all of them at a time and the cluster holds 2"),
    ],
)
def test_what_can_never_start_is_refused(values: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        num_concurrent(config(**values), [LAPTOP])


def test_who_went_furthest_ranks_before_who_was_better_for_a_while() -> None:
    rows = [row(0, 9.0, step=30), row(1, 3.0), row(2, 5.0), row(3, 99.0, outcome="diverged"), row(4)]
    assert [each.label for each in rank(rows)] == ["t02", "t01", "t00"]


def test_the_front_leaves_out_who_is_beaten_in_everything() -> None:
    costs = {0: (5.0, 100.0), 1: (4.0, 50.0), 2: (4.5, 120.0), 3: (5.0, 90.0)}
    rows = [row(number, figures={"sdr": sdr, "seconds": cost}) for number, (sdr, cost) in costs.items()]
    front = pareto_front(rows, {"sdr": 1, "seconds": -1})
    assert [each.label for each in front] == ["t01", "t03"]


def standing_of(values: dict[str, list[float]]) -> Any:
    contenders = [Contender(label=label, values={}) for label in values]
    finals = [
        row(10 * number + seed, sdr, contender=number, seed=seed)
        for number, trained in enumerate(values.values())
        for seed, sdr in enumerate(trained)
    ]
    return standings(contenders, finals)


def test_finalists_are_ranked_by_their_mean_and_differences_beside_their_spread() -> None:
    ranked = standing_of({"default": [4.0, 4.1, 3.9], "t03": [6.0, 6.2, 6.1], "t01": [7.0, 5.3, 6.1]})
    assert [each.label for each in ranked] == ["t01", "t03", "default"]
    assert ranked[1].mean == pytest.approx(6.1)
    assert ranked[1].spread == pytest.approx(0.1)
    against_t03, against_default = verdicts(ranked)
    assert against_t03.is_noise
    assert "within noise" in str(against_t03)
    assert against_default.difference == pytest.approx(6.1333 - 4.0, abs=1e-3)
    clear = verdicts(standing_of({"default": [4.0, 4.1, 3.9], "t03": [6.0, 6.2, 6.1]}))[0]
    assert not clear.is_noise
    assert "more than noise" in str(clear)


def test_one_seed_tells_no_noise() -> None:
    (verdict,) = verdicts(standing_of({"default": [4.0], "t03": [6.0]}))
    assert verdict.is_noise
    assert str(verdict) == "+2.00 dB against default: within noise, as far as so few seeds can tell"


def test_a_finalist_that_was_never_trained_comes_last_and_is_not_compared() -> None:
    ranked = standing_of({"default": [], "t03": [-3.0, -3.1]})
    assert [each.label for each in ranked] == ["t03", "default"]
    assert verdicts(ranked) == []


PLAN = Plan(train={}, space=SPACE, folder="", gpus_per_trial=1.0, grace_period=50, mixture_sdr=-5.0)


@pytest.mark.parametrize(
    ("step", "sdr", "told"),
    [
        (10, math.nan, "validation SDR is nan at step 10"),
        (10, -9.0, ""),
        (50, -9.0, "SDR -9.00 dB at step 50 is below the mixture's own -5.00 dB"),
        (50, -4.9, ""),
    ],
)
def test_a_run_has_diverged_when_it_is_worse_than_the_mixture_after_grace(step: int, sdr: float, told: str) -> None:
    report = Report(step=step, metrics={"validation/sdr": sdr}, training_seconds=1.0)
    assert divergence(report, PLAN) == told


def test_the_table_gives_back_its_rows(tmp_path: Path) -> None:
    rows = [
        row(0, 3.0),
        row(1, outcome="failed", reason="why"),
        row(2, 4.0, contender=1, seed=7, phase="finals", values={LR: 2e-3}, card={"commit": "abc"}),
    ]
    write_rows(rows, SPACE, tmp_path / "trials.parquet", search="s")
    assert read_rows(tmp_path / "trials.parquet", SPACE) == rows


def test_importance_finds_the_parameter_that_decides() -> None:
    rng = np.random.default_rng(0)
    rates = 10 ** rng.uniform(-4, -2, 24)
    names = rng.choice(["tfsep", "waveunet"], 24)
    rows = [
        row(number, 10 * math.log10(rate), lr=rate, values={LR: float(rate), NAME: str(name)})
        for number, (rate, name) in enumerate(zip(rates, names, strict=True))
    ]
    shares = importance(rows, SPACE)
    assert next(iter(shares)) == LR
    assert shares[LR] > 0.9
    assert sum(shares.values()) == pytest.approx(1.0)


def test_trials_that_were_stopped_are_compared_where_they_still_ran() -> None:
    rows = [row(0, 1.0), row(1, 2.0, step=60), row(2, 3.0), row(3, 4.0, step=30), row(4, 9.0, outcome="diverged")]
    assert common_step(rows) == 30
    assert common_step(rows[:3]) is None
    assert importance(rows[:3], SPACE) == {}


def test_the_time_left_is_what_trials_took_before() -> None:
    tally = TrialStats(total=6, at_a_time=2)
    tally.begin("a", 0.0)
    tally.begin("b", 0.0)
    assert tally.seconds_left(5.0) is None
    tally.score("t00", 3.0)
    tally.score("t01", 2.0)
    tally.end("a", 10.0, early=True)
    tally.end("b", 10.0, early=False)
    tally.begin("c", 10.0)
    # Three more of 10 s and half of one, two at a time.
    assert tally.seconds_left(15.0) == pytest.approx((3 * 10 + 5) / 2)
    assert tally.line(15.0) == "1 running, 2 of 6 ended, 1 of them early, best 3.00 dB (t00), about 18 s left"


def test_si_sir_is_the_ratio_of_what_is_left_of_the_others() -> None:
    time = torch.arange(800, dtype=torch.float64)
    target, others = torch.sin(time * 0.05 * math.pi), torch.sin(time * 0.1 * math.pi)
    noise = torch.sin(time * 0.2 * math.pi)
    estimate = 0.5 * (target + 0.1 * others + 0.3 * noise)
    shape = (1, 1, 1, -1)
    found = si_sir(target.view(shape), others.view(shape), estimate.view(shape))
    assert float(found) == pytest.approx(20.0, abs=1e-6)


def test_a_trial_is_called_by_its_number_or_by_the_id_that_optuna_gave_it() -> None:
    assert [label(trial_id) for trial_id in ("db58d_00007", "db58d_00123", "b5d29a7e")] == ["t07", "t123", "b5d29a7e"]


def test_a_copy_that_was_made_whole_before_its_search_was_killed_still_stands_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, search = StoragePath.of(tmp_path / "run/step-8"), StoragePath.of(tmp_path / "search")
    for folder in (source, search.below("best")):
        folder.write_text("metadata.json", "{}")
    monkeypatch.setattr(search_artifacts.checkpoints, "located", lambda _: source)
    monkeypatch.setattr(search_artifacts.checkpoints, "read_metadata", lambda _: "the same")
    search_artifacts._keep_checkpoint(SimpleNamespace(winner_run=None, folder=search))  # type: ignore[arg-type]
    assert json.loads(search.read_text("run.json")) == {"best": "best", "last": "best"}


def test_a_cluster_without_a_dashboard_holds_a_search_too(monkeypatch: pytest.MonkeyPatch) -> None:
    def unavailable() -> set[str]:
        raise ServerUnavailable("no dashboard")

    monkeypatch.setattr(placement_groups, "groups_of_this_job", unavailable)
    with placement_groups.release_placement_groups():
        pass
