"""The definition of a job: a sub-command of `cyclesep` with a config."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Flag:
    """An option that is a short form of settings."""

    name: str
    description: str
    overrides: tuple[str, ...] = ()
    """`name=value` overrides that the option sets; `{}` is replaced by its value."""
    value: str | None = None
    """Name of the value in the help; None for an option without a value."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """A sub-command: its config dataclass, the function that runs it, and what its help shows."""

    name: str
    description: str
    config: type
    run: Callable[[Any], int]
    """Runs the job and returns the exit status."""
    examples: tuple[str, ...] = ()
    """Arguments of example commands."""
    positional: str | None = None
    """Setting that takes the arguments that are neither YAML files nor overrides."""
    single_positional: bool = False
    """Whether `positional` is a single value instead of a list."""
    checkpoint_setting: str | None = None
    """Setting that takes a checkpoint folder given as an argument; the config.yaml in the folder is loaded as well."""
    flags: tuple[Flag, ...] = ()
    program: str = "cyclesep"

    @property
    def command(self) -> str:
        """The command that runs the job, without arguments."""
        return f"{self.program} {self.name}"

    @property
    def prints_json(self) -> bool:
        """Whether the job has `--json`, which prints one JSON document on stdout, also for an error."""
        return any(flag.name == "--json" and flag.value is None for flag in self.flags)
