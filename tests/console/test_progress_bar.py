"""The progress bar on an emulated terminal: no line wraps, and no line remains that should be erased."""

import io
from collections.abc import Callable
from pathlib import Path

import pyte
import pytest
from rich.console import Console

from cyclesep.console.progress_bar import LiveBar, format_time
from cyclesep.inference.file_progress import SeparationProgress
from cyclesep.inference.result import SeparatedFile

NAME = "A song with a long name (feat. another artist) [remastered, live in a city].flac"


class Terminal:
    """A console and the screen that shows its output."""

    def __init__(self, columns: int) -> None:
        self.file = io.StringIO()
        self.console = Console(
            file=self.file,
            force_terminal=True,
            width=columns,
            height=20,
            soft_wrap=True,
            highlight=False,
            color_system="standard",
        )
        self._screen = pyte.Screen(columns, 20)
        self._stream = pyte.Stream(self._screen)
        self._stream.feed("\x1b[20h")  # a line feed returns to the left margin, as in a tty

    def lines(self) -> list[str]:
        """Return the non-empty lines on the screen."""
        self._stream.feed(self.file.getvalue())
        self.file.seek(0)
        self.file.truncate()
        return [line.rstrip() for line in self._screen.display if line.strip()]


@pytest.fixture
def now() -> list[float]:
    return [0.0]


def bar_on(terminal: Terminal, now: list[float]) -> LiveBar:
    bar = LiveBar(console=terminal.console)
    bar.get_time = lambda: now[0]
    return bar


def halfway(bar: LiveBar, now: list[float], name: str = "quickstart", status: str = "") -> None:
    """Draw a task with 50 of 100 steps done in ten seconds."""
    task = bar.add_task(name, total=100, status=status)
    bar.start_task(task)
    for step in range(1, 6):
        now[0] = 2.0 * step
        bar.update(task, completed=10 * step)
    bar.refresh()


@pytest.mark.parametrize(
    ("columns", "line"),
    [
        (80, "quickstart ━━━━━━━━━━━━━━━━━━━━━━━━  50/100 0:10 left"),
        (40, "quickstart ━━━━━━━━━━━  50/100 0:10 left"),
        (30, "quick… ━━━━━  50/100 0:10 left"),
        (24, "q… ━━━  50/100 0:10 left"),
        (20, " ━  50/100 0:10 left"),
    ],
)
def test_bar_and_name_shrink_before_figures(columns: int, line: str, now: list[float]) -> None:
    terminal = Terminal(columns)
    with bar_on(terminal, now) as bar:
        halfway(bar, now)
        drawn = terminal.lines()
    assert [each.replace("╸", "━").replace("╺", "━") for each in drawn] == [line]


@pytest.mark.parametrize("columns", [120, 80, 40, 20, 8])
def test_long_text_takes_two_lines(columns: int, now: list[float]) -> None:
    terminal = Terminal(columns)
    with bar_on(terminal, now) as bar:
        halfway(
            bar, now, name=NAME, status="SDR 4.32 dB (SI-SDRi +8.0)  61 crops/s, 1.2% data wait  cycle 0.250  and so on"
        )
        assert len(terminal.lines()) == 2
        for step in range(51, 100):
            bar.update(bar.task_ids[0], completed=step, refresh=True)
        first, second = terminal.lines()
    assert "99/100" in first or columns < 20
    assert second.startswith("  SDR"[:columns])


def test_finished_task_shows_its_duration(now: list[float]) -> None:
    terminal = Terminal(80)
    with bar_on(terminal, now) as bar:
        halfway(bar, now)
        now[0] = 3720.0
        bar.update(bar.task_ids[0], completed=100)
    (line,) = terminal.lines()
    assert line.endswith(" 100/100 in 1:02:00")


def test_draws_nothing_without_a_terminal(now: list[float]) -> None:
    console = Console(file=io.StringIO(), width=80)
    with LiveBar(console=console) as bar:
        halfway(bar, now)
    assert console.file.getvalue() == ""


def test_force_color_is_not_a_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, now: list[float]
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    with LiveBar() as bar:
        halfway(bar, now)
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("columns", [80, 40])
def test_only_the_lines_of_separated_files_remain(columns: int) -> None:
    terminal = Terminal(columns)
    shown: Callable[[], list[str]] = terminal.lines
    with SeparationProgress(2, terminal.console) as progress:
        for name in ("song.mp3", NAME):
            progress.begin(Path(name))
            for seconds in range(0, 201, 20):
                progress.advance(float(seconds), 200.0)
                progress._bar.refresh()
            assert "3:20/3:20" in shown()[-1]
            result = SeparatedFile(source=Path(name), stems={}, seconds=200.0, wall_seconds=40.0, gain=1.0)
            progress.done(result)
    expected = "".join(f"{name}: 200.0 s of audio, 5.0 x real time" for name in ("song.mp3", NAME))
    assert "".join(shown()).replace(" ", "") == expected.replace(" ", "")


@pytest.mark.parametrize(("seconds", "text"), [(0.4, "0:00"), (59.6, "1:00"), (3599, "59:59"), (3600, "1:00:00")])
def test_format_time(seconds: float, text: str) -> None:
    assert format_time(seconds) == text
