"""The templates of all pages: what they share, and how values are written in them."""

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
    """A column of a table on a page; `name` is both its heading and the key of its values in the rows."""

    name: str
    unit: str = ""
    """Shown in the heading: dB, steps."""
    digits: int | None = None
    """Numbers have this many decimals and stand right; None: text."""
    meaning: str = ""
    """One line, shown when the heading is pointed at."""


@lru_cache(maxsize=1)
def jinja_environment() -> jinja2.Environment:
    """The environment of every page: autoescape on, an undefined name is an error.

    A page extends `base.html` (blocks: title, lead, main, scripts), which brings style, theme switch, sortable tables
    and hover in figures; `parts.html` has macros for a table of `Column`s and rows, a card and a figure.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("cyclesep.reports"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    # In the order in which they are given, as in the tables.
    environment.policies["json.dumps_kwargs"] = {"sort_keys": False}
    environment.filters |= {"number": number, "yaml": _yaml, "clock": clock}
    return environment


def write_page(folder: StoragePath, template: str, values: Mapping[str, Any]) -> str:
    """Render a page into report.html of `folder`, whole or not at all; gives where it lies."""
    folder.write_text(REPORT, jinja_environment().get_template(template).render(values))
    return folder.file_uri(REPORT)


def number(value: float | None, digits: int = 2) -> str:
    """A number as people read it; a dash for none, NaN and infinity."""
    if value is None or not math.isfinite(value):
        return "–"
    return f"{value:,.{digits}f}".replace("-", "\N{MINUS SIGN}")


def clock(seconds: float) -> str:
    """Minutes and seconds: 1:05."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d}"


def read_object(folder: StoragePath, name: str, *, remedy: str) -> dict[str, Any]:
    """A JSON or YAML object; raises StorageError, which ends with the remedy, for a file that holds none."""
    try:
        # YAML reads JSON too, but ten times as slowly.
        parse = yaml.safe_load if name.endswith(".yaml") else json.loads
        return dict(parse(folder.read_text(name)))
    except (StorageError, ValueError, TypeError, yaml.YAMLError) as problem:
        raise StorageError(f"{folder.file_uri(name)}: is missing or damaged; {remedy}") from problem


def _yaml(value: Mapping[str, Any] | Sequence[Any]) -> str:
    return yaml.safe_dump(value, sort_keys=False, allow_unicode=True, width=100)
