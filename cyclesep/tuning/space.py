"""The search space: settings of a training run by dotted name with their distributions, validated before a search."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast

import yaml

from cyclesep.config import settings
from cyclesep.config.schema import list_settings
from cyclesep.config.suggestions import closest, closest_setting
from cyclesep.errors import ConfigError
from cyclesep.training.config import TrainConfig

Kind = Literal["loguniform", "uniform", "randint", "choice"]

KINDS = ("loguniform", "uniform", "randint", "choice")
_FORMS = "write {loguniform: [low, high]}, {uniform: [low, high]}, {randint: [low, high]} or {choice: [...]}"

# Settings that the search sets itself or that would make trials incomparable, with what to do instead.
_NOT_SEARCHED = {
    "name": "each trial has its own name",
    "output_dir": "set output_dir of the search instead",
    "shards": "all trials train on the same audio; run one search per dataset",
    "targets": "all trials are scored on the same targets; run one search per target",
    "init_from": "set train.init_from for all trials",
    "steps": "trials are compared at equal steps; set train.steps",
    "seed": "finalists are trained with several seeds; set num_seeds",
    "validate_every": "set train.validate_every for all trials",
    "num_validation_crops": "all trials are scored on the same crops; set train.num_validation_crops",
    "keep_checkpoints": "set train.keep_checkpoints for all trials",
    "max_failures": "set train.max_failures for all trials",
    "num_workers": "all trials have the same resources; set train.num_workers",
    "use_gpu": "all trials have the same resources; set train.use_gpu",
    "cpus_per_worker": "all trials have the same resources; set train.cpus_per_worker",
    "num_dataloader_workers": "all trials have the same resources; set train.num_dataloader_workers",
    "method.preset": "it only sets defaults; search the settings that it changes",
}


@dataclass(frozen=True, kw_only=True)
class Parameter:
    """A setting and its distribution."""

    name: str
    kind: Kind
    values: tuple[Any, ...]
    """The lower and upper bound, or the choices."""

    @property
    def short_name(self) -> str:
        """Last part of the name, or the last two if the last is ambiguous."""
        parts = self.name.split(".")
        return ".".join(parts[-2:]) if parts[-1] in ("name", "channels", "depth", "unet_levels") else parts[-1]

    def to_plain(self, value: Any) -> Any:
        """Return a value as Ray Tune stores it: scalars unchanged, anything else as YAML text."""
        if self.kind != "choice" or _is_scalar(value):
            return value
        return yaml.safe_dump(value, default_flow_style=True, width=math.inf).strip()

    def from_plain(self, plain: Any) -> Any:
        """Return the value that `to_plain` converted."""
        if self.kind != "choice":
            return round(plain) if self.kind == "randint" else plain
        return next((value for value in self.values if self.to_plain(value) == plain), plain)


@dataclass(frozen=True, kw_only=True)
class Space:
    """The parameters of a search."""

    parameters: tuple[Parameter, ...]

    def changes(self, sampled: Mapping[str, Any]) -> dict[str, Any]:
        """Return settings by dotted name from a sample, which may have other entries."""
        return {each.name: each.from_plain(sampled[each.name]) for each in self.parameters if each.name in sampled}


def read_space(values: Mapping[str, Any], base: TrainConfig) -> Space:
    """Return the space that `values`, nested or dotted, describe.

    Raises ConfigError, with all problems in one line, for an unknown setting, a setting that cannot be searched, an
    invalid distribution, and a bound or choice that is invalid for its setting.
    """
    problems: list[str] = []
    parameters = []
    for name, entry in flatten_space(values):
        try:
            parameter = _parameter(name, entry, base)
            _validate_values(parameter, base)
            parameters.append(parameter)
        except ConfigError as problem:
            problems.append(str(problem))
    if problems:
        raise ConfigError("; ".join(problems))
    if not parameters:
        raise ConfigError(f"space: empty; list settings of a training run, and for each of them {_FORMS}")
    return Space(parameters=tuple(parameters))


def grid_size(space: Space) -> int:
    """Return the number of combinations; raises ConfigError for a parameter that is not a choice."""
    open_ended = [parameter for parameter in space.parameters if parameter.kind != "choice"]
    if open_ended:
        raise ConfigError(
            f"search=grid: space.{open_ended[0].name} is {open_ended[0].kind}, which has no finite set of values; "
            "use {choice: [...]}, or set search=random"
        )
    return math.prod(len(parameter.values) for parameter in space.parameters)


def flatten_space(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield dotted names and their distributions from nested or dotted names."""
    for name, value in values.items():
        if isinstance(value, dict) and value and not set(value) & set(KINDS):
            yield from flatten_space(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _parameter(name: str, entry: Any, base: TrainConfig) -> Parameter:
    above, _, last = name.rpartition(".")
    if not isinstance(entry, dict):
        near = closest(last, KINDS)
        if near and above in _searchable_names(base):
            raise ConfigError(f"space.{above}: unknown distribution {last!r}; did you mean {near}?")
    _validate_name(name, base)
    if not isinstance(entry, dict) or len(entry) != 1 or not set(entry) <= set(KINDS):
        raise ConfigError(f"space.{name}: invalid distribution {entry!r}; {_FORMS}")
    ((kind, values),) = entry.items()
    if not isinstance(values, list | tuple):
        raise ConfigError(f"space.{name}: {kind}: {values!r} is not a list; {_FORMS}")
    parameter = Parameter(name=name, kind=cast(Kind, kind), values=tuple(values))
    _validate_range(parameter)
    return parameter


def _validate_range(parameter: Parameter) -> None:
    name, kind, values = parameter.name, parameter.kind, parameter.values
    if kind == "choice":
        if len(values) < 2:
            raise ConfigError(f"space.{name}: choice has {len(values)} values; list two or more, or set train.{name}")
        return
    if len(values) != 2 or not all(_is_number(value) for value in values):
        raise ConfigError(f"space.{name}: {kind}: {list(values)} is not a pair of numbers; write [low, high]")
    low, high = values
    if not low < high:
        raise ConfigError(f"space.{name}: {kind}: [{low}, {high}] is empty; put the lower bound first")
    if kind == "loguniform" and low <= 0:
        raise ConfigError(f"space.{name}: loguniform: the lower bound {low} must be positive; raise it, or use uniform")
    if kind == "randint" and not all(isinstance(value, int) for value in values):
        raise ConfigError(f"space.{name}: randint: [{low}, {high}] must be integers; use integers, or uniform")


def _validate_name(name: str, base: TrainConfig) -> None:
    known = _searchable_names(base)
    if name in _NOT_SEARCHED:
        raise ConfigError(f"space.{name}: cannot be searched; {_NOT_SEARCHED[name]}")
    if name in known:
        return
    near = closest_setting(name, known)
    remedy = f"did you mean {near}?" if near else "`cyclesep train --help` lists all settings"
    raise ConfigError(f"space.{name}: unknown setting; {remedy}")


def _searchable_names(base: TrainConfig) -> list[str]:
    """Return the dotted names of all searchable settings, including the loss weights of the recipe."""
    names = [setting.name for setting in list_settings(TrainConfig)]
    terms = [f"method.loss_weights.{term}" for term in base.method.weights]
    return [name for name in names if name not in _NOT_SEARCHED and name != "method.loss_weights"] + terms


def _validate_values(parameter: Parameter, base: TrainConfig) -> None:
    """Raise ConfigError for a bound or choice that is invalid for the setting."""
    tried = list(parameter.values)
    if parameter.kind in ("uniform", "loguniform"):
        # Bounds may be integers where samples are fractions; an integer setting must be rejected.
        low, high = parameter.values
        tried.append(low + (high - low) / math.e)
    try:
        for value in tried:
            settings.replace(base, {parameter.name: value})
    except ConfigError as problem:
        raise ConfigError(f"space: {problem}") from None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_scalar(value: Any) -> bool:
    return value is None or isinstance(value, bool | int | float | str)
