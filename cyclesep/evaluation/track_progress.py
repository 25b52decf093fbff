"""How far an evaluation is, on stderr: tracks scored, speed against real time, time left."""

import time
from types import TracebackType

import ray
from ray.util.metrics import Counter

from cyclesep.console.progress_bar import LiveBar, clock, stderr_console
from cyclesep.evaluation.track_result import TrackResult

# Into a file or a pipe a line now and then is enough.
_LINE_SECONDS = 10.0

SCORED = "cyclesep_tracks_scored"


class Display:
    """One live line in a terminal; elsewhere a line every ten seconds and one at the end."""

    def __init__(self, run: str, *, total: int, num_kept: int) -> None:
        """`run` is what Ray's metrics call it."""
        self._scored = _scored(run) if ray.is_initialized() else None
        self._console = stderr_console()
        self._bar = LiveBar(console=self._console)
        self._task = self._bar.add_task("evaluate", total=total, completed=num_kept, left=None, told="starting")
        self._total, self._kept, self._done, self._failed, self._seconds = total, num_kept, 0, 0, 0.0
        self._began = self._told = time.monotonic()

    def __enter__(self) -> "Display":
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._bar.stop()
        if not self._console.is_terminal and kind is None:
            self._console.print(self._line())

    def advance(self, outcome: TrackResult) -> None:
        """Count one outcome; a failure is told at once."""
        self._done += 1
        self._failed += outcome.failed
        self._seconds += outcome.seconds
        if self._scored is not None and not outcome.failed:
            self._scored.inc()
        if outcome.failed:
            self._console.print(f"failed: {outcome}", markup=False)
        self._bar.update(self._task, completed=self._kept + self._done, left=self._left(), told=self._speed())
        if not self._console.is_terminal and time.monotonic() - self._told > _LINE_SECONDS:
            self._told = time.monotonic()
            self._console.print(self._line())

    def _line(self) -> str:
        done = self._kept + self._done
        left = f", {clock(self._left())} left" if done < self._total else ""
        return f"evaluate: {done - self._failed}/{self._total} scored, {self._speed()}{left}"

    def _left(self) -> float:
        """Seconds, as this run goes: what it found finished took no time."""
        return (self._total - self._kept - self._done) * self._elapsed() / max(1, self._done)

    def _speed(self) -> str:
        told = f"{self._seconds / self._elapsed():.1f} x real time"
        return told + (f", {self._failed} failed" if self._failed else "")

    def _elapsed(self) -> float:
        return max(time.monotonic() - self._began, 1e-9)


def _scored(run: str) -> Counter:
    counter = Counter(SCORED, "Tracks that cyclesep evaluate has scored", tag_keys=("run",))
    counter.set_default_tags({"run": run})
    return counter
