"""Where a separation is: the file, the time in it, and how many times faster than real time it goes."""

from pathlib import Path
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TaskID, TextColumn, TimeRemainingColumn
from rich.text import Text
from typing_extensions import override

from cyclesep.separation.outcome import SeparatedFile


class SeparationProgress:
    """A bar on stderr for the file in work, where a person looks on, and a line for each that is done."""

    def __init__(self, num_files: int, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True, soft_wrap=True, highlight=False)
        self._num_files = num_files
        self._number = 0
        columns = [TextColumn("{task.description}", markup=False), BarColumn(bar_width=24), _Times(), _RealTime()]
        self._bar = Progress(
            *columns, TimeRemainingColumn(), console=self._console, disable=not self._console.is_terminal
        )
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
        of_all = f" ({self._number} of {self._num_files})" if self._num_files > 1 else ""
        self._task = self._bar.add_task(f"{source.name}{of_all}", total=None)

    def advance(self, seconds: float, total: float) -> None:
        """So many seconds of audio are done, of so many that the file declares."""
        if self._task is not None:
            self._bar.update(self._task, completed=seconds, total=max(seconds, total))

    def done(self, file: SeparatedFile) -> None:
        """Tell of a finished file."""
        told = f"{file.source}: {file.seconds:.1f} s of audio, {file.times_real_time:.1f} x real time"
        self._console.print(told, markup=False)


class _Times(ProgressColumn):
    @override
    def render(self, task: Task) -> Text:
        return Text(f"{clock(task.completed)}/{clock(task.total or 0)}")


class _RealTime(ProgressColumn):
    @override
    def render(self, task: Task) -> Text:
        return Text(f"{task.speed:.1f} x real time" if task.speed else "")


def clock(seconds: float) -> str:
    """Seconds as m:ss, or h:mm:ss."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
