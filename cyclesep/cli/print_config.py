"""`cyclesep config JOB [--markdown] [FILE.yaml ...] [name=value ...]`: print all settings of a job."""

import sys
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING
from typing import Any, NoReturn

import yaml
from pydantic_core import to_jsonable_python

from cyclesep.cli.arguments import Parser, classify_args
from cyclesep.cli.error_handling import fail, run_with_error_handling
from cyclesep.cli.help import format_value
from cyclesep.cli.job import Job
from cyclesep.cli.registry import JOBS
from cyclesep.config import settings
from cyclesep.config.overrides import read_sources
from cyclesep.config.schema import Setting, group_settings, list_settings
from cyclesep.config.suggestions import did_you_mean

USAGE = """usage: cyclesep config JOB [--markdown] [FILE.yaml ...] [name=value ...]

Print all settings of a job with their descriptions: as a YAML file to edit and pass to the job, or with --markdown as
a table. YAML files and name=value arguments replace defaults in the output.

examples:
  cyclesep config train > my-run.yaml
  cyclesep config train steps=100000 targets=[drums] > drums.yaml
  cyclesep config separate --markdown"""

_LINE_WIDTH = 100


def run_config(arguments: Sequence[str]) -> NoReturn:
    """Print the config of the job named by the first argument, and exit with the status."""
    parser = Parser("cyclesep config")
    parser.add_argument("--markdown", action="store_true")
    chosen = parser.parse_intermixed_args(list(arguments))
    if chosen.help or not chosen.arguments:
        print(f"{USAGE}\n\njobs: {', '.join(JOBS)}")
        sys.exit(0)
    name, *rest = chosen.arguments
    if name not in JOBS:
        fail(parser.prog, f"no job named {name!r}; {did_you_mean(name, JOBS)}")

    def action() -> int:
        print(markdown_table(JOBS[name].config) if chosen.markdown else _config_yaml(JOBS[name], rest), end="")
        return 0

    sys.exit(run_with_error_handling(parser.prog, action, debug=chosen.debug))


def commented_yaml(config_class: type, values: Mapping[str, Any] | None = None) -> str:
    """Return all settings of a config dataclass as YAML, each below its description.

    Nested `values` replace defaults. A required setting without a value becomes a comment.
    """
    lines: list[str] = []
    open_groups: tuple[str, ...] = ()
    for setting in list_settings(config_class):
        *parents, name = setting.name.split(".")
        lines += _headers(open_groups, tuple(parents))
        open_groups = tuple(parents)
        lines += _entry(setting, name, "  " * len(parents), _value(setting, values or {}))
    return "\n".join(lines) + "\n"


def markdown_table(config_class: type) -> str:
    """Return one Markdown table of settings per dataclass in a config."""
    parts = []
    for group in group_settings(config_class):
        title = f"### `{group.prefix}`\n\n{group.description}\n\n" if group.prefix else ""
        rows = [f"| `{each.name}` | {_cell(each.type)} | {_default(each)} | {_cell(each.description)} |"
                for each in group.settings]  # fmt: skip
        parts.append(title + "\n".join(["| setting | type | default | description |", "|---|---|---|---|", *rows]))
    return "\n\n".join(parts) + "\n"


def _config_yaml(job: Job, arguments: Sequence[str]) -> str:
    values = read_sources(job.config, *classify_args(job, arguments))
    settings.check_partial(job.config, values)
    return commented_yaml(job.config, values)


def _headers(before: tuple[str, ...], now: tuple[str, ...]) -> Iterator[str]:
    """Yield the keys of groups that begin between two settings in the groups `before` and `now`."""
    shared = 0
    while shared < min(len(before), len(now)) and before[shared] == now[shared]:
        shared += 1
    for depth in range(shared, len(now)):
        yield f"{'  ' * depth}{now[depth]}:"


def _entry(setting: Setting, name: str, indent: str, value: Any) -> Iterator[str]:
    comment = f"{setting.description} ({setting.type})".strip()
    yield from textwrap.wrap(comment, _LINE_WIDTH, initial_indent=f"{indent}# ", subsequent_indent=f"{indent}# ")
    if value is MISSING:
        yield f"{indent}# {name}:   # required"
    else:
        # Dumped inside a list, so that any value takes a single line.
        text = yaml.safe_dump([to_jsonable_python(value)], default_flow_style=True, allow_unicode=True, width=10**6)
        yield f"{indent}{name}: {text.strip()[1:-1]}"


def _value(setting: Setting, values: Mapping[str, Any]) -> Any:
    found: Any = values
    for part in setting.name.split("."):
        if not isinstance(found, Mapping) or part not in found:
            return setting.default
        found = found[part]
    return found


def _default(setting: Setting) -> str:
    return "required" if setting.default is MISSING else f"`{_cell(format_value(setting.default))}`"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
