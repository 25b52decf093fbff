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


def rate(work: Callable[[], int], seconds: float) -> float:
    """Work per second, over at least `seconds` and one call of `work`, which gives how much it did."""
    done, began = 0, time.perf_counter()
    while True:
        done += work()
        elapsed = time.perf_counter() - began
        if elapsed >= seconds:
            return done / elapsed
