"""A Ray Tune experiment: the trials of a search or of its finals, started or resumed."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from ray import tune
from ray.tune.experiment import Trial
from ray.tune.logger import JsonLoggerCallback
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher
from typing_extensions import override

from cyclesep.cluster.environment import SEARCH, temporarily
from cyclesep.storage.filesystem import for_ray
from cyclesep.storage.path import StoragePath
from cyclesep.tuning.config import TuneConfig
from cyclesep.tuning.schedulers import make_domain, make_scheduler, make_search_algorithm
from cyclesep.tuning.space import Space
from cyclesep.tuning.trial import FINALIST, SEED, TrialConfig, delete_checkpoints, run_trial
from cyclesep.tuning.trial_progress import ProgressCallback
from cyclesep.tuning.trial_resources import driver_resources, release_placement_groups
from cyclesep.tuning.trial_table import TrialRow, rank_trials, trial_row

# Restarts of a trial whose driver was lost; Ray Train restarts lost workers itself.
_MAX_DRIVER_FAILURES = 1
# Checkpoints per trial; PBT can continue from an older one.
_NUM_CHECKPOINTS = 4


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """Trials of one kind: those of the search, or those of the finals."""

    name: str
    """`search` or `finals`."""
    folder: StoragePath
    """Folder of the search."""
    trial_config: TrialConfig
    steps: int
    num_trials: int
    max_concurrent: int
    keep: int
    """Best trials whose checkpoints are kept."""
    param_space: Mapping[str, Any]
    num_samples: int
    scheduler: TrialScheduler
    searcher: Searcher | None = None

    @property
    def runs(self) -> StoragePath:
        """Parent of the run folders."""
        return StoragePath.of(self.trial_config.folder)

    def run(self) -> list[TrialRow]:
        """Run all trials that have not ended and return the rows of all; raises KeyboardInterrupt if interrupted."""
        with temporarily(SEARCH), _suppress_ray_logs(), release_placement_groups():
            results = self._tuner().fit()
        # Tune returns trials that an interrupt stopped as well.
        ended = [result for result in results if result.error is not None or (result.metrics or {}).get("done")]
        if len(ended) < self.num_trials:
            raise KeyboardInterrupt
        rows = [
            trial_row(result, phase=self.name, trial_config=self.trial_config, steps=self.steps) for result in results
        ]
        best = [row.trial for row in rank_trials(rows)[: self.keep]]
        for row in rows:
            # A trial that was being stopped can write a checkpoint after CheckpointPruner has run.
            if row.trial not in best and row.run:
                delete_checkpoints(self.runs.child(row.run))
        return rows

    def _tuner(self) -> tune.Tuner:
        """Return a tuner that resumes the experiment if its state exists."""
        trainable = tune.with_resources(
            tune.with_parameters(run_trial, trial_config=self.trial_config), driver_resources()
        )
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
        # Remains of a search that was killed before Tune saved its state.
        for leftover in (states.child(self.name), self.runs):
            leftover.delete_all()
        return tune.Tuner(
            trainable,
            param_space=dict(self.param_space),
            tune_config=tune.TuneConfig(
                num_samples=self.num_samples,
                max_concurrent_trials=self.max_concurrent,
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
                callbacks=self._callbacks(),
                failure_config=tune.FailureConfig(max_failures=_MAX_DRIVER_FAILURES),
                checkpoint_config=tune.CheckpointConfig(
                    num_to_keep=_NUM_CHECKPOINTS if self.trial_config.checkpoint_every else None
                ),
            ),
        )

    def _callbacks(self) -> list[tune.Callback]:
        progress = ProgressCallback(
            self.name, num_trials=self.num_trials, max_concurrent=self.max_concurrent, steps=self.steps
        )
        return [JsonLoggerCallback(), progress, CheckpointPruner(runs=self.runs, keep=self.keep)]


class CheckpointPruner(tune.Callback):  # type: ignore[misc]
    """Deletes the checkpoints of trials that have ended and are not among the best."""

    def __init__(self, *, runs: StoragePath, keep: int) -> None:
        self.runs, self.keep = runs, keep
        self._pruned: set[str] = set()

    @override
    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        self._prune(trials)

    @override
    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        self._prune(trials)

    def _prune(self, trials: Sequence[Trial]) -> None:
        ended = [trial for trial in trials if trial.is_finished()]
        ranked = [trial.trial_id for trial in sorted(ended, key=_rank_key, reverse=True)]
        losers = set(ranked[self.keep :]) - self._pruned
        self._pruned |= losers
        for name in self.runs.folders() if losers else ():
            if name.startswith(tuple(losers)):
                delete_checkpoints(self.runs.child(name))


def search_experiment(
    config: TuneConfig,
    folder: StoragePath,
    trial_config: TrialConfig,
    space: Space,
    *,
    num_trials: int,
    max_concurrent: int,
) -> Experiment:
    """Return the experiment with the trials of a search."""
    domains = {parameter.name: make_domain(parameter, grid=config.search == "grid") for parameter in space.parameters}
    return Experiment(
        name="search",
        folder=folder,
        trial_config=trial_config,
        steps=config.train.steps,
        num_trials=num_trials,
        max_concurrent=max_concurrent,
        keep=max(1, config.num_finalists),
        param_space={} if config.scheduler == "pbt" else domains,
        num_samples=1 if config.search == "grid" else config.num_trials,
        scheduler=make_scheduler(config, domains, space),
        searcher=make_search_algorithm(config, max_concurrent),
    )


def finals_experiment(
    config: TuneConfig, folder: StoragePath, trial_config: TrialConfig, *, max_concurrent: int
) -> Experiment:
    """Return the experiment that trains every finalist with every seed for all steps."""
    seeds = [config.train.seed + number for number in range(config.num_seeds)]
    num_finalists = len(trial_config.finalists)
    return Experiment(
        name="finals",
        folder=folder,
        trial_config=trial_config,
        steps=config.train.steps,
        num_trials=num_finalists * len(seeds),
        max_concurrent=max_concurrent,
        keep=num_finalists * len(seeds),
        param_space={FINALIST: tune.grid_search(list(range(num_finalists))), SEED: tune.grid_search(seeds)},
        num_samples=1,
        scheduler=FIFOScheduler(),
    )


def _trial_name(trial: Trial) -> str:
    return str(trial.trial_id)


def _rank_key(trial: Trial) -> tuple[int, float]:
    """Sort key of a trial: steps, then SDR; trials without a score come last."""
    result = trial.last_result or {}
    if result.get("sdr") is None or result.get("reason"):
        return -1, 0.0
    return int(result["step"]), float(result["sdr"])


@contextmanager
def _suppress_ray_logs() -> Iterator[None]:
    """Suppress Ray Tune's log messages about single trials, which the progress display and the table report."""
    loggers = [logging.getLogger(name) for name in ("ray.tune", "ray.train", "optuna")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
