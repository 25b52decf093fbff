"""Timing of the steps of a training worker."""

import time
from collections.abc import Iterator
from contextlib import contextmanager


class StepTimer:
    """Measures speed and waiting time since the last log, and the time between validations."""

    def __init__(self) -> None:
        self._last_log = self._last = time.monotonic()
        self._waited = 0.0
        self._steps = 0

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Count the block as time spent waiting for data."""
        began = time.monotonic()
        yield
        self._waited += time.monotonic() - began
        self._steps += 1

    def should_log(self, every_seconds: float = 1.0) -> bool:
        """Return whether `rates` was last called at least `every_seconds` ago."""
        return time.monotonic() - self._last_log >= every_seconds

    def rates(self, batch_size: int) -> dict[str, float]:
        """Return crops per second of all workers, fraction of time waiting and seconds per step since the last call."""
        seconds = max(time.monotonic() - self._last_log, 1e-9)
        rates = {
            "crops_per_second": self._steps * batch_size / seconds,
            "data_wait_fraction": self._waited / seconds,
            "step_seconds": seconds / max(self._steps, 1),
        }
        self._last_log, self._waited, self._steps = time.monotonic(), 0.0, 0
        return rates

    def elapsed_since_last(self) -> float:
        """Return the seconds since the last call."""
        now = time.monotonic()
        seconds, self._last = now - self._last, now
        return seconds
