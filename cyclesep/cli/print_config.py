"""`cyclesep config JOB [--markdown] [FILE.yaml ...] [name=value ...]`: a job's whole config with its explanations."""

import difflib
import sys
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING
from typing import Any, NoReturn

import yaml
from pydantic_core import to_jsonable_python

from cyclesep.cli.help import shown
from cyclesep.cli.main import JOBS, Parser, classify_args, fail, import_object, run_with_error_handling
from cyclesep.cli.reference import job_reference
from cyclesep.config import settings
from cyclesep.config.settings import Group, Setting

USAGE = """usage: cyclesep config JOB [--markdown] [FILE.yaml ...] [name=value ...]

Print all settings of a job: as a YAML file with a sentence to each, ready to be changed and given to the job, or with
--markdown as a table. Files and words change what the YAML holds.

examples:
  cyclesep config train > my-run.yaml
  cyclesep config train steps=100000 targets=[drums] > drums.yaml
  cyclesep config separate --markdown"""

_LINE_WIDTH = 100


def run_config(words: Sequence[str]) -> NoReturn:
    """Print the config of the job that the first word names; exit with the status."""
    parser = Parser(prog="cyclesep config", add_help=False, allow_abbrev=False)
    parser.add_argument("-h", "--help", action="store_true")
    parser.add_argument("--debug", action="store_true")
    parser.add_argument("--markdown", action="store_true")
    parser.add_argument("words", nargs="*")
    chosen = parser.parse_intermixed_args(list(words))
    if chosen.help or not chosen.words:
        print(f"{USAGE}\n\njobs: {', '.join(JOBS)}")
        sys.exit(0)
    name, *rest = chosen.words
    if name not in JOBS:
        near = difflib.get_close_matches(name, JOBS, n=1)
        fail("cyclesep config", f"there is no job {name!r}; {f'did you mean {near[0]}?' if near else ', '.join(JOBS)}")
    sys.exit(
        run_with_error_handling("config", lambda: _print(name, rest, markdown=chosen.markdown), debug=chosen.debug)
    )


def commented_yaml(config_class: type, values: Mapping[str, Any] | None = None) -> str:
    """All settings of `config_class` as YAML, each under its sentence; `values` (nested) in place of defaults.

    A setting that has neither a value nor a default stands there as a comment.
    """
    return _commented(settings.reference(config_class), values or {})


def markdown_table(config_class: type) -> str:
    """A table of all settings of `config_class` for each dataclass in it."""
    return _tables(settings.groups(config_class))


def _print(name: str, words: Sequence[str], *, markdown: bool) -> int:
    known = job_reference(name, JOBS[name])
    if markdown:
        print(_tables(known.groups), end="")
        return 0
    values: dict[str, Any] = {}
    if words:
        # Only its dataclasses know what may be said, and they come with all that the job imports.
        config_class = import_object(JOBS[name].config)
        values = settings.read(config_class, *classify_args(JOBS[name], words))
        settings.check(config_class, values)
    print(_commented(known.settings, values), end="")
    return 0


def _commented(rows: Sequence[Setting], values: Mapping[str, Any]) -> str:
    lines: list[str] = []
    open_groups: tuple[str, ...] = ()
    for setting in rows:
        *parents, name = setting.name.split(".")
        lines += _headers(open_groups, tuple(parents))
        open_groups = tuple(parents)
        lines += _entry(setting, name, "  " * len(parents), _value(setting, values))
    return "\n".join(lines) + "\n"


def _tables(groups: Sequence[Group]) -> str:
    parts = []
    for group in groups:
        title = f"### `{group.prefix}`\n\n{group.sentence}\n\n" if group.prefix else ""
        rows = [f"| `{each.name}` | {_cell(each.type)} | {_default(each)} | {_cell(each.sentence)} |"
                for each in group.settings]  # fmt: skip
        parts.append(title + "\n".join(["| setting | type | default | meaning |", "|---|---|---|---|", *rows]))
    return "\n\n".join(parts) + "\n"


def _headers(before: tuple[str, ...], now: tuple[str, ...]) -> Iterator[str]:
    shared = 0
    while shared < min(len(before), len(now)) and before[shared] == now[shared]:
        shared += 1
    for depth in range(shared, len(now)):
        yield f"{'  ' * depth}{now[depth]}:"


def _entry(setting: Setting, name: str, indent: str, value: Any) -> Iterator[str]:
    told = f"{setting.sentence} ({setting.type})".strip()
    yield from textwrap.wrap(told, _LINE_WIDTH, initial_indent=f"{indent}# ", subsequent_indent=f"{indent}# ")
    if value is MISSING:
        yield f"{indent}# {name}:   # required"
    else:
        # Within a list, so that one line holds it whatever it is.
        held = yaml.safe_dump([to_jsonable_python(value)], default_flow_style=True, allow_unicode=True, width=10**6)
        yield f"{indent}{name}: {held.strip()[1:-1]}"


def _value(setting: Setting, values: Mapping[str, Any]) -> Any:
    found: Any = values
    for part in setting.name.split("."):
        if not isinstance(found, Mapping) or part not in found:
            return setting.default
        found = found[part]
    return found


def _default(setting: Setting) -> str:
    return "required" if setting.default is MISSING else f"`{_cell(shown(setting.default))}`"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
