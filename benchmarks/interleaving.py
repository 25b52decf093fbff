"""Timing several ways against each other: short rounds in turn, so that whatever else the machine does hits all."""

import statistics
import time
from collections.abc import Callable, Mapping


def interleaved(measures: Mapping[str, Callable[[], float]], *, rounds: int) -> dict[str, float]:
    """The median over `rounds` rounds of what each measure gives; every round takes all in turn."""
    found: dict[str, list[float]] = {name: [] for name in measures}
    for _ in range(rounds):
        for name, measure in measures.items():
            found[name].append(measure())
    return {name: statistics.median(values) for name, values in found.items()}


def rate(work: Callable[[], int], seconds: float, clock: Callable[[], float] = time.perf_counter) -> float:
    """Work per second of `clock`, over at least `seconds` and one call of `work`, which gives how much it did."""
    done, began = 0, clock()
    while True:
        done += work()
        elapsed = clock() - began
        if elapsed >= seconds:
            return done / elapsed
