"""The same as `cyclesep benchmark`; `python jobs/benchmark.py --help` tells which benchmarks there are."""

from cyclesep.benchmarks.command import run_benchmark

if __name__ == "__main__":
    run_benchmark()
