"""Where a job is, in a terminal: a bar with figures in one line, and a line below for what else there is to tell.

Neither is ever wider than the terminal: rich's own columns would wrap, or leave no room for the bar.
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

_BAR_CELLS, _SHORTEST_BAR_CELLS = 24, 6
# Of a name that is cut, so much stays, at the cost of figures.
_NAME_CELLS = 10


class LiveBar(Progress):
    """Draws its tasks on stderr; nothing, where stderr is no terminal.

    A task's description is its name. Fields: `count`, what is done of how much (default: completed/total); `speed`, a
    figure more; `left`, an estimate in seconds, or None for none, in place of rich's, which sees the last half minute;
    `told`, the line below. With `transient` nothing of it stays when it is stopped.
    """

    def __init__(self, *, console: Console | None = None, transient: bool = False) -> None:
        self._terminal = console or stderr_console()
        super().__init__(console=self._terminal, transient=transient, disable=not self._terminal.is_terminal)

    @override
    def get_renderables(self) -> Iterator[RenderableType]:
        """The lines of all tasks."""
        # Asked for before the constructor above has ended.
        width = self._terminal.width
        for task in self.tasks:
            yield _bar_line(task, width)
            if task.fields.get("told"):
                yield _cut(f"  {task.fields['told']}", width)


def stderr_console() -> Console:
    """Stderr for bars and lines; a terminal only if it is one, whatever a notebook or FORCE_COLOR says: bars move."""
    is_terminal = sys.stderr.isatty()
    return Console(stderr=True, soft_wrap=True, highlight=False, force_terminal=is_terminal, force_jupyter=False)


def clock(seconds: float) -> str:
    """Seconds as m:ss, or h:mm:ss."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _bar_line(task: Task, width: int) -> Table:
    """Name, bar and figures; what does not fit is left out: the last figures, then the bar, then of the name."""
    figures = _figures(task)
    while len(figures) > 1 and cell_len("  ".join(figures)) + 1 + _NAME_CELLS > width:
        figures.pop()
    told = _cut("  ".join(figures), width)
    room = max(0, width - told.cell_len - 1)
    name = _cut(task.description, max(room - _BAR_CELLS - 1, 2 * room // 3))
    bar_cells = min(_BAR_CELLS, room - name.cell_len - 1)
    line = Table.grid(padding=(0, 1, 0, 0), pad_edge=False)
    if bar_cells < _SHORTEST_BAR_CELLS:
        line.add_row(_cut(task.description, room), told)
    else:
        bar = ProgressBar(
            total=task.total, completed=task.completed, width=bar_cells, pulse=task.total is None,
            animation_time=task.get_time(),
        )  # fmt: skip
        line.add_row(name, bar, told)
    return line


def _cut(words: str, cells: int) -> Text:
    text = Text(words, no_wrap=True)
    text.truncate(cells, overflow="ellipsis")
    return text


def _figures(task: Task) -> list[str]:
    """What is said in figures, the most important first."""
    total = "?" if task.total is None else f"{task.total:.0f}"
    figures = [task.fields.get("count", f"{task.completed:.0f}/{total}")]
    left = task.fields.get("left", task.time_remaining)
    if task.finished_time is not None:
        figures.append(f"in {clock(task.finished_time)}")
    elif left is not None:
        figures.append(f"{clock(left)} left")
    elif task.elapsed is not None:
        figures.append(f"{clock(task.elapsed)} so far")
    figures.append(task.fields.get("speed", ""))
    return [figure for figure in figures if figure]
