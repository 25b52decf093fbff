"""Jinja environment of the HTML reports, and formatting of their values."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import jinja2
import yaml

from cyclesep.errors import StorageError
from cyclesep.storage.path import StoragePath

REPORT = "report.html"


@dataclass(frozen=True, kw_only=True)
class Column:
    """A column of a table; `name` is its heading and the key of its values in the rows."""

    name: str
    unit: str = ""
    """Shown in the heading, such as dB."""
    digits: int | None = None
    """Decimals of a right-aligned number; None for text."""
    meaning: str = ""
    """Tooltip of the heading."""


@lru_cache(maxsize=1)
def jinja_environment() -> jinja2.Environment:
    """Return the environment of all reports, with autoescape; an undefined name is an error.

    A report extends `base.html` (blocks: title, lead, main, scripts), which has the style, the theme switch, sortable
    tables and tooltips in figures; `parts.html` has macros for a table of `Column`s and rows, a card and a figure.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("cyclesep.reports"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    # Keep the order of the keys, as in the tables.
    environment.policies["json.dumps_kwargs"] = {"sort_keys": False}
    environment.filters |= {"number": number, "yaml": _yaml, "clock": clock}
    return environment


def write_page(folder: StoragePath, template: str, values: Mapping[str, Any]) -> str:
    """Render a template into report.html of `folder`, atomically, and return the location of the file."""
    folder.write_text(REPORT, jinja_environment().get_template(template).render(values))
    return folder.file_uri(REPORT)


def number(value: float | None, digits: int = 2) -> str:
    """Format a number with a minus sign and thousands separators; a dash for None, NaN and infinity."""
    if value is None or not math.isfinite(value):
        return "–"
    return f"{value:,.{digits}f}".replace("-", "\N{MINUS SIGN}")


def clock(seconds: float) -> str:
    """Format seconds as m:ss."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d}"


def read_object(folder: StoragePath, name: str, *, remedy: str) -> dict[str, Any]:
    """Read a JSON or YAML object; raises StorageError, which ends with the remedy, if the file does not contain one."""
    try:
        # A YAML parser also reads JSON, but ten times slower.
        parse = yaml.safe_load if name.endswith(".yaml") else json.loads
        return dict(parse(folder.read_text(name)))
    except (StorageError, ValueError, TypeError, yaml.YAMLError) as error:
        raise StorageError(f"{folder.file_uri(name)}: is missing or damaged; {remedy}") from error


def _yaml(value: Mapping[str, Any] | Sequence[Any]) -> str:
    return yaml.safe_dump(value, sort_keys=False, allow_unicode=True, width=100)
