"""Collapse monitor: warnings for silence collapse and identity collapse, and ending the run."""

import logging
import math

import pytest

from cyclesep.cyclegan.collapse_monitor import CollapseMonitor
from cyclesep.cyclegan.config import CollapseConfig
from cyclesep.errors import TrainingError

LOW = CollapseConfig(min_output_energy=0.01, output_patience=3, min_removed_energy=0.05, removed_patience=4)
SILENCE, IDENTITY, HALF = (0.001, 1.0), (1.0, 0.001), (0.5, 0.5)
"""Output energy and removed energy, as fractions of the mixtures' energy."""


def test_averages_start_at_the_first_values() -> None:
    monitor = CollapseMonitor(LOW)
    monitor.observe(0.5, 0.3, paired=False)
    assert (monitor.output.value, monitor.removed.value) == (pytest.approx(0.5), pytest.approx(0.3))
    monitor.observe(0.1, 0.7, paired=False)
    assert monitor.output.value == pytest.approx((0.98 * 0.5 + 0.1) / 1.98)
    assert monitor.removed.value == pytest.approx((0.98 * 0.3 + 0.7) / 1.98)


@pytest.mark.parametrize(
    ("energies", "steps", "message", "remedy"),
    [
        (SILENCE, 3, "has been less than 0.01 of the mixtures' for 3 steps", "swap_cycle"),
        (IDENTITY, 4, "removed less than 0.05 of the mixtures' energy for 4 steps", "adversarial_start_step=0"),
    ],
)
def test_it_warns_once_in_one_line_after_the_patience(
    caplog: pytest.LogCaptureFixture, energies: tuple[float, float], steps: int, message: str, remedy: str
) -> None:
    monitor = CollapseMonitor(LOW)
    with caplog.at_level(logging.WARNING):
        for _ in range(steps - 1):
            monitor.observe(*energies, paired=False)
        assert caplog.messages == []
        for _ in range(5):
            monitor.observe(*energies, paired=False)
    (warning,) = caplog.messages
    assert message in warning
    assert remedy in warning
    assert "\n" not in warning
    assert sorted([monitor.output.num_low, monitor.removed.num_low]) == [0, steps + 4]


def test_recovered_energy_resets_the_counts() -> None:
    monitor = CollapseMonitor(LOW)
    for energies in (SILENCE, SILENCE, HALF):
        monitor.observe(*energies, paired=False)
    assert monitor.output.num_low == 0
    monitor = CollapseMonitor(LOW)
    for energies in (IDENTITY, IDENTITY, HALF):
        monitor.observe(*energies, paired=False)
    assert monitor.removed.num_low == 0


def test_removed_energy_does_not_count_on_paired_batches(caplog: pytest.LogCaptureFixture) -> None:
    monitor = CollapseMonitor(LOW)
    for _ in range(9):
        monitor.observe(*IDENTITY, paired=True)
    assert caplog.messages == []
    assert (monitor.removed.num_low, monitor.removed.value) == (0, pytest.approx(0.001))


def test_a_threshold_of_zero_disables_the_warnings(caplog: pytest.LogCaptureFixture) -> None:
    monitor = CollapseMonitor(
        CollapseConfig(min_output_energy=0, min_removed_energy=0, output_patience=1, removed_patience=1)
    )
    monitor.observe(0.0, 0.0, paired=False)
    assert caplog.messages == []


def test_other_workers_log_no_warnings(caplog: pytest.LogCaptureFixture) -> None:
    monitor = CollapseMonitor(LOW, log_warnings=False)
    for _ in range(5):
        monitor.observe(0.0, 0.0, paired=False)
    assert caplog.messages == []
    assert (monitor.output.num_low, monitor.removed.num_low) == (5, 5)


@pytest.mark.parametrize(
    ("energies", "message"), [((0.0, 1.0), "collapsed to silence"), ((1.0, 0.0), "nearly the mixture")]
)
def test_it_raises_with_fail_set(energies: tuple[float, float], message: str) -> None:
    monitor = CollapseMonitor(CollapseConfig(output_patience=2, removed_patience=2, fail=True))
    monitor.observe(*energies, paired=False)
    with pytest.raises(TrainingError, match=message):
        monitor.observe(*energies, paired=False)


def test_energies_that_are_not_finite_are_ignored() -> None:
    monitor = CollapseMonitor(LOW)
    monitor.observe(0.5, 0.4, paired=False)
    monitor.observe(math.nan, math.inf, paired=False)
    assert (monitor.output.value, monitor.removed.value) == (pytest.approx(0.5), pytest.approx(0.4))


def test_a_restored_state_continues_alike() -> None:
    first, second = CollapseMonitor(LOW), CollapseMonitor(LOW)
    for energy in (0.5, 0.2, 0.0):
        first.observe(energy, energy / 2, paired=False)
    second.load_state_dict(first.state_dict())
    for monitor in (first, second):
        monitor.observe(0.1, 0.01, paired=False)
    assert second.state_dict() == first.state_dict()
