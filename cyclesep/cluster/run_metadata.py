"""Commit and hardware of a run, for model cards and result tables."""

import os
import platform
import subprocess
from pathlib import Path

import torch


def commit() -> str:
    """Return the git commit of this code, with a plus sign if the tree has changes; empty outside a checkout.

    CYCLESEP_COMMIT takes precedence: on a cluster the code arrives without its git history.
    """
    given = os.environ.get("CYCLESEP_COMMIT")
    if given:
        return given
    head = _git("rev-parse", "--short=12", "HEAD")
    return f"{head}+" if head and _git("status", "--porcelain", "--untracked-files=no") else head


def hardware(device: torch.device, num_workers: int) -> str:
    """Return the number of workers and the device of each, in one line."""
    kind = (
        torch.cuda.get_device_name(device) if device.type == "cuda" else f"{_cpu()}, {torch.get_num_threads()} threads"
    )
    return f"{num_workers} x {kind}"


def machine() -> str:
    """Return processor, cores available to this process, memory and GPU of this machine, in one line."""
    cores = f"{_cpu()}, {len(os.sched_getaffinity(0))} cores"
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    return f"{cores}, {memory:.0f} GiB of memory{gpu}"


def _cpu() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _git(*arguments: str) -> str:
    checkout = Path(__file__).resolve().parents[2]
    try:
        done = subprocess.run(["git", "-C", str(checkout), *arguments], capture_output=True, text=True, check=False)
    except OSError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
