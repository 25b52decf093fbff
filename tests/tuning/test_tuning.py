"""Parts of a search that need no cluster: concurrency, ranking, significance, trial table and progress."""

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
from cyclesep.tuning import search_result, trial_resources
from cyclesep.tuning.config import TuneConfig
from cyclesep.tuning.finals import Finalist, FinalistResult, compare_with_winner, rank_finalists
from cyclesep.tuning.importance import common_step, parameter_importance
from cyclesep.tuning.report_callback import ValidationReport
from cyclesep.tuning.space import Parameter, Space
from cyclesep.tuning.trial import TrialConfig, divergence_reason
from cyclesep.tuning.trial_progress import TrialStats
from cyclesep.tuning.trial_resources import DRIVER_MEMORY, num_concurrent
from cyclesep.tuning.trial_table import TrialRow, pareto_front, rank_trials, read_rows, trial_label, write_rows
from cyclesep.tuning.validation_set import si_sir

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
    """Return the row of a trial with a validation every 30 steps, all with the same SDR."""
    base = TrialRow(
        phase="search",
        trial=f"ab_{number:05d}",
        run=f"ab_{number:05d}",
        values={LR: lr, NAME: "tfsep"},
        outcome="completed" if step == 90 else "stopped early",
        step=step,
        metrics={} if math.isnan(sdr) else {"sdr": sdr, "seconds": float(step)},
        curve=() if math.isnan(sdr) else tuple((at, sdr) for at in range(30, step + 1, 30)),
    )
    return replace(base, **values)


