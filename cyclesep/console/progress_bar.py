"""The progress of a job in a terminal: a line with name, bar and figures, and a status line below."""

import sys
from collections.abc import Iterator

from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn
from rich.table import Column
from rich.text import Text
from typing_extensions import override

# The average over this time gives the time left; tracks and validations of minutes need more than rich's 30 s.
_SPEED_SECONDS = 3600.0


class LiveBar(Progress):
    """Draws a task on stderr if stderr is a terminal, on lines that are never wider than it.

    The description of a task is its name, and its optional field `status` is the line below. `figures` are shown after
    the bar; default: completed/total and the time left. With `transient` the bar is erased when it stops.
    """

    def __init__(self, *figures: ProgressColumn, console: Console | None = None, transient: bool = False) -> None:
        console = console or stderr_console()
        super().__init__(
            _NameColumn(),
            # Shrinks in a narrow terminal, as the name does, because their table columns may wrap.
            BarColumn(24),
            *(figures or (count_column(), TimeColumn())),
            console=console,
            transient=transient,
            disable=not console.is_terminal,
            speed_estimate_period=_SPEED_SECONDS,
        )

    @override
    def get_renderables(self) -> Iterator[RenderableType]:
        yield from super().get_renderables()
        for task in self.tasks:
            if task.fields.get("status"):
                yield _one_line(f"  {task.fields['status']}")


class TimeColumn(ProgressColumn):
    """The estimated time left, or the duration of a finished task."""

    def __init__(self) -> None:
        super().__init__(Column(no_wrap=True))

    @override
    def render(self, task: Task) -> Text:
        if task.finished_time is not None:
            return Text(f"in {format_time(task.finished_time)}")
        if task.time_remaining is not None:
            return Text(f"{format_time(task.time_remaining)} left")
        return Text(f"{format_time(task.elapsed or 0.0)} so far")


class _NameColumn(ProgressColumn):
    @override
    def render(self, task: Task) -> Text:
        return _one_line(task.description)


def count_column() -> ProgressColumn:
    """Return a column with the completed and the total number of steps."""
    return MofNCompleteColumn(table_column=Column(no_wrap=True))


def field_column(name: str) -> ProgressColumn:
    """Return a column with a field of the task, as text."""
    return TextColumn(f"{{task.fields[{name}]}}", markup=False)


def stderr_console() -> Console:
    """Return a console on stderr that is a terminal only if stderr is one, even in a notebook or with FORCE_COLOR."""
    is_terminal = sys.stderr.isatty()
    return Console(stderr=True, soft_wrap=True, highlight=False, force_terminal=is_terminal, force_jupyter=False)


def format_time(seconds: float) -> str:
    """Format seconds as m:ss or h:mm:ss."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _one_line(text: str) -> Text:
    return Text(text, no_wrap=True, overflow="ellipsis")
