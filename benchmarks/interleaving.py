"""Timing of several methods in short alternating rounds, so that other load on the machine affects all of them."""

import statistics
import time
from collections.abc import Callable, Mapping


def interleaved(measures: Mapping[str, Callable[[], float]], *, rounds: int) -> dict[str, float]:
    """Return the median of each measure over `rounds` rounds; every round calls all measures in turn."""
    found: dict[str, list[float]] = {name: [] for name in measures}
    for _ in range(rounds):
        for name, measure in measures.items():
            found[name].append(measure())
    return {name: statistics.median(values) for name, values in found.items()}


def rate(work: Callable[[], int], seconds: float, clock: Callable[[], float] = time.perf_counter) -> float:
    """Return work per second of `clock`, over at least `seconds` and one call; `work` returns the amount done."""
    done, began = 0, clock()
    while True:
        done += work()
        elapsed = clock() - began
        if elapsed >= seconds:
            return done / elapsed
