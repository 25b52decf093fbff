"""Error messages for invalid settings: each names the setting, its value and a remedy."""

import re
from collections.abc import Sequence
from typing import Any

from cyclesep.config.schema import list_settings
from cyclesep.config.suggestions import closest, closest_setting
from cyclesep.errors import ConfigError

# Remedies for kinds of error where pydantic's message does not name one.
_REMEDIES = {
    "string_type": "YAML does not read it as text; quote it twice: {name}=\"'{value}'\"",
    "tuple_type": "write a list: {name}=[{value}]",
    "list_type": "write a list: {name}=[{value}]",
    "too_short": "give at least one: {name}=[...]",
    "dataclass_type": "it is a group of settings; set them as {name}.setting=value",
    "int_parsing": "input should be a whole number",
    "float_parsing": "input should be a number",
}


def config_error(config_class: type, errors: Sequence[Any]) -> ConfigError:
    """Return one ConfigError for all of pydantic's `errors` about a config dataclass."""
    return ConfigError("; ".join(dict.fromkeys(_message(config_class, error) for error in errors)))


def _message(config_class: type, error: Any) -> str:
    name, value = ".".join(str(part) for part in error["loc"]), error["input"]
    if error["type"] == "unexpected_keyword_argument":
        known = [setting.name for setting in list_settings(config_class)]
        near = closest_setting(name, known)
        remedy = f"did you mean {near}?" if near else f"known: {', '.join(known)}"
        return f"{name}: unknown setting; {remedy}"
    if error["type"] == "missing":
        return f"missing required argument: {name}; set it as {name}=..."
    if value is None:
        return f"{name}: invalid value none; set it as {name}=..., or omit it"
    if error["type"] == "literal_error":
        remedy = _choices(str(value), error["ctx"]["expected"])
    elif error["type"] in _REMEDIES:
        remedy = _REMEDIES[error["type"]].format(name=name, value=value)
    else:
        remedy = error["msg"][0].lower() + error["msg"][1:]
    return f"{name}: invalid value {value!r}; {remedy}"


def _choices(value: str, expected: str) -> str:
    """List the valid choices, the most similar one first; `expected` is pydantic's text with quoted choices."""
    choices = re.findall(r"'([^']*)'", expected) or [expected]
    near = closest(value, choices)
    return f"{f'did you mean {near}? ' if near else ''}choices: {', '.join(choices)}"
