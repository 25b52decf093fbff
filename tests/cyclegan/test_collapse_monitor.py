"""The alarm for a separator that is silent or lets everything through: when, once, and what it costs."""

import logging
import math

import pytest

from cyclesep.cyclegan.collapse_monitor import CollapseMonitor
from cyclesep.cyclegan.config import CollapseConfig
from cyclesep.errors import TrainingError

LOW = CollapseConfig(min_output_energy=0.01, output_patience=3, min_removed_energy=0.05, removed_patience=4)
SILENCE, EVERYTHING, HALF = (0.001, 1.0), (1.0, 0.001), (0.5, 0.5)
"""Energies of what estimates hold, and of what they leave."""


def test_the_means_start_at_their_first_values() -> None:
    alarm = CollapseMonitor(LOW)
    alarm.observe(0.5, 0.3, paired=False)
    assert (alarm.energy.value, alarm.removed.value) == (pytest.approx(0.5), pytest.approx(0.3))
    alarm.observe(0.1, 0.7, paired=False)
    assert alarm.energy.value == pytest.approx((0.98 * 0.5 + 0.1) / 1.98)
    assert alarm.removed.value == pytest.approx((0.98 * 0.3 + 0.7) / 1.98)


@pytest.mark.parametrize(
    ("energies", "steps", "told", "remedy"),
    [
        (SILENCE, 3, "held less than 0.01 of the mixtures' energy for 3 steps", "swap_cycle"),
        (EVERYTHING, 4, "removed less than 0.05 of the mixtures' energy for 4 steps", "adversarial_start_step=0"),
    ],
)
def test_it_warns_once_in_one_line_after_enough_steps_in_a_row(
    caplog: pytest.LogCaptureFixture, energies: tuple[float, float], steps: int, told: str, remedy: str
) -> None:
    alarm = CollapseMonitor(LOW)
    with caplog.at_level(logging.WARNING):
        for _ in range(steps - 1):
            alarm.observe(*energies, paired=False)
        assert caplog.messages == []
        for _ in range(5):
            alarm.observe(*energies, paired=False)
    (message,) = caplog.messages
    assert told in message
    assert remedy in message
    assert "\n" not in message
    assert sorted([alarm.energy.num_low, alarm.removed.num_low]) == [0, steps + 4]


def test_energy_that_comes_back_sets_the_counts_to_nothing() -> None:
    alarm = CollapseMonitor(LOW)
    for energies in (SILENCE, SILENCE, HALF):
        alarm.observe(*energies, paired=False)
    assert alarm.energy.num_low == 0
    alarm = CollapseMonitor(LOW)
    for energies in (EVERYTHING, EVERYTHING, HALF):
        alarm.observe(*energies, paired=False)
    assert alarm.removed.num_low == 0


def test_with_truth_at_hand_as_little_may_be_removed_as_it_wants(caplog: pytest.LogCaptureFixture) -> None:
    alarm = CollapseMonitor(LOW)
    for _ in range(9):
        alarm.observe(*EVERYTHING, paired=True)
    assert caplog.messages == []
    assert (alarm.removed.num_low, alarm.removed.value) == (0, pytest.approx(0.001))


def test_a_limit_of_nothing_is_no_alarm(caplog: pytest.LogCaptureFixture) -> None:
    alarm = CollapseMonitor(
        CollapseConfig(min_output_energy=0, min_removed_energy=0, output_patience=1, removed_patience=1)
    )
    alarm.observe(0.0, 0.0, paired=False)
    assert caplog.messages == []


def test_other_workers_are_silent(caplog: pytest.LogCaptureFixture) -> None:
    alarm = CollapseMonitor(LOW, warns=False)
    for _ in range(5):
        alarm.observe(0.0, 0.0, paired=False)
    assert caplog.messages == []
    assert (alarm.energy.num_low, alarm.removed.num_low) == (5, 5)


@pytest.mark.parametrize(
    ("energies", "told"), [((0.0, 1.0), "collapsed to silence"), ((1.0, 0.0), "lets everything through")]
)
def test_it_ends_the_run_where_that_is_asked_for(energies: tuple[float, float], told: str) -> None:
    alarm = CollapseMonitor(CollapseConfig(output_patience=2, removed_patience=2, fail=True))
    alarm.observe(*energies, paired=False)
    with pytest.raises(TrainingError, match=told):
        alarm.observe(*energies, paired=False)


def test_a_step_without_finite_energies_does_not_count() -> None:
    alarm = CollapseMonitor(LOW)
    alarm.observe(0.5, 0.4, paired=False)
    alarm.observe(math.nan, math.inf, paired=False)
    assert (alarm.energy.value, alarm.removed.value) == (pytest.approx(0.5), pytest.approx(0.4))


def test_its_state_goes_on() -> None:
    first, second = CollapseMonitor(LOW), CollapseMonitor(LOW)
    for energy in (0.5, 0.2, 0.0):
        first.observe(energy, energy / 2, paired=False)
    second.load_state_dict(first.state_dict())
    for alarm in (first, second):
        alarm.observe(0.1, 0.01, paired=False)
    assert second.state_dict() == first.state_dict()
