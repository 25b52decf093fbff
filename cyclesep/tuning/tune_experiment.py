"""Many trials under Ray Tune: begun, or gone on with where a search was interrupted."""

import logging
import os
import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from ray import tune
from ray.tune.experiment import Trial
from ray.tune.logger import JsonLoggerCallback
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, PopulationBasedTraining, TrialScheduler
from ray.tune.search import BasicVariantGenerator, Searcher
from ray.tune.search.optuna import OptunaSearch
from typing_extensions import override

from cyclesep.storage.filesystem import for_ray
from cyclesep.storage.path import StoragePath
from cyclesep.tuning.config import MINIMIZED_OBJECTIVES, TuneConfig
from cyclesep.tuning.placement_groups import release_placement_groups
from cyclesep.tuning.space import Parameter, Space
from cyclesep.tuning.trial import CONTENDER, SEED, Plan, delete_checkpoints, run_trial
from cyclesep.tuning.trial_progress import Display
from cyclesep.tuning.trial_resources import driver_resources
from cyclesep.tuning.trial_table import TrialRow, rank, row_of

# Read by Tune: one logger that this module names instead of three; a trial that has failed need not name a score.
_ENVIRONMENT = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
    "TUNE_MAX_PENDING_TRIALS_PG": "1",
    "RAY_AIR_NEW_OUTPUT": "0",
}

# Times that a trial is begun again whose driver was lost; Ray Train replaces lost workers before that.
_MAX_LOST_DRIVERS = 1
# PBT may go on from a checkpoint that is not the last one.
_CHECKPOINTS_KEPT = 4


@dataclass(frozen=True, kw_only=True)
class Phase:
    """Trials of one kind: those of a search, or the finals."""

    name: str
    folder: StoragePath
    """Of the search."""
    plan: Plan
    steps: int
    total: int
    """Trials that there will be."""
    at_a_time: int
    keep: int
    """Best trials whose checkpoints are kept."""
    param_space: Mapping[str, Any]
    num_samples: int
    scheduler: TrialScheduler
    searcher: Searcher | None = None

    @property
    def runs(self) -> StoragePath:
        """Where run folders are."""
        return StoragePath.of(self.plan.folder)

    def run(self) -> list[TrialRow]:
        """Run what is missing; the rows of all trials. Raises KeyboardInterrupt when interrupted."""
        os.environ.update(_ENVIRONMENT)
        with _quiet(), release_placement_groups():
            results = self._tuner().fit()
        # Tune counts trials that it has stopped for an interruption as ended.
        ended = [result for result in results if result.error is not None or (result.metrics or {}).get("done")]
        if len(ended) < self.total:
            raise KeyboardInterrupt
        rows = [row_of(result, phase=self.name, plan=self.plan, steps=self.steps) for result in results]
        best = [row.trial for row in rank(rows)[: self.keep]]
        for row in rows:
            # Of a trial that was being stopped a checkpoint may have come after the sweep.
            if row.trial not in best and row.run:
                delete_checkpoints(self.runs.child(row.run))
        return rows

    def _tuner(self) -> tune.Tuner:
        trainable = tune.with_resources(tune.with_parameters(run_trial, plan=self.plan), driver_resources())
        states = self.folder.child("tune")
        path, filesystem = for_ray(states.child(self.name).uri)
        if tune.Tuner.can_restore(path, storage_filesystem=filesystem):
            return tune.Tuner.restore(
                path,
                trainable=trainable,
                resume_unfinished=True,
                resume_errored=False,
                storage_filesystem=filesystem,
            )
        # Left by a search that was killed before Tune knew of its trials.
        for left in (states.child(self.name), self.runs):
            left.delete_all()
        display = Display(self.name, total=self.total, at_a_time=self.at_a_time, steps=self.steps)
        sweeper = CheckpointPruner(runs=self.runs, keep=self.keep)
        return tune.Tuner(
            trainable,
            param_space=dict(self.param_space),
            tune_config=tune.TuneConfig(
                num_samples=self.num_samples,
                max_concurrent_trials=self.at_a_time,
                scheduler=self.scheduler,
                search_alg=self.searcher,
                trial_dirname_creator=_trial_name,
                trial_name_creator=_trial_name,
            ),
            run_config=tune.RunConfig(
                name=self.name,
                storage_path=for_ray(states.uri)[0],
                storage_filesystem=filesystem,
                verbose=0,
                callbacks=[JsonLoggerCallback(), display, sweeper],
                failure_config=tune.FailureConfig(max_failures=_MAX_LOST_DRIVERS),
                checkpoint_config=tune.CheckpointConfig(
                    num_to_keep=_CHECKPOINTS_KEPT if self.plan.checkpoint_every else None
                ),
            ),
        )


class CheckpointPruner(tune.Callback):  # type: ignore[misc]
    """Deletes the checkpoints of trials that have ended and are not among the best."""

    def __init__(self, *, runs: StoragePath, keep: int) -> None:
        self.runs, self.keep = runs, keep
        self._swept: set[str] = set()

    @override
    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        self._sweep(trials)

    @override
    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        self._sweep(trials)

    def _sweep(self, trials: Sequence[Trial]) -> None:
        ended = [trial for trial in trials if trial.is_finished()]
        losing = {trial.trial_id for trial in sorted(ended, key=_standing, reverse=True)[self.keep :]} - self._swept
        self._swept |= losing
        for name in self.runs.folders() if losing else ():
            if name.startswith(tuple(losing)):
                delete_checkpoints(self.runs.child(name))


