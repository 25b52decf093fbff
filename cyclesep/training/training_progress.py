"""Progress display of a training run: rank 0 updates an actor, the driver reads it and draws."""

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import ray

from cyclesep.checkpoints.metadata import format_validation
from cyclesep.cluster.connect import local_actor
from cyclesep.console.progress_bar import LiveBar

# Separator metrics that are not loss terms, which only TensorBoard shows.
_NOT_LOSSES = {
    "output_energy",
    "removed_energy",
    "steps_collapsed",
    "pass_through_steps",
    "gradient_norm",
    "steps_skipped",
}


@dataclass(frozen=True, kw_only=True)
class TrainingProgress:
    """State of a run at one moment."""

    step: int
    speed: dict[str, float] = field(default_factory=dict)
    losses: dict[str, float] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)


class ProgressActor:
    """Stores the latest progress, in an actor so that workers on other machines can reach it."""

    def __init__(self) -> None:
        self._latest: TrainingProgress | None = None

    def update(self, progress: TrainingProgress) -> None:
        self._latest = progress

    def latest(self) -> TrainingProgress | None:
        return self._latest


@contextmanager
def show_progress(name: str, *, total: int, every_seconds: float = 1.0) -> Iterator[Any]:
    """Yield a handle of a ProgressActor, and draw its state on stderr while the block runs.

    In a terminal this is one live line; in a file or pipe a line for each validation.
    """
    actor = local_actor(ProgressActor)
    stop = threading.Event()
    draw = _draw_live if sys.stderr.isatty() else _draw_lines
    drawer = threading.Thread(target=draw, args=(name, actor, total, stop, every_seconds), daemon=True)
    drawer.start()
    try:
        yield actor
    finally:
        stop.set()
        drawer.join()
        ray.kill(actor)


def _draw_live(name: str, actor: Any, total: int, stop: threading.Event, every_seconds: float) -> None:
    with LiveBar() as bar:
        task = bar.add_task(name, total=total, status="starting workers")
        for progress in _poll(actor, stop, every_seconds):
            bar.update(task, completed=progress.step, status=_line(progress))


def _draw_lines(name: str, actor: Any, total: int, stop: threading.Event, every_seconds: float) -> None:
    printed: dict[str, float] = {}
    for progress in _poll(actor, stop, every_seconds):
        if progress.metrics != printed:
            printed = progress.metrics
            print(f"{name}: step {progress.step}/{total}  {_line(progress)}", file=sys.stderr, flush=True)


def _poll(actor: Any, stop: threading.Event, every_seconds: float) -> Iterator[TrainingProgress]:
    """Yield the latest progress every `every_seconds`, and once more at the end."""
    last = False
    while not last:
        last = stop.wait(every_seconds)
        try:
            progress = ray.get(actor.latest.remote(), timeout=10)
        except (ray.exceptions.RayError, ValueError):
            continue
        if progress is not None:
            yield progress


def _line(progress: TrainingProgress) -> str:
    """Format the status, most important parts first, because a terminal may be too narrow for all of it."""
    parts = [scores] if (scores := format_validation(progress.metrics)) else []
    if progress.speed:
        parts.append(
            f"{progress.speed['crops_per_second']:.0f} crops/s, {progress.speed['data_wait_fraction']:.1%} data wait"
        )
    terms = {name.removeprefix("separator/"): value for name, value in progress.losses.items()}
    parts += [f"{name} {value:.3f}" for name, value in terms.items() if "/" not in name and name not in _NOT_LOSSES]
    return "  ".join(parts)
