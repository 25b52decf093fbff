"""Progress of a search: trials running, best score so far, time remaining."""

import sys
import time
from dataclasses import dataclass, field
from typing import Any

from ray import tune
from ray.tune.experiment import Trial
from typing_extensions import override

from cyclesep.console.progress_bar import LiveBar, count_column
from cyclesep.tuning.trial_table import trial_label


@dataclass(kw_only=True)
class TrialStats:
    """Counts trials and estimates the remaining time from the trials that have ended."""

    num_trials: int
    max_concurrent: int
    running: dict[str, float] = field(default_factory=dict)
    """Start time of each running trial."""
    durations: dict[str, float] = field(default_factory=dict)
    """Seconds of each trial that has ended."""
    ended_before: int = 0
    """Trials that had ended when the search was resumed."""
    stopped_early: int = 0
    best_sdr: float | None = None
    best_trial: str = ""

    @property
    def ended(self) -> int:
        """Trials that have ended with any outcome."""
        return self.ended_before + len(self.durations)

    def start(self, trial: str, now: float) -> None:
        """Record that a trial has started, or continues after a pause."""
        self.running.setdefault(trial, now)

    def end(self, trial: str, now: float, *, early: bool) -> None:
        """Record that a trial has ended."""
        started = self.running.pop(trial, now)
        if trial not in self.durations:
            self.stopped_early += early
        self.durations[trial] = now - started

    def validated(self, trial: str, sdr: float | None) -> None:
        """Record the score of a validation."""
        if sdr is not None and (self.best_sdr is None or sdr > self.best_sdr):
            self.best_sdr, self.best_trial = sdr, trial

    def seconds_left(self, now: float) -> float | None:
        """Estimate the remaining time from the mean duration of a trial; None before the first one has ended."""
        if not self.durations:
            return None
        mean = sum(self.durations.values()) / len(self.durations)
        waiting = max(0, self.num_trials - self.ended - len(self.running))
        work = waiting * mean + sum(max(0.0, mean - (now - started)) for started in self.running.values())
        return work / max(1, min(self.max_concurrent, waiting + len(self.running)))

    def line(self, now: float) -> str:
        """Return a one-line summary."""
        parts = [f"{len(self.running)} running", f"{self.ended} of {self.num_trials} ended"]
        if self.stopped_early:
            parts.append(f"{self.stopped_early} of them early")
        if self.best_sdr is not None:
            parts.append(f"best {self.best_sdr:.2f} dB ({self.best_trial})")
        left = self.seconds_left(now)
        if left is not None and self.ended < self.num_trials:
            parts.append(f"about {_format_duration(left)} left")
        return ", ".join(parts)


class ProgressCallback(tune.Callback):  # type: ignore[misc]
    """Shows the progress on stderr: a live line on a terminal, otherwise a line for each trial that has ended.

    Tune calls it in the process of the search, and pickles it with the state of the search.
    """

    def __init__(self, name: str, *, num_trials: int, max_concurrent: int, steps: int) -> None:
        self.name, self.steps = name, steps
        self.stats = TrialStats(num_trials=num_trials, max_concurrent=max_concurrent)
        self._bar: LiveBar | None = None
        self._task: Any = None

    @override
    def setup(self, **info: Any) -> None:
        if sys.stderr.isatty():
            self._bar = LiveBar(count_column())
            status = "starting the first trials"
            self._task = self._bar.add_task(self.name, total=self.stats.num_trials, status=status)
            self._bar.start()
        else:
            line = f"{self.name}: {self.stats.num_trials} trials, {self.stats.max_concurrent} at a time"
            print(line, file=sys.stderr, flush=True)

    @override
    def on_step_begin(self, iteration: int, trials: list[Trial], **info: Any) -> None:
        if iteration == 0 or not self.stats.running:
            self.stats.ended_before = sum(
                trial.is_finished() and trial.trial_id not in self.stats.durations for trial in trials
            )
        self._draw()

    @override
    def on_trial_start(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        self.stats.start(trial.trial_id, time.monotonic())

    @override
    def on_trial_result(self, iteration: int, trials: list[Trial], trial: Trial, result: dict, **info: Any) -> None:
        self.stats.validated(trial_label(trial.trial_id), result.get("sdr"))

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
        self.stats.end(trial.trial_id, now, early=early)
        if self._bar is None:
            result = trial.last_result or {}
            score = f"SDR {result['sdr']:.2f} dB" if result.get("sdr") is not None else result.get("reason", "failed")
            label, step = trial_label(trial.trial_id), result.get("step", 0)
            line = f"{self.name}: {label} ended at step {step}/{self.steps}, {score}; {self.stats.line(now)}"
            print(line, file=sys.stderr, flush=True)

    def _draw(self) -> None:
        if self._bar is not None:
            self._bar.update(self._task, completed=self.stats.ended, status=self.stats.line(time.monotonic()))


def _format_duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
