"""Run a benchmark of this checkout; `python jobs/benchmark.py --help` lists the benchmarks."""

import sys
from pathlib import Path

# Benchmarks are not installed with the package.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.command import run_benchmark

if __name__ == "__main__":
    run_benchmark()