@pytest.mark.parametrize(
    ("values", "nodes", "fitting"),
    [
        ({}, [LAPTOP], 2),
        ({"train": {"num_workers": 2}}, [LAPTOP], 1),
        ({"train": {"cpus_per_worker": 0.5}}, [LAPTOP], 4),
        ({"max_concurrent": 1}, [LAPTOP], 1),
        # A driver needs memory, in addition to the CPUs of its workers.
        ({}, [{"CPU": 64.0, "memory": 3.5 * DRIVER_MEMORY}], 3),
        # One GPU, whole or shared; CPUs can be the limit.
        ({"train": {"cpus_per_worker": 4}}, [ONE_GPU], 1),
        ({"gpus_per_trial": 0.25, "train": {"cpus_per_worker": 2}}, [ONE_GPU], 4),
        ({"gpus_per_trial": 0.3, "train": {"cpus_per_worker": 2}}, [ONE_GPU], 3),
        ({"gpus_per_trial": 0.1, "train": {"cpus_per_worker": 4}}, [ONE_GPU], 4),
        ({"gpus_per_trial": 0.1, "train": {"use_gpu": False, "cpus_per_worker": 1}}, [ONE_GPU], 16),
        # A cluster: each worker is on one machine; the workers of a trial can be on several.
        ({"train": {"num_workers": 2, "cpus_per_worker": 8}}, [ONE_GPU] * 3 + [LAPTOP], 1),
        ({"train": {"num_workers": 3, "use_gpu": False, "cpus_per_worker": 5}}, [ONE_GPU] * 3, 3),
        ({"train": {"cpus_per_worker": 1.5}}, [LAPTOP] * 3, 3),
    ],
)
def test_num_concurrent_counts_drivers_and_workers(
    values: dict[str, Any], nodes: list[dict[str, float]], fitting: int
) -> None:
    assert num_concurrent(config(**values), nodes) == fitting


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"train": {"num_workers": 3}}, "needs 3 workers of 1 CPU each.* the cluster has 2 CPUs"),
        ({"train": {"cpus_per_worker": 4}}, "reduce the resources of a trial"),
        ({"train": {"use_gpu": True}}, "and 1 GPU each.* 0 GPUs"),
        ({"scheduler": "pbt", "num_trials": 4}, "all trials at a time and the cluster has room for 2"),
    ],
)
def test_trial_that_never_fits_raises(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        num_concurrent(config(**values), [LAPTOP])


def test_trials_rank_by_steps_then_by_sdr() -> None:
    rows = [row(0, 9.0, step=30), row(1, 3.0), row(2, 5.0), row(3, 99.0, outcome="diverged"), row(4)]
    assert [each.label for each in rank_trials(rows)] == ["t02", "t01", "t00"]


def test_pareto_front_excludes_dominated_trials() -> None:
    costs = {0: (5.0, 100.0), 1: (4.0, 50.0), 2: (4.5, 120.0), 3: (5.0, 90.0)}
    rows = [row(number, metrics={"sdr": sdr, "seconds": cost}) for number, (sdr, cost) in costs.items()]
    front = pareto_front(rows, {"sdr": 1, "seconds": -1})
    assert [each.label for each in front] == ["t01", "t03"]


def ranking_of(values: dict[str, list[float]]) -> list[FinalistResult]:
    finalists = [Finalist(label=label, values={}) for label in values]
    finals = [
        row(10 * number + seed, sdr, finalist=number, seed=seed)
        for number, trained in enumerate(values.values())
        for seed, sdr in enumerate(trained)
    ]
    return rank_finalists(finalists, finals)


def test_finalists_rank_by_mean_with_significance() -> None:
    ranked = ranking_of({"default": [4.0, 4.1, 3.9], "t03": [6.0, 6.2, 6.1], "t01": [7.0, 5.3, 6.1]})
    assert [each.label for each in ranked] == ["t01", "t03", "default"]
    assert ranked[1].mean == pytest.approx(6.1)
    assert ranked[1].std == pytest.approx(0.1)
    against_t03, against_default = compare_with_winner(ranked)
    assert not against_t03.is_significant
    assert "within noise" in str(against_t03)
    assert against_default.difference == pytest.approx(6.1333 - 4.0, abs=1e-3)
    clear = compare_with_winner(ranking_of({"default": [4.0, 4.1, 3.9], "t03": [6.0, 6.2, 6.1]}))[0]
    assert clear.is_significant
    assert ": significant (Welch's t-test" in str(clear)


def test_one_seed_has_no_significance_test() -> None:
    (comparison,) = compare_with_winner(ranking_of({"default": [4.0], "t03": [6.0]}))
    assert not comparison.is_significant
    assert str(comparison) == "+2.00 dB compared with default: too few seeds for a significance test"


def test_untrained_finalist_is_last_and_not_compared() -> None:
    ranked = ranking_of({"default": [], "t03": [-3.0, -3.1]})
    assert [each.label for each in ranked] == ["t03", "default"]
    assert compare_with_winner(ranked) == []


TRIAL_CONFIG = TrialConfig(train={}, space=SPACE, folder="", gpus_per_trial=1.0, grace_period=50, mixture_sdr=-5.0)


@pytest.mark.parametrize(
    ("step", "sdr", "reason"),
    [
        (10, math.nan, "validation SDR is nan at step 10"),
        (10, -9.0, ""),
        (50, -9.0, "SDR -9.00 dB at step 50 is below that of the mixture, -5.00 dB"),
        (50, -4.9, ""),
    ],
)
def test_run_below_the_mixture_after_grace_period_has_diverged(step: int, sdr: float, reason: str) -> None:
    report = ValidationReport(step=step, metrics={"validation/sdr": sdr}, training_seconds=1.0)
    assert divergence_reason(report, TRIAL_CONFIG) == reason


def test_trial_table_round_trip(tmp_path: Path) -> None:
    rows = [
        row(0, 3.0),
        row(1, outcome="failed", reason="why"),
        row(2, 4.0, finalist=1, seed=7, phase="finals", values={LR: 2e-3}, origin={"commit": "abc"}),
    ]
    write_rows(rows, SPACE, tmp_path / "trials.parquet", search="s")
    assert read_rows(tmp_path / "trials.parquet", SPACE) == rows


def test_importance_finds_the_relevant_parameter() -> None:
    rng = np.random.default_rng(0)
    rates = 10 ** rng.uniform(-4, -2, 24)
    names = rng.choice(["tfsep", "waveunet"], 24)
    rows = [
        row(number, 10 * math.log10(rate), lr=rate, values={LR: float(rate), NAME: str(name)})
        for number, (rate, name) in enumerate(zip(rates, names, strict=True))
    ]
    fractions = parameter_importance(rows, SPACE)
    assert next(iter(fractions)) == LR
    assert fractions[LR] > 0.9
    assert sum(fractions.values()) == pytest.approx(1.0)


def test_importance_compares_trials_at_their_last_common_step() -> None:
    rows = [row(0, 1.0), row(1, 2.0, step=60), row(2, 3.0), row(3, 4.0, step=30), row(4, 9.0, outcome="diverged")]
    assert common_step(rows) == 30
    assert common_step(rows[:3]) is None
    assert parameter_importance(rows[:3], SPACE) == {}


def test_time_left_is_estimated_from_ended_trials() -> None:
    stats = TrialStats(num_trials=6, max_concurrent=2)
    stats.start("a", 0.0)
    stats.start("b", 0.0)
    assert stats.seconds_left(5.0) is None
    stats.validated("t00", 3.0)
    stats.validated("t01", 2.0)
    stats.end("a", 10.0, early=True)
    stats.end("b", 10.0, early=False)
    stats.start("c", 10.0)
    # Three more trials of 10 s and half of one, two at a time.
    assert stats.seconds_left(15.0) == pytest.approx((3 * 10 + 5) / 2)
    assert stats.line(15.0) == "1 running, 2 of 6 ended, 1 of them early, best 3.00 dB (t00), about 18 s left"


def test_si_sir_measures_interference() -> None:
    time = torch.arange(800, dtype=torch.float64)
    target, others = torch.sin(time * 0.05 * math.pi), torch.sin(time * 0.1 * math.pi)
    noise = torch.sin(time * 0.2 * math.pi)
    estimate = 0.5 * (target + 0.1 * others + 0.3 * noise)
    shape = (1, 1, 1, -1)
    ratio = si_sir(target.view(shape), others.view(shape), estimate.view(shape))
    assert float(ratio) == pytest.approx(20.0, abs=1e-6)


def test_trial_label_is_its_number_or_optuna_id() -> None:
    assert [trial_label(trial_id) for trial_id in ("db58d_00007", "db58d_00123", "b5d29a7e")] == [
        "t07",
        "t123",
        "b5d29a7e",
    ]


def test_complete_checkpoint_copy_is_reused_after_a_kill(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, search = StoragePath.of(tmp_path / "run/step-8"), StoragePath.of(tmp_path / "search")
    for folder in (source, search.child("best")):
        folder.write_text("metadata.json", "{}")
    monkeypatch.setattr(search_result, "find_checkpoint", lambda _: source)
    monkeypatch.setattr(search_result, "read_metadata", lambda _: "the same")
    search_result._copy_checkpoint(SimpleNamespace(winner_run=None, folder=search))  # type: ignore[arg-type]
    assert json.loads(search.read_text("run.json")) == {"best": "best", "last": "best"}


def test_search_runs_on_a_cluster_without_dashboard(monkeypatch: pytest.MonkeyPatch) -> None:
    def unavailable() -> set[str]:
        raise ServerUnavailable("no dashboard")

    monkeypatch.setattr(trial_resources, "job_placement_groups", unavailable)
    with trial_resources.release_placement_groups():
        pass
