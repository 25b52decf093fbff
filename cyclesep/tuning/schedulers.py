"""Ray Tune's distributions, trial schedulers and search algorithms for a search."""

import random
from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
from ray import tune
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, PopulationBasedTraining, TrialScheduler
from ray.tune.search import BasicVariantGenerator
from ray.tune.search.optuna import OptunaSearch
from typing_extensions import override

from cyclesep.tuning.config import MINIMIZED_OBJECTIVES, TuneConfig
from cyclesep.tuning.space import Parameter, Space


def make_domain(parameter: Parameter, *, grid: bool = False) -> Any:
    """Return Tune's distribution of a parameter; with `grid`, all of its choices."""
    low, high = parameter.values[0], parameter.values[-1]
    if parameter.kind == "choice":
        plain = [parameter.to_plain(value) for value in parameter.values]
        return tune.grid_search(plain) if grid else tune.choice(plain)
    if parameter.kind == "randint":
        # Tune excludes the upper bound.
        return tune.randint(low, high + 1)
    return tune.loguniform(low, high) if parameter.kind == "loguniform" else tune.uniform(low, high)


def make_scheduler(config: TuneConfig, domains: Mapping[str, Any], space: Space) -> TrialScheduler:
    """Return the scheduler that stops or perturbs trials."""
    if config.scheduler == "none":
        return FIFOScheduler()
    common: dict[str, Any] = {"time_attr": "step", "metric": config.objectives[0], "mode": "max"}
    if config.scheduler == "asha":
        return ASHAScheduler(
            **common, max_t=config.train.steps, grace_period=config.grace, reduction_factor=config.reduction_factor
        )
    # Tune samples from these generators for PBT.
    random.seed(config.seed)
    np.random.seed(config.seed)  # noqa: NPY002
    return PopulationBasedTraining(
        **common,
        # Compare all trials at the same step; otherwise a late trial finds no better one to copy.
        synch=True,
        perturbation_interval=config.perturbation,
        # PBT moves to a neighbor in a list of choices; it would multiply a sample of a domain.
        hyperparam_mutations={
            each.name: list(domains[each.name].categories) if each.kind == "choice" else domains[each.name]
            for each in space.parameters
        },
        custom_explore_fn=partial(_clip_to_space, space),
        # Trials that diverged or failed report no score.
        require_attrs=False,
        quantile_fraction=0.25,
        log_config=False,
    )


def make_search_algorithm(config: TuneConfig, max_concurrent: int) -> Any:
    """Return the algorithm that samples the settings of each trial."""
    if config.search != "optuna":
        # Tune's own limit on concurrency does not apply to an algorithm that is passed to it.
        return BasicVariantGenerator(random_state=config.seed, max_concurrent=max_concurrent)
    modes = ["min" if objective in MINIMIZED_OBJECTIVES else "max" for objective in config.objectives]
    if len(modes) > 1:
        return _Optuna(metric=list(config.objectives), mode=modes, seed=config.seed)
    return _Optuna(metric=config.objectives[0], mode=modes[0], seed=config.seed)


class _Optuna(OptunaSearch):  # type: ignore[misc]
    """Optuna's TPE that counts a trial without a score as failed; in Ray's class such a trial never ends."""

    @override
    def on_trial_complete(self, trial_id: str, result: dict | None = None, error: bool = False) -> None:
        metrics = self.metric if isinstance(self.metric, list) else [self.metric]
        has_scores = result is not None and all(result.get(name) is not None for name in metrics)
        super().on_trial_complete(trial_id, result if has_scores else None, error=error or not has_scores)


def _clip_to_space(space: Space, sample: dict[str, Any]) -> dict[str, Any]:
    """Clip values that PBT multiplied by 0.8 or 1.2 to the bounds of the space, and round integers."""
    for each in space.parameters:
        if each.kind != "choice" and each.name in sample:
            value = min(max(sample[each.name], each.values[0]), each.values[1])
            sample[each.name] = round(value) if each.kind == "randint" else value
    return sample
