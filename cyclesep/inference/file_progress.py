"""Where a separation is: the file, the time in it, and how many times faster than real time it goes."""

from pathlib import Path
from typing import Self

from rich.console import Console
from rich.progress import TaskID

from cyclesep.console.progress_bar import LiveBar, format_time, stderr_console
from cyclesep.inference.result import SeparatedFile


class SeparationProgress:
    """A bar on stderr for the file in work, where a person looks on, and a line for each that is done."""

    def __init__(self, num_files: int, console: Console | None = None) -> None:
        self._console = console or stderr_console()
        self._num_files = num_files
        self._number = 0
        # Of a file that is done its own line stays.
        self._bar = LiveBar(console=self._console, transient=True)
        self._task: TaskID | None = None

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def begin(self, source: Path) -> None:
        """Show the next file; how long it is `advance` tells."""
        self._number += 1
        if self._task is not None:
            self._bar.remove_task(self._task)
        of_all = f"{self._number}/{self._num_files} " if self._num_files > 1 else ""
        self._task = self._bar.add_task(f"{of_all}{source.name}", total=None, count="")

    def advance(self, seconds: float, total: float) -> None:
        """So many seconds of audio are done, of so many that the file declares."""
        if self._task is not None:
            total = max(seconds, total)
            rate = self._bar.tasks[0].speed
            speed = f"{rate:.1f} x real time" if rate else ""
            self._bar.update(
                self._task,
                completed=seconds,
                total=total,
                count=f"{format_time(seconds)}/{format_time(total)}",
                speed=speed,
            )

    def done(self, file: SeparatedFile) -> None:
        """Tell of a finished file."""
        told = f"{file.source}: {file.seconds:.1f} s of audio, {file.times_real_time:.1f} x real time"
        self._console.print(told, markup=False)
