"""Progress of an evaluation on stderr: tracks scored, speed compared with real time, time left."""

import time
from types import TracebackType

import ray
from ray.util.metrics import Counter

from cyclesep.console.progress_bar import LiveBar, format_time, stderr_console
from cyclesep.evaluation.track_scores import TrackResult

# Interval of the lines that replace the bar in a file or pipe.
_LINE_SECONDS = 10.0

SCORED = "cyclesep_tracks_scored"


class EvaluationProgress:
    """A live bar in a terminal; otherwise a line every ten seconds and one at the end."""

    def __init__(self, run: str, *, total: int, num_reused: int) -> None:
        """`run` is the tag of Ray's metric."""
        self._counter = _scored_counter(run) if ray.is_initialized() else None
        self._console = stderr_console()
        self._bar = LiveBar(console=self._console)
        self._id = self._bar.add_task("evaluate", total=total, completed=num_reused, status="starting")
        self._num_failed, self._audio_seconds = 0, 0.0
        self._start = self._last_line = time.monotonic()

    def __enter__(self) -> "EvaluationProgress":
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._bar.stop()
        if not self._console.is_terminal and kind is None:
            self._print_line()

    def advance(self, result: TrackResult) -> None:
        """Count one result, and print it if it failed."""
        self._num_failed += result.failed
        self._audio_seconds += result.seconds
        if self._counter is not None and not result.failed:
            self._counter.inc()
        if result.failed:
            self._console.print(f"failed: {result}", markup=False)
        self._bar.update(self._id, advance=1, status=self._speed())
        if not self._console.is_terminal and time.monotonic() - self._last_line > _LINE_SECONDS:
            self._last_line = time.monotonic()
            self._print_line()

    def _print_line(self) -> None:
        task = self._bar.tasks[0]
        scored = f"{task.completed - self._num_failed:.0f}/{task.total:.0f} scored"
        left = f", {format_time(task.time_remaining)} left" if task.time_remaining else ""
        self._console.print(f"evaluate: {scored}, {self._speed()}{left}")

    def _speed(self) -> str:
        failed = f", {self._num_failed} failed" if self._num_failed else ""
        elapsed = max(time.monotonic() - self._start, 1e-9)
        return f"{self._audio_seconds / elapsed:.1f} x real time{failed}"


def _scored_counter(run: str) -> Counter:
    counter = Counter(SCORED, "Tracks that cyclesep evaluate has scored", tag_keys=("run",))
    counter.set_default_tags({"run": run})
    return counter