def search_phase(
    config: TuneConfig, folder: StoragePath, plan: Plan, space: Space, *, total: int, at_a_time: int
) -> Phase:
    """The trials of a search."""
    steps = config.train.steps
    domains = {parameter.name: domain(parameter, grid=config.search == "grid") for parameter in space.parameters}
    return Phase(
        name="search",
        folder=folder,
        plan=plan,
        steps=steps,
        total=total,
        at_a_time=at_a_time,
        keep=max(1, config.num_finalists),
        param_space={} if config.scheduler == "pbt" else domains,
        num_samples=1 if config.search == "grid" else config.num_trials,
        scheduler=_scheduler(config, domains, space),
        searcher=_searcher(config, at_a_time),
    )


def final_phase(config: TuneConfig, folder: StoragePath, plan: Plan, *, at_a_time: int) -> Phase:
    """Every contender of `plan` with every seed, to the end."""
    seeds = [config.train.seed + number for number in range(config.num_seeds)]
    return Phase(
        name="finals",
        folder=folder,
        plan=plan,
        steps=config.train.steps,
        total=len(plan.contenders) * len(seeds),
        at_a_time=at_a_time,
        keep=len(plan.contenders) * len(seeds),
        param_space={
            CONTENDER: tune.grid_search(list(range(len(plan.contenders)))),
            SEED: tune.grid_search(seeds),
        },
        num_samples=1,
        scheduler=FIFOScheduler(),
    )


def domain(parameter: Parameter, *, grid: bool = False) -> Any:
    """What Tune draws a parameter from."""
    low, high = parameter.values[0], parameter.values[-1]
    if parameter.kind == "choice":
        plain = [parameter.to_plain(value) for value in parameter.values]
        return tune.grid_search(plain) if grid else tune.choice(plain)
    if parameter.kind == "randint":
        # Tune leaves out the upper end.
        return tune.randint(low, high + 1)
    return tune.loguniform(low, high) if parameter.kind == "loguniform" else tune.uniform(low, high)


def _scheduler(config: TuneConfig, domains: Mapping[str, Any], space: Space) -> TrialScheduler:
    if config.scheduler == "none":
        return FIFOScheduler()
    common: dict[str, Any] = {"time_attr": "step", "metric": config.objectives[0], "mode": "max"}
    if config.scheduler == "asha":
        return ASHAScheduler(
            **common, max_t=config.train.steps, grace_period=config.grace, reduction_factor=config.reduction_factor
        )
    # Tune draws for PBT from these.
    random.seed(config.seed)
    np.random.seed(config.seed)  # noqa: NPY002
    return PopulationBasedTraining(
        **common,
        # All are compared at the same step; otherwise one that began late meets nobody that it could go on from.
        synch=True,
        perturbation_interval=config.perturbation,
        # A list of choices is walked through step by step; a domain would be multiplied.
        hyperparam_mutations={
            each.name: list(domains[each.name].categories) if each.kind == "choice" else domains[each.name]
            for each in space.parameters
        },
        custom_explore_fn=partial(_within, space),
        # A trial that has diverged or failed tells no score.
        require_attrs=False,
        quantile_fraction=0.25,
        log_config=False,
    )


def _within(space: Space, drawn: dict[str, Any]) -> dict[str, Any]:
    """PBT multiplies values by 0.8 or 1.2; they stay within the space, and whole where they were."""
    for each in space.parameters:
        if each.kind != "choice" and each.name in drawn:
            value = min(max(drawn[each.name], each.values[0]), each.values[1])
            drawn[each.name] = round(value) if each.kind == "randint" else value
    return drawn


class _Optuna(OptunaSearch):  # type: ignore[misc]
    """Optuna's TPE, to which a trial without a score has failed; in the original such a trial never ends."""

    @override
    def on_trial_complete(self, trial_id: str, result: dict | None = None, error: bool = False) -> None:
        wanted = self.metric if isinstance(self.metric, list) else [self.metric]
        told = result is not None and all(result.get(name) is not None for name in wanted)
        super().on_trial_complete(trial_id, result if told else None, error=error or not told)


def _searcher(config: TuneConfig, at_a_time: int) -> Any:
    if config.search != "optuna":
        # What the config of Tune says of concurrency does not reach one that is given to it.
        return BasicVariantGenerator(random_state=config.seed, max_concurrent=at_a_time)
    modes = ["min" if objective in MINIMIZED_OBJECTIVES else "max" for objective in config.objectives]
    if len(modes) > 1:
        return _Optuna(metric=list(config.objectives), mode=modes, seed=config.seed)
    return _Optuna(metric=config.objectives[0], mode=modes[0], seed=config.seed)


def _trial_name(trial: Trial) -> str:
    return str(trial.trial_id)


def _standing(trial: Trial) -> tuple[int, float]:
    told = trial.last_result or {}
    if told.get("sdr") is None or told.get("reason"):
        return -1, 0.0
    return int(told["step"]), float(told["sdr"])


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what Ray Tune logs of each trial: the display and the rows tell it."""
    loggers = [logging.getLogger(name) for name in ("ray.tune", "ray.train", "optuna")]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)
