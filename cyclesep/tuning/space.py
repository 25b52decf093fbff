"""The search space: settings of a training run by dotted name, each with its distribution, checked beforehand."""

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

# Settings that a search sets itself, or that would make its trials unequal; with what to do instead.
_NOT_SEARCHED = {
    "name": "each trial has its own",
    "output_dir": "set output_dir of the search",
    "shards": "all trials learn from the same audio; search once for each",
    "targets": "all trials are measured on the same targets; search once for each",
    "init_from": "set train.init_from for all trials",
    "steps": "trials are compared at equal steps; set train.steps",
    "seed": "finalists are trained with several seeds: num_seeds=",
    "validate_every": "set train.validate_every for all trials",
    "num_validation_crops": "all trials are measured on the same crops; set train.num_validation_crops",
    "keep_checkpoints": "set train.keep_checkpoints for all trials",
    "max_failures": "set train.max_failures for all trials",
    "num_workers": "each trial takes the same share of the cluster; set train.num_workers",
    "use_gpu": "each trial takes the same share of the cluster; set train.use_gpu",
    "cpus_per_worker": "each trial takes the same share of the cluster; set train.cpus_per_worker",
    "num_dataloader_workers": "each trial takes the same share of the cluster; set train.num_dataloader_workers",
    "method.preset": "what it fills is decided by then; search the values that it would fill",
}


@dataclass(frozen=True, kw_only=True)
class Parameter:
    """One setting and where its values come from."""

    name: str
    kind: Kind
    values: tuple[Any, ...]
    """Both ends, or the choices."""

    @property
    def short_name(self) -> str:
        """The last part of the name, with the one before where that alone says little."""
        parts = self.name.split(".")
        return ".".join(parts[-2:]) if parts[-1] in ("name", "width", "depth", "levels") else parts[-1]

    def to_plain(self, value: Any) -> Any:
        """A value as a search holds it: numbers and words as they are, anything else as YAML."""
        if self.kind != "choice" or _is_scalar(value):
            return value
        return yaml.safe_dump(value, default_flow_style=True, width=math.inf).strip()

    def from_plain(self, plain: Any) -> Any:
        """The value that `to_plain` made plain."""
        if self.kind != "choice":
            return round(plain) if self.kind == "randint" else plain
        return next((value for value in self.values if self.to_plain(value) == plain), plain)


@dataclass(frozen=True, kw_only=True)
class Space:
    """The parameters of a search."""

    parameters: tuple[Parameter, ...]

    def changes(self, sampled: Mapping[str, Any]) -> dict[str, Any]:
        """Settings by dotted name out of what a search has drawn, which may hold more."""
        return {each.name: each.from_plain(sampled[each.name]) for each in self.parameters if each.name in sampled}


def read_space(values: Mapping[str, Any], base: TrainConfig) -> Space:
    """The space that `values` describe, nested or dotted.

    Raises ConfigError, all problems in one line, for a name that no setting has (with the nearest that one has), for a
    setting that cannot be searched, for no distribution, and for an end or a choice that the setting refuses.
    """
    problems: list[str] = []
    parameters = []
    for name, leaf in leaves(values):
        try:
            parameter = _parameter(name, leaf, base)
            _refuse_values(parameter, base)
            parameters.append(parameter)
        except ConfigError as problem:
            problems.append(str(problem))
    if problems:
        raise ConfigError("; ".join(problems))
    if not parameters:
        raise ConfigError(f"space: is empty; name settings of a training run, and for each of them {_FORMS}")
    return Space(parameters=tuple(parameters))


def grid_size(space: Space) -> int:
    """The number of combinations; raises ConfigError for a parameter that is no choice."""
    open_ended = [parameter for parameter in space.parameters if parameter.kind != "choice"]
    if open_ended:
        raise ConfigError(
            f"search=grid: space.{open_ended[0].name} is {open_ended[0].kind} and has no end of values; "
            "give {choice: [...]}, or set search=random"
        )
    return math.prod(len(parameter.values) for parameter in space.parameters)


def leaves(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted names and what stands under them, out of nested or dotted ones."""
    for name, value in values.items():
        if isinstance(value, dict) and value and not set(value) & set(KINDS):
            yield from leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _parameter(name: str, leaf: Any, base: TrainConfig) -> Parameter:
    above, _, last = name.rpartition(".")
    if not isinstance(leaf, dict):
        near = closest(last, KINDS)
        if near and above in _known(base):
            raise ConfigError(f"space.{above}: unknown distribution {last!r}; did you mean {near}?")
    _refuse_name(name, base)
    if not isinstance(leaf, dict) or len(leaf) != 1 or not set(leaf) <= set(KINDS):
        raise ConfigError(f"space.{name}: {leaf!r} is no distribution; {_FORMS}")
    ((kind, values),) = leaf.items()
    if not isinstance(values, list | tuple):
        raise ConfigError(f"space.{name}: {kind}: {values!r} is no list; {_FORMS}")
    parameter = Parameter(name=name, kind=cast(Kind, kind), values=tuple(values))
    _refuse_range(parameter)
    return parameter


def _refuse_range(parameter: Parameter) -> None:
    name, kind, values = parameter.name, parameter.kind, parameter.values
    if kind == "choice":
        if len(values) < 2:
            raise ConfigError(f"space.{name}: a choice of {len(values)}; give two values or more, or set train.{name}")
        return
    if len(values) != 2 or not all(_is_number(value) for value in values):
        raise ConfigError(f"space.{name}: {kind}: {list(values)} is not two numbers; write [low, high]")
    low, high = values
    if not low < high:
        raise ConfigError(f"space.{name}: {kind}: [{low}, {high}] is empty; give the lower end first")
    if kind == "loguniform" and low <= 0:
        raise ConfigError(f"space.{name}: loguniform: {low} has no logarithm; begin above 0, or write uniform")
    if kind == "randint" and not all(isinstance(value, int) for value in values):
        raise ConfigError(f"space.{name}: randint: [{low}, {high}] are not whole numbers; write uniform")


def _refuse_name(name: str, base: TrainConfig) -> None:
    known = _known(base)
    if name in _NOT_SEARCHED:
        raise ConfigError(f"space.{name}: is not searched; {_NOT_SEARCHED[name]}")
    if name in known:
        return
    near = closest_setting(name, known)
    remedy = f"did you mean {near}?" if near else "`cyclesep train --help` lists all settings"
    raise ConfigError(f"space.{name}: unknown setting; {remedy}")


def _known(base: TrainConfig) -> list[str]:
    """All dotted names that a search may change; of loss weights those of the recipe."""
    names = [setting.name for setting in list_settings(TrainConfig)]
    terms = [f"method.loss_weights.{term}" for term in base.method.weights]
    return [name for name in names if name not in _NOT_SEARCHED and name != "method.loss_weights"] + terms


def _refuse_values(parameter: Parameter, base: TrainConfig) -> None:
    """Raise ConfigError for an end or a choice that the setting itself refuses."""
    tried = list(parameter.values)
    if parameter.kind in ("uniform", "loguniform"):
        # A whole number passes where a fraction does; what is drawn will be a fraction.
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
