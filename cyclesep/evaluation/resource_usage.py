"""What a process takes while it does one thing: time and memory."""

import resource
import time
from contextlib import suppress
from pathlib import Path

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


class Stopwatch:
    """Seconds since it was made."""

    def __init__(self) -> None:
        self._wall, self._cpu = time.monotonic(), time.process_time()

    @property
    def wall_seconds(self) -> float:
        return time.monotonic() - self._wall

    @property
    def cpu_seconds(self) -> float:
        """Of one core, all threads of this process added up."""
        return time.process_time() - self._cpu

    def leave_out(self, wall_seconds: float, cpu_seconds: float) -> None:
        """Take off what is counted elsewhere."""
        self._wall += wall_seconds
        self._cpu += cpu_seconds


def reset_peak_memory() -> None:
    """From here on `peak_bytes` tells the peak since now, where the kernel allows that (Linux)."""
    with suppress(OSError):
        # proc(5): 5 resets the peak resident set size.
        _CLEAR.write_text("5")


def resident_bytes() -> int:
    """The resident memory of this process now, where there is a /proc (Linux); else its peak."""
    return _status_bytes("VmRSS:") or peak_bytes()


def peak_bytes() -> int:
    """The largest resident memory of this process, its libraries and the shared memory that it maps included."""
    return _status_bytes("VmHWM:") or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _status_bytes(field: str) -> int:
    """A size of this process by its name; 0 where the kernel does not tell."""
    with suppress(OSError, StopIteration):
        line = next(line for line in _STATUS.read_text().splitlines() if line.startswith(field))
        return int(line.split()[1]) * 1024
    return 0
