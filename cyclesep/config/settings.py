"""Config: frozen dataclasses declared beside what they configure, filled from YAML and dotted `key=value` words.

A YAML file states only what differs from the defaults, a word on the command line only what differs from the file.
Every value is checked against its field's type before anything starts, and all problems are told at once.
"""

import ast
import dataclasses
import difflib
import inspect
import re
import textwrap
import typing
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pydantic
import yaml

from cyclesep.errors import ConfigError

Config = TypeVar("Config")


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One field of a config as the reference shows it."""

    name: str
    type: str
    default: Any
    sentence: str


def load(config_class: type[Config], files: Sequence[Path | str] = (), words: Sequence[str] = ()) -> Config:
    """Build a config from YAML files and `dotted.name=value` words, later ones over earlier ones.

    Raises ConfigError for a file that cannot be read, an unknown name or a value of the wrong type.
    """
    return build(config_class, read(config_class, files, words))


def read(config_class: type, files: Sequence[Path | str], words: Sequence[str]) -> dict[str, Any]:
    """The nested values that YAML files and words state for a config class, later ones over earlier ones, unchecked.

    Raises ConfigError for a file that cannot be read or a word that is no setting.
    """
    values: dict[str, Any] = {}
    for file in files:
        values = _merged(values, _read_yaml(Path(file)))
    texts = {setting.name for setting in reference(config_class) if setting.type in ("str", "str | none")}
    for word in words:
        values = _merged(values, _nested(*parse_word(word, texts)))
    return values


def build(config_class: type[Config], values: Mapping[str, Any]) -> Config:
    """Check nested `values` against the dataclass and its fields' types; ConfigError lists every problem."""
    try:
        return pydantic.TypeAdapter(config_class).validate_python(dict(values), extra="forbid")
    except pydantic.ValidationError as invalid:
        raise _refusal(config_class, invalid.errors()) from None


def check(config_class: type, values: Mapping[str, Any]) -> None:
    """Raise ConfigError as `build` does, but for settings that have no value yet."""
    try:
        pydantic.TypeAdapter(config_class).validate_python(dict(values), extra="forbid")
    except pydantic.ValidationError as invalid:
        wrong = [error for error in invalid.errors() if error["type"] != "missing"]
        if wrong:
            raise _refusal(config_class, wrong) from None


def replace(config: Config, changes: Mapping[str, Any]) -> Config:
    """A copy of `config` with dotted names changed, checked like any other config."""
    values = to_dict(config)
    for name, value in changes.items():
        values = _merged(values, _nested(name, value))
    return build(type(config), values)


def to_dict(config: Any) -> dict[str, Any]:
    """Nested plain values (tuples become lists, paths become text), ready for YAML or JSON."""
    plain: dict[str, Any] = pydantic.TypeAdapter(type(config)).dump_python(config, mode="json")
    return plain


def flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Nested values as dotted names and values."""
    for name, value in values.items():
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def to_yaml(config: Any) -> str:
    """The whole config as YAML text, in the order of its fields."""
    return yaml.safe_dump(to_dict(config), sort_keys=False, allow_unicode=True)


def parse_word(word: str, texts: Collection[str] = ()) -> tuple[str, Any]:
    """Split `dotted.name=value`; the value is read as YAML. Raises ConfigError if there is no `=`.

    What begins with a brace is taken as it is for the settings in `texts`: a template, and no mapping of YAML.
    """
    name, equals, text = word.partition("=")
    if not equals or not name:
        raise ConfigError(f"{word!r} is not a setting; write it as name=value")
    if name in texts and text.startswith("{"):
        return name, text
    try:
        return name, yaml.safe_load(text)
    except yaml.YAMLError as problem:
        raise ConfigError(
            f"{name}: the value {text!r} is not valid YAML ({_yaml_fault(problem)}); quote it"
        ) from problem


def reference(config_class: type) -> list[Setting]:
    """Every setting of a config class with its type, default and sentence, nested ones under dotted names."""
    return list(_settings(config_class, prefix=""))


@dataclass(frozen=True, kw_only=True)
class Group:
    """The settings of one dataclass within a config, as help and reference show them together."""

    prefix: str
    """What their names begin with, up to the last dot; empty for the config's own."""
    sentence: str
    settings: tuple[Setting, ...]


def groups(config_class: type) -> list[Group]:
    """The settings of a config class by the dataclass that they belong to, its own first."""
    found: dict[str, list[Setting]] = {"": []}
    for setting in reference(config_class):
        found.setdefault(setting.name.rpartition(".")[0], []).append(setting)
    return [
        Group(prefix=prefix, sentence=_group_sentence(config_class, prefix), settings=tuple(rows))
        for prefix, rows in found.items()
    ]


def _group_sentence(config_class: type, prefix: str) -> str:
    """The first paragraph of the docstring of the dataclass at `prefix`."""
    for name in filter(None, prefix.split(".")):
        config_class = typing.cast(type, typing.get_type_hints(config_class)[name])
    return " ".join((inspect.getdoc(config_class) or "").partition("\n\n")[0].split())


