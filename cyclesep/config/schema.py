"""Names, types, defaults and descriptions of the settings in a config dataclass, for help and documentation."""

import ast
import dataclasses
import inspect
import textwrap
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One field of a config dataclass."""

    name: str
    """Dotted, for a field of a nested dataclass."""
    type: str
    default: Any
    """dataclasses.MISSING for a required setting."""
    description: str


@dataclass(frozen=True, kw_only=True)
class SettingGroup:
    """The settings of one dataclass within a config."""

    prefix: str
    """Their dotted names up to the last dot; empty for the outermost dataclass."""
    description: str
    settings: tuple[Setting, ...]


def list_settings(config_class: type) -> list[Setting]:
    """List all settings of a config dataclass; settings of nested dataclasses have dotted names."""
    return list(_settings(config_class, prefix=""))


def group_settings(config_class: type) -> list[SettingGroup]:
    """Group the settings of a config dataclass by the dataclass that declares them, the outermost first."""
    found: dict[str, list[Setting]] = {"": []}
    for setting in list_settings(config_class):
        found.setdefault(setting.name.rpartition(".")[0], []).append(setting)
    return [
        SettingGroup(prefix=prefix, description=_group_description(config_class, prefix), settings=tuple(settings))
        for prefix, settings in found.items()
    ]


def _group_description(config_class: type, prefix: str) -> str:
    """Return the first paragraph of the docstring of the dataclass at `prefix`."""
    for name in filter(None, prefix.split(".")):
        config_class = typing.cast(type, typing.get_type_hints(config_class)[name])
    return " ".join((inspect.getdoc(config_class) or "").partition("\n\n")[0].split())


def _settings(config_class: type, prefix: str) -> Iterator[Setting]:
    descriptions = _field_docstrings(config_class)
    types = typing.get_type_hints(config_class, include_extras=True)
    for field in dataclasses.fields(config_class):
        kind = types[field.name]
        if dataclasses.is_dataclass(kind):
            yield from _settings(typing.cast(type, kind), prefix=f"{prefix}{field.name}.")
        else:
            yield Setting(
                name=prefix + field.name,
                type=_type_name(kind),
                default=_default(field),
                description=descriptions[field.name],
            )


def _field_docstrings(config_class: type) -> dict[str, str]:
    """Read the string below each field from the source of the class and of its base classes."""
    found: dict[str, str] = {}
    for owner in reversed(config_class.__mro__[:-1]):
        (tree,) = ast.parse(textwrap.dedent(inspect.getsource(owner))).body
        body = typing.cast(ast.ClassDef, tree).body
        for field, below in zip(body, [*body[1:], None], strict=True):
            if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
                found[field.target.id] = _string(below)
    return found


def _string(node: ast.stmt | None) -> str:
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
        return " ".join(node.value.value.split())
    return ""


def _default(field: dataclasses.Field[Any]) -> Any:
    if field.default is not dataclasses.MISSING:
        return field.default
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return dataclasses.MISSING


def _type_name(kind: Any) -> str:
    arguments = typing.get_args(kind)
    if hasattr(kind, "__metadata__"):
        return _type_name(arguments[0])
    if typing.get_origin(kind) is typing.Literal:
        return " | ".join(str(choice) for choice in arguments)
    if isinstance(kind, type) and not arguments:
        return "none" if kind is type(None) else kind.__name__
    if typing.get_origin(kind) in (typing.Union, type(int | str)):
        return " | ".join(_type_name(argument) for argument in arguments)
    if len(arguments) == 2 and arguments[1] is ...:
        return f"list of {_type_name(arguments[0])}"
    origin = getattr(typing.get_origin(kind), "__name__", str(kind))
    return f"{origin}[{', '.join(_type_name(argument) for argument in arguments)}]"
