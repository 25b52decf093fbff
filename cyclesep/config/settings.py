"""Typed settings: frozen dataclasses, declared with the code they configure, filled from YAML files and overrides.

A YAML file states what differs from the defaults, a `dotted.name=value` override what differs from the file.
Every value is validated against its field's type before a job starts, and all problems are reported at once.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import pydantic
import yaml

from cyclesep.config.nesting import flatten, merge, nest
from cyclesep.config.overrides import read_sources
from cyclesep.config.validation_errors import config_error

Config = TypeVar("Config")


def load(config_class: type[Config], files: Sequence[Path | str] = (), overrides: Sequence[str] = ()) -> Config:
    """Build a config from YAML files and `dotted.name=value` overrides; later ones take precedence.

    Raises ConfigError for a file that cannot be read, an unknown name or an invalid value.
    """
    return build(config_class, read_sources(config_class, files, overrides))


def build(config_class: type[Config], values: Mapping[str, Any]) -> Config:
    """Build a config from nested values; raises ConfigError that lists every problem."""
    try:
        return pydantic.TypeAdapter(config_class).validate_python(dict(values), extra="forbid")
    except pydantic.ValidationError as invalid:
        raise config_error(config_class, invalid.errors()) from None


def check_partial(config_class: type, values: Mapping[str, Any]) -> None:
    """Validate nested values that may lack required settings; raises ConfigError that lists every other problem."""
    try:
        pydantic.TypeAdapter(config_class).validate_python(dict(values), extra="forbid")
    except pydantic.ValidationError as invalid:
        errors = [error for error in invalid.errors() if error["type"] != "missing"]
        if errors:
            raise config_error(config_class, errors) from None


def replace(config: Config, changes: Mapping[str, Any]) -> Config:
    """Return a copy of a config with dotted names changed, validated like any other config."""
    values = to_dict(config)
    for name, value in changes.items():
        values = merge(values, nest(name, value))
    return build(type(config), values)


def to_dict(config: Any) -> dict[str, Any]:
    """Return a config as nested plain values for YAML or JSON: tuples become lists, paths become text."""
    plain: dict[str, Any] = pydantic.TypeAdapter(type(config)).dump_python(config, mode="json")
    return plain


def flat(config: Any) -> dict[str, Any]:
    """Return the plain value of every setting by its dotted name."""
    return dict(flatten(to_dict(config)))


def differences(before: Any, now: Any) -> list[str]:
    """Return the dotted names of the settings in which two configs of one class differ."""
    old, new = flat(before), flat(now)
    absent = object()
    return [name for name in old | new if old.get(name, absent) != new.get(name, absent)]


def to_yaml(config: Any) -> str:
    """Return a config as YAML text in the order of its fields."""
    return yaml.safe_dump(to_dict(config), sort_keys=False, allow_unicode=True)
