"""How much memory a process takes while it does one thing."""

import resource
from contextlib import suppress
from pathlib import Path

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def forget_peak() -> None:
    """From here on `peak_bytes` tells the peak since now, where the kernel allows that (Linux)."""
    with suppress(OSError):
        # proc(5): 5 resets the peak resident set size.
        _CLEAR.write_text("5")


def peak_bytes() -> int:
    """The largest resident memory of this process, its libraries and the shared memory that it maps included."""
    with suppress(OSError, StopIteration):
        line = next(line for line in _STATUS.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
