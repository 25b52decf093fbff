"""Time and memory that a process uses for one piece of work."""

import resource
import time
from contextlib import suppress
from pathlib import Path

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


class Stopwatch:
    """Wall-clock and CPU seconds since it was created."""

    def __init__(self) -> None:
        self._wall, self._cpu = time.monotonic(), time.process_time()

    @property
    def wall_seconds(self) -> float:
        return time.monotonic() - self._wall

    @property
    def cpu_seconds(self) -> float:
        """CPU seconds, summed over all threads of this process."""
        return time.process_time() - self._cpu

    def exclude(self, wall_seconds: float, cpu_seconds: float) -> None:
        """Subtract time that is counted elsewhere."""
        self._wall += wall_seconds
        self._cpu += cpu_seconds


def reset_peak_memory() -> None:
    """Reset `peak_bytes` to the current memory, where the kernel allows it (Linux)."""
    with suppress(OSError):
        # proc(5): 5 resets the peak resident set size.
        _CLEAR.write_text("5")


def peak_bytes() -> int:
    """Return the largest resident memory of this process, including libraries and mapped shared memory."""
    with suppress(OSError, StopIteration):
        line = next(line for line in _STATUS.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
