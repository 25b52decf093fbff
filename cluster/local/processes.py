"""Find and kill processes of this machine through Linux's process table."""

import os
import signal
from contextlib import suppress
from pathlib import Path


def descendants(process: int) -> dict[int, str]:
    """Return the command lines of all descendants of a process, by PID."""
    parents: dict[int, int] = {}
    commands: dict[int, str] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            commands[int(folder.name)] = (folder / "cmdline").read_text().replace("\0", " ")
    found = {process}
    while children := {child for child, parent in parents.items() if parent in found} - found:
        found |= children
    return {child: commands[child] for child in found - {process} if child in commands}


def kill(processes: dict[int, str], *, called: str = "") -> int:
    """SIGKILL those of `processes` whose command line contains `called`; return their number."""
    chosen = [process for process, command in processes.items() if called in command]
    for process in chosen:
        with suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)
    return len(chosen)
