"""The text of `cyclesep --help` and `cyclesep JOB --help`."""

import textwrap
from collections.abc import Iterator
from dataclasses import MISSING
from typing import Any

from cyclesep.cli.job import Job
from cyclesep.cli.registry import JOBS, descriptions
from cyclesep.config.schema import SettingGroup, group_settings

_WIDTH = 110

COMMON_OPTIONS = {
    "--help": "print this help",
    "--print-config": "print the resolved settings as YAML and exit",
    "--debug": "print the traceback of an error",
}


def overview() -> str:
    """Return the help of the command itself: all jobs and tools."""
    return "\n".join(
        [
            "cyclesep: train, run and score music source separators on Ray",
            "",
            "usage: cyclesep JOB [FILE.yaml ...] [name=value ...]",
            "",
            *(f"  {name:<11} {description}" for name, description in descriptions().items()),
            "",
            "`cyclesep JOB --help` lists the settings of a job. New here? Run `make quickstart`.",
        ]
    )


def job_help(job: Job) -> str:
    """Return the help of a job: usage, examples, options and settings."""
    options = {f"{flag.name} {flag.value or ''}".strip(): flag.description for flag in job.flags} | COMMON_OPTIONS
    width = max(map(len, options)) + 2
    return "\n".join(
        [
            f"usage: {job.command}{_positional(job)} [FILE.yaml ...] [name=value ...]",
            "",
            job.description,
            "",
            "examples:",
            *(f"  {job.command} {example}" for example in job.examples),
            "",
            "options:",
            *(f"  {option:<{width}}{description}" for option, description in options.items()),
            *(line for group in group_settings(job.config) for line in _group(group)),
            "",
            "A YAML file has the same settings as lines of `name: value`; name=value arguments override it.",
            *([f"`cyclesep config {job.name}` prints all settings as such a file."] if job.name in JOBS else []),
        ]
    )


def format_value(value: Any) -> str:
    """Format a default as it is written on the command line."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    return str(list(value)) if isinstance(value, tuple) else str(value)


def _positional(job: Job) -> str:
    if job.positional:
        return f" [{job.positional.upper()}{'' if job.single_positional else ' ...'}]"
    return " [CHECKPOINT]" if job.checkpoint_setting else ""


def _group(group: SettingGroup) -> Iterator[str]:
    yield ""
    yield f"settings of {group.prefix}: {group.description}" if group.prefix else "settings:"
    for setting in group.settings:
        default = "required" if setting.default is MISSING else f"default: {format_value(setting.default)}"
        yield f"  {setting.name}  ({setting.type}; {default})"
        yield from textwrap.wrap(setting.description, _WIDTH, initial_indent=" " * 6, subsequent_indent=" " * 6)
