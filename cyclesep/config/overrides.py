"""Where settings come from: YAML files and `name=value` overrides."""

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import yaml

from cyclesep.config.nesting import expand, merge, nest
from cyclesep.config.schema import list_settings
from cyclesep.errors import ConfigError


def read_sources(config_class: type, files: Sequence[Path | str], overrides: Sequence[str]) -> dict[str, Any]:
    """Merge the settings of YAML files and overrides into nested values, later ones last; values are not validated.

    Raises ConfigError for a file that cannot be read or an override without `=`.
    """
    values: dict[str, Any] = {}
    for file in files:
        values = merge(values, read_yaml(Path(file)))
    text_settings = {setting.name for setting in list_settings(config_class) if setting.type in ("str", "str | none")}
    for override in overrides:
        values = merge(values, nest(*parse_override(override, text_settings)))
    return values


def parse_override(override: str, text_settings: Collection[str] = ()) -> tuple[str, Any]:
    """Split `dotted.name=value` and parse the value as YAML. Raises ConfigError if there is no `=`.

    A value that begins with a brace is kept as text for the names in `text_settings`: it is a template, not a mapping.
    """
    name, equals, text = override.partition("=")
    if not equals or not name:
        raise ConfigError(f"{override!r}: not a setting; write it as name=value")
    if name in text_settings and text.startswith("{"):
        return name, text
    try:
        return name, yaml.safe_load(text)
    except yaml.YAMLError as problem:
        raise ConfigError(f"{name}: {text!r} is not valid YAML ({_yaml_fault(problem)}); quote it") from problem


def read_yaml(path: Path) -> dict[str, Any]:
    """Read nested settings from a YAML file, in which dotted names are allowed; raises ConfigError for a bad file."""
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as problem:
        reason = getattr(problem, "strerror", None) or _one_line(problem)
        raise ConfigError(f"{path}: cannot read config ({reason}); check the path") from problem
    except yaml.YAMLError as problem:
        mark = getattr(problem, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        raise ConfigError(f"{path}{line}: not valid YAML ({_yaml_fault(problem)}); correct the file") from problem
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: contains {type(values).__name__}, not settings; write lines of name: value")
    return expand(values)


def _yaml_fault(problem: yaml.YAMLError) -> str:
    return getattr(problem, "problem", None) or _one_line(problem)


def _one_line(problem: Exception) -> str:
    return " ".join(str(problem).split())[:160]
