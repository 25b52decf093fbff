"""The progress of a job in a terminal: a line with a bar and figures, and a status line below.

Neither line is wider than the terminal, where rich's own columns would wrap or leave no room for the bar.
"""

import sys
from collections.abc import Iterator

from rich.cells import cell_len
from rich.console import Console, RenderableType
from rich.progress import Progress, Task
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text
from typing_extensions import override

_BAR_CELLS, _MIN_BAR_CELLS = 24, 6
# A name is shortened to this length before figures are dropped.
_NAME_CELLS = 10


class LiveBar(Progress):
    """Draws its tasks on stderr if stderr is a terminal.

    A task's description is its name. Optional fields of a task:
    `count`: text in place of completed/total; `speed`: a further figure; `status`: the line below;
    `seconds_left`: an estimate, or None to show none, in place of rich's, which is based on the last 30 s.
    With `transient` the bar is erased when it stops.
    """

    def __init__(self, *, console: Console | None = None, transient: bool = False) -> None:
        self._terminal = console or stderr_console()
        super().__init__(console=self._terminal, transient=transient, disable=not self._terminal.is_terminal)

    @override
    def get_renderables(self) -> Iterator[RenderableType]:
        """Yield the lines of all tasks."""
        # rich calls this inside its constructor, when `self.console` may not exist yet.
        width = self._terminal.width
        for task in self.tasks:
            yield _bar_line(task, width)
            if task.fields.get("status"):
                yield _cut(f"  {task.fields['status']}", width)


def stderr_console() -> Console:
    """Return a console on stderr that is a terminal only if stderr is one, even in a notebook or with FORCE_COLOR."""
    is_terminal = sys.stderr.isatty()
    return Console(stderr=True, soft_wrap=True, highlight=False, force_terminal=is_terminal, force_jupyter=False)


def format_time(seconds: float) -> str:
    """Format seconds as m:ss or h:mm:ss."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _bar_line(task: Task, width: int) -> Table:
    """Return name, bar and figures; to fit the width, drop the last figures, then the bar, then part of the name."""
    figures = _figures(task)
    while len(figures) > 1 and cell_len("  ".join(figures)) + 1 + _NAME_CELLS > width:
        figures.pop()
    text = _cut("  ".join(figures), width)
    room = max(0, width - text.cell_len - 1)
    name = _cut(task.description, max(room - _BAR_CELLS - 1, 2 * room // 3))
    bar_cells = min(_BAR_CELLS, room - name.cell_len - 1)
    line = Table.grid(padding=(0, 1, 0, 0), pad_edge=False)
    if bar_cells < _MIN_BAR_CELLS:
        line.add_row(_cut(task.description, room), text)
    else:
        bar = ProgressBar(
            total=task.total, completed=task.completed, width=bar_cells, pulse=task.total is None,
            animation_time=task.get_time(),
        )  # fmt: skip
        line.add_row(name, bar, text)
    return line


def _cut(text: str, cells: int) -> Text:
    line = Text(text, no_wrap=True)
    line.truncate(cells, overflow="ellipsis")
    return line


def _figures(task: Task) -> list[str]:
    """Return the figures of a task, the most important first."""
    total = "?" if task.total is None else f"{task.total:.0f}"
    figures = [task.fields.get("count", f"{task.completed:.0f}/{total}")]
    left = task.fields.get("seconds_left", task.time_remaining)
    if task.finished_time is not None:
        figures.append(f"in {format_time(task.finished_time)}")
    elif left is not None:
        figures.append(f"{format_time(left)} left")
    elif task.elapsed is not None:
        figures.append(f"{format_time(task.elapsed)} so far")
    figures.append(task.fields.get("speed", ""))
    return [figure for figure in figures if figure]
