"""Nested dictionaries of settings and their dotted names."""

from collections.abc import Iterator, Mapping
from typing import Any


def nest(name: str, value: Any) -> dict[str, Any]:
    """Return `{"a": {"b": value}}` for the dotted name `a.b`."""
    first, dot, rest = name.partition(".")
    return {first: nest(rest, value) if dot else value}


def flatten(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the dotted name and the value of every leaf of nested values."""
    for name, value in values.items():
        if isinstance(value, dict):
            yield from flatten(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def expand(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return values with all dotted names nested."""
    result: dict[str, Any] = {}
    for name, value in values.items():
        result = merge(result, nest(str(name), expand(value) if isinstance(value, dict) else value))
    return result


def merge(base: Mapping[str, Any], override: Mapping[str, Any]) -> dict[str, Any]:
    """Return `base` updated with `override`, recursively where both hold a dictionary."""
    result = dict(base)
    for name, value in override.items():
        old = result.get(name)
        result[name] = merge(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return result
