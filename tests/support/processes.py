"""Processes of this machine by Linux's process table: which are below another one, and which are called what."""

import os
import signal
from contextlib import suppress
from pathlib import Path


def below(process: int) -> dict[int, str]:
    """The command lines of all processes below `process`, by their ids."""
    parents: dict[int, int] = {}
    commands: dict[int, str] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            commands[int(folder.name)] = (folder / "cmdline").read_text().replace("\0", " ")
    found = {process}
    while more := {child for child, parent in parents.items() if parent in found} - found:
        found |= more
    return {child: commands[child] for child in found - {process} if child in commands}


def kill(processes: dict[int, str], *, called: str = "") -> int:
    """SIGKILL all of `processes` whose command line holds `called`; how many there were."""
    chosen = [process for process, command in processes.items() if called in command]
    for process in chosen:
        with suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)
    return len(chosen)
