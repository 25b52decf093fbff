"""Progress of a separation on stderr: the current file, the position in it, and the speed."""

from pathlib import Path
from typing import Self

from rich.console import Console
from rich.progress import TaskID

from cyclesep.console.progress_bar import LiveBar, TimeColumn, field_column, format_time, stderr_console
from cyclesep.inference.result import SeparatedFile


class SeparationProgress:
    """A progress bar for the current file, in a terminal, and a line for each finished file."""

    def __init__(self, num_files: int, console: Console | None = None) -> None:
        self._console = console or stderr_console()
        self._num_files = num_files
        self._number = 0
        # The line of a finished file replaces its bar.
        figures = (field_column("count"), TimeColumn(), field_column("speed"))
        self._bar = LiveBar(*figures, console=self._console, transient=True)
        self._task: TaskID | None = None

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def begin(self, source: Path) -> None:
        """Start the bar of the next file."""
        self._number += 1
        position = f"{self._number}/{self._num_files} " if self._num_files > 1 else ""
        if self._task is not None:
            self._bar.remove_task(self._task)
        self._task = self._bar.add_task(f"{position}{source.name}", total=None, count="", speed="")

    def advance(self, seconds: float, total: float) -> None:
        """Show that `seconds` of audio are done, of the `total` that the file declares."""
        assert self._task is not None
        total = max(seconds, total)
        rate = self._bar.tasks[0].speed
        self._bar.update(
            self._task,
            completed=seconds,
            total=total,
            count=f"{format_time(seconds)}/{format_time(total)}",
            speed=f"{rate:.1f} x real time" if rate else "",
        )

    def done(self, file: SeparatedFile) -> None:
        """Print a line for a finished file."""
        line = f"{file.source}: {file.seconds:.1f} s of audio, {file.times_real_time:.1f} x real time"
        self._console.print(line, markup=False)
