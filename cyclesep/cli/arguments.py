"""Parsing of a job's arguments: YAML files, `name=value` overrides, positional values and options."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from typing_extensions import override

from cyclesep.cli.error_handling import fail
from cyclesep.cli.job import Job
from cyclesep.config.suggestions import closest
from cyclesep.errors import ConfigError
from cyclesep.storage.atomic_io import exists


class Parser(argparse.ArgumentParser):
    """A parser of options among other arguments, `chosen.arguments`; it reports an error as one line."""

    as_json = False
    """Whether an error is also printed as a JSON document on stdout."""

    def __init__(self, command: str) -> None:
        super().__init__(prog=command, add_help=False, allow_abbrev=False)
        self.add_argument("-h", "--help", action="store_true")
        self.add_argument("--debug", action="store_true")
        self.add_argument("arguments", nargs="*")

    @override
    def error(self, message: str) -> NoReturn:
        """Exit with one line instead of argparse's usage and error."""
        options = [option for option in self._option_string_actions if option.startswith("--")]
        _, unknown, option = message.partition("unrecognized arguments: ")
        near = closest(option.split()[0].partition("=")[0], options) if unknown else None
        remedy = f"did you mean {near}?" if near else f"`{self.prog} --help` lists options and settings"
        fail(self.prog, f"{message}; {remedy}", as_json=self.as_json)


def parse_options(job: Job, arguments: Sequence[str]) -> tuple[argparse.Namespace, bool]:
    """Parse the options of a job; return them with all other arguments, and whether stdout is a JSON document."""
    parser = Parser(job.command)
    parser.add_argument("--print-config", action="store_true")
    for flag in job.flags:
        parser.add_argument(flag.name, dest=flag.name, action="store" if flag.value else "store_true")
    # argparse accepts `--` only after a positional argument, so what follows it is split off first.
    end = arguments.index("--") if "--" in arguments else len(arguments)
    parser.as_json = job.prints_json and any(argument in ("--json", "json=true") for argument in arguments[:end])
    chosen = parser.parse_intermixed_args(list(arguments[:end]))
    chosen.arguments += [*arguments[end + 1 :], *_flag_overrides(job, chosen)]
    return chosen, parser.as_json


def classify_args(job: Job, arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Split arguments into YAML files and `name=value` overrides; positional values become overrides.

    Raises ConfigError for an argument that the job does not take.
    """
    files, overrides, positional = [], [], []
    for argument in arguments:
        if is_override(argument):
            overrides.append(argument)
        elif Path(argument).suffix in (".yaml", ".yml"):
            files.append(argument)
        elif job.checkpoint_setting and exists(Path(argument) / "config.yaml"):
            files.append(str(Path(argument) / "config.yaml"))
            overrides.insert(0, f"{job.checkpoint_setting}={_quoted(argument)}")
        elif job.positional:
            positional.append(argument)
        elif job.checkpoint_setting and exists(Path(argument)) and Path(argument).is_dir():
            raise ConfigError(
                f"{argument}: contains no config.yaml; give a checkpoint folder, or settings as name=value"
            )
        else:
            expected = "a YAML file, a checkpoint folder" if job.checkpoint_setting else "a YAML file"
            raise ConfigError(f"invalid argument {argument!r}; expected {expected} or a setting as name=value")
    if positional:
        overrides.insert(0, _positional_override(job, positional))
    return files, overrides


def is_override(argument: str) -> bool:
    """Whether an argument has the form dotted.name=value and is not the name of an existing file."""
    name, equals, _ = argument.partition("=")
    return bool(equals) and all(part.isidentifier() for part in name.split(".")) and not exists(Path(argument))


def _positional_override(job: Job, values: Sequence[str]) -> str:
    if not job.single_positional:
        return f"{job.positional}=[{', '.join(map(_quoted, values))}]"
    if len(values) > 1:
        raise ConfigError(f"{' '.join(values)}: give only one {job.positional}")
    return f"{job.positional}={_quoted(values[0])}"


def _flag_overrides(job: Job, chosen: argparse.Namespace) -> list[str]:
    given = {flag: getattr(chosen, flag.name) for flag in job.flags if getattr(chosen, flag.name) not in (None, False)}
    return [text.replace("{}", _quoted(str(value))) for flag, value in given.items() for text in flag.overrides]


def _quoted(text: str) -> str:
    """Quote text as a YAML string."""
    return "'" + text.replace("'", "''") + "'"
