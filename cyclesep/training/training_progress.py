"""The live line of a training run: rank 0 tells a board (an actor), the driver looks at it and draws."""

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import ray

from cyclesep.cluster.connect import local_actor
from cyclesep.console.progress_bar import LiveBar

# Measured on the separator, but not terms of its loss; TensorBoard has them.
_NO_LOSSES = {
    "output_energy",
    "removed_energy",
    "steps_collapsed",
    "pass_through_steps",
    "gradient_norm",
    "steps_skipped",
}


@dataclass(frozen=True, kw_only=True)
class ShownProgress:
    """What a run shows of itself at one moment."""

    step: int
    speed: dict[str, float] = field(default_factory=dict)
    losses: dict[str, float] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)


class Board:
    """Holds the last thing told; lives in an actor so that workers on other machines reach it."""

    def __init__(self) -> None:
        self._told: ShownProgress | None = None

    def tell(self, progress: ShownProgress) -> None:
        self._told = progress

    def look(self) -> ShownProgress | None:
        return self._told


@contextmanager
def watched(name: str, *, total: int, every_seconds: float = 1.0) -> Iterator[Any]:
    """Give a board's actor handle; while the block runs, draw what it is told on stderr.

    A terminal gets one live line; a file or a pipe gets a line whenever there are new validation figures.
    """
    board = local_actor(Board)
    stop = threading.Event()
    draw = _draw_live if sys.stderr.isatty() else _draw_lines
    drawer = threading.Thread(target=draw, args=(name, board, total, stop, every_seconds), daemon=True)
    drawer.start()
    try:
        yield board
    finally:
        stop.set()
        drawer.join()
        ray.kill(board)


def _draw_live(name: str, board: Any, total: int, stop: threading.Event, every_seconds: float) -> None:
    with LiveBar() as bar:
        task = bar.add_task(name, total=total, status="starting workers")
        for number, progress in enumerate(_looks(board, stop, every_seconds)):
            if number == 0:
                # A run that goes on has not done its first steps just now.
                bar.reset(task, total=total, completed=progress.step)
            bar.update(task, completed=progress.step, status=_line(progress))


def _draw_lines(name: str, board: Any, total: int, stop: threading.Event, every_seconds: float) -> None:
    shown: dict[str, float] = {}
    for progress in _looks(board, stop, every_seconds):
        if progress.metrics != shown:
            shown = progress.metrics
            print(f"{name}: step {progress.step}/{total}  {_line(progress)}", file=sys.stderr, flush=True)


def _looks(board: Any, stop: threading.Event, every_seconds: float) -> Iterator[ShownProgress]:
    """What the board holds, now and again, and once more at the end."""
    last = False
    while not last:
        last = stop.wait(every_seconds)
        try:
            progress = ray.get(board.look.remote(), timeout=10)
        except (ray.exceptions.RayError, ValueError):
            continue
        if progress is not None:
            yield progress


def _line(progress: ShownProgress) -> str:
    """The most important first: a terminal may be too narrow for all of it."""
    parts = []
    if "validation/sdr" in progress.metrics:
        metrics = progress.metrics
        parts.append(f"SDR {metrics['validation/sdr']:.2f} dB (SI-SDR {metrics['validation/si_sdr_gain']:+.2f})")
    if progress.speed:
        parts.append(f"{progress.speed['crops_per_second']:.0f} crops/s, {progress.speed['data_wait']:.1%} data wait")
    terms = {name.removeprefix("separator/"): value for name, value in progress.losses.items()}
    parts += [f"{name} {value:.3f}" for name, value in terms.items() if "/" not in name and name not in _NO_LOSSES]
    return "  ".join(parts)