def _settings(config_class: type, prefix: str) -> Iterator[Setting]:
    sentences = _attribute_docstrings(config_class)
    types = typing.get_type_hints(config_class, include_extras=True)
    for field in dataclasses.fields(config_class):
        kind = types[field.name]
        if dataclasses.is_dataclass(kind):
            yield from _settings(typing.cast(type, kind), prefix=f"{prefix}{field.name}.")
        else:
            yield Setting(
                name=prefix + field.name, type=_type_name(kind), default=_default(field), sentence=sentences[field.name]
            )


def _attribute_docstrings(config_class: type) -> dict[str, str]:
    """The sentence under each field, from the source of the class and of the classes above it."""
    found: dict[str, str] = {}
    for owner in reversed(config_class.__mro__[:-1]):
        (tree,) = ast.parse(textwrap.dedent(inspect.getsource(owner))).body
        body = typing.cast(ast.ClassDef, tree).body
        for field, below in zip(body, [*body[1:], None], strict=True):
            if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
                found[field.target.id] = _docstring(below)
    return found


def _docstring(node: ast.stmt | None) -> str:
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


def _refusal(config_class: type, errors: Sequence[Any]) -> ConfigError:
    return ConfigError("; ".join(dict.fromkeys(_problem(config_class, error) for error in errors)))


def _problem(config_class: type, error: Any) -> str:
    name = ".".join(str(part) for part in error["loc"])
    if error["type"] == "unexpected_keyword_argument":
        known = [setting.name for setting in reference(config_class)]
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.5) or _same_ending(name, known)
        remedy = f"did you mean {near[0]}?" if near else f"known: {', '.join(known)}"
        return f"{name}: there is no such setting; {remedy}"
    if error["type"] == "missing":
        return f"{name}: has no value and no default; give one as {name}=..."
    value = error["input"]
    if value is None:
        return f"{name}: is empty; give a value as {name}=..., or leave it out"
    told = _REMEDIES.get(error["type"], "").format(name=name, value=value)
    if error["type"] == "literal_error":
        told = _choices(str(value), error["ctx"]["expected"])
    return f"{name}: {value!r} is refused; {told or error['msg'][0].lower() + error['msg'][1:]}"


def _choices(value: str, expected: str) -> str:
    """What may stand in place of a value; `expected` is pydantic's list of quoted choices."""
    choices = re.findall(r"'([^']*)'", expected) or [expected]
    near = difflib.get_close_matches(value, choices, n=1)
    return f"{f'did you mean {near[0]}? ' if near else ''}choices: {', '.join(choices)}"


# What pydantic says of these kinds of error is true and does not help.
_REMEDIES = {
    "string_type": "it is read as YAML and is no text; quote it twice: {name}=\"'{value}'\"",
    "tuple_type": "write a list: {name}=[{value}]",
    "list_type": "write a list: {name}=[{value}]",
    "too_short": "it is empty; name at least one: {name}=[...]",
    "dataclass_type": "it holds settings of its own; set those as {name}.setting=value",
    "int_parsing": "input should be a whole number",
    "float_parsing": "input should be a number",
}


def _same_ending(name: str, known: Sequence[str]) -> list[str]:
    ending = name.rpartition(".")[2]
    return difflib.get_close_matches(ending, [other.rpartition(".")[2] for other in known], n=1) and [
        other for other in known if difflib.get_close_matches(ending, [other.rpartition(".")[2]], n=1)
    ]


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as problem:
        told = getattr(problem, "strerror", None) or _first_line(problem)
        raise ConfigError(f"{path}: cannot be read as a config ({told}); check the path") from problem
    except yaml.YAMLError as problem:
        mark = getattr(problem, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        raise ConfigError(f"{path}{where}: is not valid YAML ({_yaml_fault(problem)}); correct the file") from problem
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: holds {type(values).__name__}, not settings; write lines of name: value")
    return _expanded(values)


def _expanded(values: Mapping[str, Any]) -> dict[str, Any]:
    """Dotted names in a file mean the same as nested ones."""
    result: dict[str, Any] = {}
    for name, value in values.items():
        result = _merged(result, _nested(str(name), _expanded(value) if isinstance(value, dict) else value))
    return result


def _nested(name: str, value: Any) -> dict[str, Any]:
    for part in reversed(name.split(".")):
        value = {part: value}
    return typing.cast(dict[str, Any], value)


def _merged(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    result = dict(under)
    for name, value in over.items():
        below = result.get(name)
        result[name] = _merged(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
    return result


def _yaml_fault(problem: yaml.YAMLError) -> str:
    return getattr(problem, "problem", None) or _first_line(problem)


def _first_line(problem: Exception) -> str:
    return " ".join(str(problem).split())[:160]
