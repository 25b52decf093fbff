"""What `cyclesep JOB --help` prints: what the job does, examples, options, and its settings in groups."""

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING
from typing import Any

from cyclesep.config.settings import Group

_WIDTH = 110


def job_help(
    name: str, sentence: str, examples: Sequence[str], options: Mapping[str, str], groups: Sequence[Group]
) -> str:
    """The help of a job; `name` is what its usage line shows, `options` what each one does, `groups` its settings."""
    job = name.split(" [")[0]
    width = max(map(len, options)) + 2
    return "\n".join(
        [
            f"usage: cyclesep {name} [FILE.yaml ...] [name=value ...]",
            "",
            sentence,
            "",
            "examples:",
            *(f"  cyclesep {job} {example}" for example in examples),
            "",
            "options:",
            *(f"  {option:<{width}}{told}" for option, told in options.items()),
            *(line for group in groups for line in _group(group)),
            "",
            "A YAML file holds the same settings as lines of `name: value`; words here win over a file.",
            f"`cyclesep config {job}` prints them all as such a file.",
        ]
    )


def shown(value: Any) -> str:
    """A default as a person writes it."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    return str(list(value)) if isinstance(value, tuple) else str(value)


def _group(group: Group) -> Iterator[str]:
    yield ""
    yield f"settings of {group.prefix}: {group.sentence}" if group.prefix else "settings:"
    for setting in group.settings:
        default = "required" if setting.default is MISSING else f"default {shown(setting.default)}"
        yield f"  {setting.name}  ({setting.type}; {default})"
        yield from textwrap.wrap(setting.sentence, _WIDTH, initial_indent=" " * 6, subsequent_indent=" " * 6)
