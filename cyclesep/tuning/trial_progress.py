"""What a search shows of itself while it runs: trials running, the best so far, the time left."""

import sys
import time
from dataclasses import dataclass, field
from typing import Any

from ray import tune
from ray.tune.experiment import Trial
from typing_extensions import override

from cyclesep.console.progress_bar import LiveBar
from cyclesep.tuning.trial_table import label


@dataclass(kw_only=True)
class TrialStats:
    """Counts trials, and guesses from those that have ended how long the others will take."""

    total: int
    at_a_time: int
    running: dict[str, float] = field(default_factory=dict)
    """When each began."""
    took: dict[str, float] = field(default_factory=dict)
    """Seconds of each that has ended."""
    before: int = 0
    """Trials that had ended before this process."""
    stopped: int = 0
    best: float | None = None
    best_trial: str = ""

    @property
    def ended(self) -> int:
        """Trials that have come to an end, however."""
        return self.before + len(self.took)

    def begin(self, trial: str, now: float) -> None:
        """A trial has begun, or goes on after a pause."""
        self.running.setdefault(trial, now)

    def end(self, trial: str, now: float, *, early: bool) -> None:
        """A trial has come to an end."""
        began = self.running.pop(trial, now)
        if trial not in self.took:
            self.stopped += early
        self.took[trial] = now - began

    def score(self, trial: str, sdr: float | None) -> None:
        """A trial has been validated."""
        if sdr is not None and (self.best is None or sdr > self.best):
            self.best, self.best_trial = sdr, trial

    def seconds_left(self, now: float) -> float | None:
        """As if the other trials took as long as those before; None before the first one has ended."""
        if not self.took:
            return None
        usual = sum(self.took.values()) / len(self.took)
        waiting = max(0, self.total - self.ended - len(self.running))
        work = waiting * usual + sum(max(0.0, usual - (now - began)) for began in self.running.values())
        return work / max(1, min(self.at_a_time, waiting + len(self.running)))

    def line(self, now: float) -> str:
        """All of it in a few words."""
        parts = [f"{len(self.running)} running", f"{self.ended} of {self.total} ended"]
        if self.stopped:
            parts.append(f"{self.stopped} of them early")
        if self.best is not None:
            parts.append(f"best {self.best:.2f} dB ({self.best_trial})")
        left = self.seconds_left(now)
        if left is not None and self.ended < self.total:
            parts.append(f"about {_time(left)} left")
        return ", ".join(parts)


class Display(tune.Callback):  # type: ignore[misc]
    """Draws the tally on stderr: one live line on a terminal, else a line whenever a trial has ended.

    Called by Tune in the process that searches, and kept by it with the state of a search.
    """

    def __init__(self, name: str, *, total: int, at_a_time: int, steps: int) -> None:
        self.name, self.steps = name, steps
        self.tally = TrialStats(total=total, at_a_time=at_a_time)
        self._bar: LiveBar | None = None
        self._task: Any = None

    @override
    def setup(self, **info: Any) -> None:
        if sys.stderr.isatty():
            self._bar = LiveBar()
            told = "starting the first trials"
            self._task = self._bar.add_task(self.name, total=self.tally.total, seconds_left=None, status=told)
            self._bar.start()
        else:
            line = f"{self.name}: {self.tally.total} trials, {self.tally.at_a_time} at a time"
            print(line, file=sys.stderr, flush=True)

    @override
    def on_step_begin(self, iteration: int, trials: list[Trial], **info: Any) -> None:
        if iteration == 0 or not self.tally.running:
            self.tally.before = sum(trial.is_finished() and trial.trial_id not in self.tally.took for trial in trials)
        self._draw()

    @override
    def on_trial_start(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        self.tally.begin(trial.trial_id, time.monotonic())

    @override
    def on_trial_result(self, iteration: int, trials: list[Trial], trial: Trial, result: dict, **info: Any) -> None:
        self.tally.score(label(trial.trial_id), result.get("sdr"))

    @override
    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        self._end(trial, early=(trial.last_result or {}).get("step", 0) < self.steps)

    @override
    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        self._end(trial, early=False)

    @override
    def on_experiment_end(self, trials: list[Trial], **info: Any) -> None:
        if self._bar is not None:
            self._draw()
            self._bar.stop()
            self._bar = None

    def _end(self, trial: Trial, *, early: bool) -> None:
        now = time.monotonic()
        self.tally.end(trial.trial_id, now, early=early)
        if self._bar is None:
            told = trial.last_result or {}
            score = f"SDR {told['sdr']:.2f} dB" if told.get("sdr") is not None else told.get("reason", "failed")
            line = f"{self.name}: {label(trial.trial_id)} ended at step {told.get('step', 0)}/{self.steps}, {score}"
            print(f"{line}; {self.tally.line(now)}", file=sys.stderr, flush=True)

    def _draw(self) -> None:
        if self._bar is not None:
            self._bar.update(self._task, completed=self.tally.ended, status=self.tally.line(time.monotonic()))


def _time(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
