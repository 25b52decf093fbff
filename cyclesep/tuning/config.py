"""Configuration of a hyperparameter search."""

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Le, Len
from pydantic import Field, NonNegativeInt, PositiveInt

from cyclesep.errors import ConfigError
from cyclesep.training.config import TrainConfig
from cyclesep.tuning.space import flatten_space

Objective = Literal["sdr", "si_sdr", "sir", "seconds", "parameters"]

# All other objectives are maximized.
MINIMIZED_OBJECTIVES = ("seconds", "parameters")


@dataclass(frozen=True, kw_only=True)
class TuneConfig:
    """Search for training settings. `output_dir`/`name` is the folder of the search."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")] = "search"
    """Name of the search and of its folder. The same name resumes an interrupted search."""

    output_dir: str = "searches"
    """Parent folder of searches; on several machines a shared folder or s3://bucket/prefix."""

    space: dict[str, Any] = field(default_factory=dict)
    """Search space: settings of `train` by dotted name, each with a distribution: {loguniform: [low, high]},
    {uniform: [low, high]}, {randint: [low, high]} (both ends inclusive) or {choice: [...]}."""

    num_trials: PositiveInt = 16
    """Number of trials; a grid search runs all combinations instead."""

    search: Literal["random", "grid", "optuna"] = "random"
    """Search algorithm: random sampling, all combinations of choices, or Optuna's TPE."""

    scheduler: Literal["asha", "pbt", "none"] = "asha"
    """Trial scheduler: `asha` stops weak trials early, `pbt` is population based training, `none` runs every trial to
    the end."""

    objectives: Annotated[tuple[Objective, ...], Len(1)] = ("sdr",)
    """Metrics to optimize. The first one ranks and stops trials; search=optuna can optimize several at once."""

    grace_period: PositiveInt | None = None
    """Steps before a trial can be stopped. Default: a ninth of the steps, at least one validation."""

    reduction_factor: Annotated[int, Ge(2)] = 3
    """With `asha`: one in N trials continues, each time for N times as many steps."""

    perturbation_interval: PositiveInt | None = None
    """With `pbt`: steps between perturbations. Default: an eighth of the steps."""

    max_concurrent: PositiveInt | None = None
    """Maximum number of concurrent trials. Default: as many as fit on the cluster, which is always the upper limit."""

    gpus_per_trial: Annotated[float, Gt(0), Le(1)] = 1.0
    """GPUs per worker of a trial; below 1, several trials share a GPU."""

    num_finalists: NonNegativeInt = 2
    """Best trials to retrain and compare with the default settings of `train`. 0: no finals, the best trial wins."""

    num_seeds: PositiveInt = 3
    """Random seeds per finalist."""

    seed: NonNegativeInt = 0
    """Random seed of the search algorithm."""

    evaluate: bool = False
    """Score the winner on the test split of its shards at the end."""

    train: TrainConfig = field(default_factory=TrainConfig)
    """Training settings that all trials share, and the default that the winner is compared with."""

    def __post_init__(self) -> None:
        # Frozen for users; during construction, nested names become dotted ones.
        object.__setattr__(self, "space", dict(flatten_space(self.space)))
        _validate_combination(self)

    @property
    def grace(self) -> int:
        """Steps before a trial can be stopped."""
        steps = self.grace_period or max(self.train.steps // 9, self.train.validate_every)
        return min(steps, self.train.steps)

    @property
    def perturbation(self) -> int:
        """Steps between perturbations, a multiple of `train.validate_every`."""
        every = self.train.validate_every
        return max(1, round((self.perturbation_interval or self.train.steps / 8) / every)) * every


def _validate_combination(config: TuneConfig) -> None:
    """Raise ConfigError for settings that are valid alone but not together."""
    objectives = ", ".join(config.objectives)
    if config.scheduler == "pbt" and config.search != "random":
        raise ConfigError(
            f"search={config.search}: scheduler=pbt perturbs settings itself; set search=random, or scheduler=asha"
        )
    if len(config.objectives) > 1 and config.search != "optuna":
        raise ConfigError(
            f"objectives=[{objectives}]: search={config.search} supports a single objective; set search=optuna"
        )
    if len(set(config.objectives)) < len(config.objectives):
        raise ConfigError(f"objectives=[{objectives}]: duplicate objective; list each once")
    if config.objectives[0] not in ("sdr", "si_sdr"):
        raise ConfigError(
            f"objectives: the first objective ranks trials during training; put sdr or si_sdr before "
            f"{config.objectives[0]}"
        )
    if config.gpus_per_trial < 1 and config.train.num_workers > 1:
        raise ConfigError(
            f"gpus_per_trial={config.gpus_per_trial:g}: {config.train.num_workers} workers of one trial cannot share a "
            "GPU; set train.num_workers=1, or gpus_per_trial=1"
        )
