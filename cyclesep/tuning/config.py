"""What a search is told."""

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Le, Len
from pydantic import Field, NonNegativeInt, PositiveInt

from cyclesep.errors import ConfigError
from cyclesep.training.config import TrainConfig
from cyclesep.tuning.space import leaves

Objective = Literal["sdr", "si_sdr", "sir", "seconds", "parameters"]

# Every other objective is to be large.
SMALL = ("seconds", "parameters")


@dataclass(frozen=True, kw_only=True)
class TuneConfig:
    """One search; `storage`/`name` is its folder, and the same name goes on where it stopped."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")] = "search"
    """Name of the search and of its folder; the same name goes on where that search stopped."""

    output_dir: str = "searches"
    """Holds searches: a folder, on several machines one that all of them share, or s3://bucket/prefix."""

    space: dict[str, Any] = field(default_factory=dict)
    """What is searched: settings of `train` by dotted name, each with {loguniform: [low, high]},
    {uniform: [low, high]}, {randint: [low, high]} (both can come) or {choice: [...]}."""

    num_trials: PositiveInt = 16
    """Settings that are tried; a grid tries all of them."""

    search: Literal["random", "grid", "optuna"] = "random"
    """How settings are chosen: drawn at random, all combinations of choices, or by Optuna's TPE from those before."""

    scheduler: Literal["asha", "pbt", "none"] = "asha"
    """Who stops trials early: `asha` halves asynchronously, `pbt` lets bad trials go on from good ones, or nobody."""

    objectives: Annotated[tuple[Objective, ...], Len(1)] = ("sdr",)
    """What is to be good: the first ranks trials and stops them; with search=optuna others are weighed against it."""

    grace_period: PositiveInt | None = None
    """Steps before a trial may be stopped; none: a ninth of the steps, and one validation at least."""

    reduction_factor: Annotated[int, Ge(2)] = 3
    """Under `asha` one trial in so many goes on, each time for so many times as long."""

    perturbation_interval: PositiveInt | None = None
    """Under `pbt`: steps after which bad trials go on from good ones; none: an eighth of the steps."""

    max_concurrent: PositiveInt | None = None
    """Trials at a time; none, or more than the cluster holds: as many as it holds."""

    gpus_per_trial: Annotated[float, Gt(0), Le(1)] = 1.0
    """Share of a GPU that the worker of a trial takes; below 1 several trials share one."""

    num_finalists: NonNegativeInt = 2
    """Best trials that are trained again, beside the settings of `train`, before the winner is named; 0: none."""

    num_seeds: PositiveInt = 3
    """Seeds that each finalist is trained with."""

    seed: NonNegativeInt = 0
    """Decides which settings are tried."""

    evaluate: bool = False
    """Whether the winner is scored on the test split of its shards at the end."""

    train: TrainConfig = field(default_factory=TrainConfig)
    """What all trials have in common, and the default that a winner must beat."""

    def __post_init__(self) -> None:
        # The dataclass is frozen for its users; while it is being made, nested names become dotted ones.
        object.__setattr__(self, "space", dict(leaves(self.space)))
        _refuse_what_does_not_fit(self)

    @property
    def grace(self) -> int:
        """Steps before a trial may be stopped."""
        steps = self.grace_period or max(self.train.steps // 9, self.train.validate_every)
        return min(steps, self.train.steps)

    @property
    def perturbation(self) -> int:
        """Steps between perturbations: whole validations."""
        every = self.train.validate_every
        return max(1, round((self.perturbation_interval or self.train.steps / 8) / every)) * every


def _refuse_what_does_not_fit(config: TuneConfig) -> None:
    if config.scheduler == "pbt" and config.search != "random":
        raise ConfigError(
            f"search={config.search}: scheduler=pbt changes settings itself; set search=random, or scheduler=asha"
        )
    if len(config.objectives) > 1 and config.search != "optuna":
        raise ConfigError(
            f"objectives=[{', '.join(config.objectives)}]: search={config.search} follows one only; set search=optuna"
        )
    if len(set(config.objectives)) < len(config.objectives):
        raise ConfigError(f"objectives=[{', '.join(config.objectives)}] names one twice; name each once")
    if config.objectives[0] not in ("sdr", "si_sdr"):
        raise ConfigError(
            f"objectives: the first one ranks trials while they train; put sdr or si_sdr before {config.objectives[0]}"
        )
    if config.gpus_per_trial < 1 and config.train.num_workers > 1:
        raise ConfigError(
            f"gpus_per_trial={config.gpus_per_trial:g}: {config.train.num_workers} workers of one trial cannot share a GPU; "
            "set train.num_workers=1, or gpus_per_trial=1"
        )
