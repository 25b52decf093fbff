"""Where the time of a training worker goes."""

import time
from collections.abc import Iterator
from contextlib import contextmanager


class StepTimer:
    """Counts steps and waiting between tellings, and seconds between laps."""

    def __init__(self) -> None:
        self._started = self._told = self._lap = time.monotonic()
        self._waited = 0.0
        self._steps = 0

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Count the block as waiting for data."""
        began = time.monotonic()
        yield
        self._waited += time.monotonic() - began
        self._steps += 1

    def should_log(self, every_seconds: float = 1.0) -> bool:
        """Whether the last telling is so long ago; asking resets nothing, `rates` does."""
        return time.monotonic() - self._told >= every_seconds

    def rates(self, batch_size: int) -> dict[str, float]:
        """Crops per second over all workers, the share of time spent waiting, seconds per step; since the last call."""
        seconds = max(time.monotonic() - self._told, 1e-9)
        rates = {
            "crops_per_second": self._steps * batch_size / seconds,
            "data_wait": self._waited / seconds,
            "step_seconds": seconds / max(self._steps, 1),
        }
        self._told, self._waited, self._steps = time.monotonic(), 0.0, 0
        return rates

    def lap(self) -> float:
        """Seconds since the last lap."""
        now = time.monotonic()
        seconds, self._lap = now - self._lap, now
        return seconds
