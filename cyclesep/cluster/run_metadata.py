"""Where a result comes from: commit and hardware, for cards and tables."""

import os
import platform
import subprocess
from pathlib import Path

import torch


def commit() -> str:
    """The git commit of this code, with a plus sign if the tree has changes; empty outside a checkout.

    A cluster receives the code without its history: there CYCLESEP_COMMIT, set by whoever submits the job, is taken.
    """
    told = os.environ.get("CYCLESEP_COMMIT")
    if told:
        return told
    head = _git("rev-parse", "--short=12", "HEAD")
    return f"{head}+" if head and _git("status", "--porcelain", "--untracked-files=no") else head


def hardware(device: torch.device, num_workers: int) -> str:
    """One line: what each worker computes on, and how many there are."""
    kind = (
        torch.cuda.get_device_name(device) if device.type == "cuda" else f"{_cpu()}, {torch.get_num_threads()} threads"
    )
    return f"{num_workers} x {kind}"


def machine() -> str:
    """One line about this machine: processor, cores that this process may use, memory, and its GPU if it has one."""
    told = f"{_cpu()}, {len(os.sched_getaffinity(0))} cores"
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    return f"{told}, {memory:.0f} GiB of memory{gpu}"


def _cpu() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _git(*arguments: str) -> str:
    here = Path(__file__).resolve().parents[2]
    try:
        done = subprocess.run(["git", "-C", str(here), *arguments], capture_output=True, text=True, check=False)
    except OSError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
