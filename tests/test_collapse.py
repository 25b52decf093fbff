"""The alarm for a silent separator: when, once, and what it costs."""

import logging

import pytest

from cyclesep.cyclegan.collapse import CollapseAlarm, CollapseConfig
from cyclesep.errors import TrainingError

LOW = CollapseConfig(energy_below=0.01, for_steps=3)


def test_the_energy_is_a_running_mean_that_starts_at_its_first_value() -> None:
    alarm = CollapseAlarm(LOW)
    alarm.observe(0.5)
    assert alarm.energy == pytest.approx(0.5)
    alarm.observe(0.1)
    assert alarm.energy == pytest.approx((0.98 * 0.5 + 0.1) / 1.98)


def test_it_warns_once_in_one_line_after_enough_steps_in_a_row(caplog: pytest.LogCaptureFixture) -> None:
    alarm = CollapseAlarm(LOW)
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            alarm.observe(0.001)
        assert (alarm.num_low, caplog.messages) == (2, [])
        for _ in range(5):
            alarm.observe(0.001)
    (message,) = caplog.messages
    assert "less than 0.01 of the mixtures' energy for 3 steps" in message
    assert "swap_cycle" in message
    assert "\n" not in message
    assert alarm.num_low == 7


def test_energy_that_comes_back_sets_the_count_to_nothing() -> None:
    alarm = CollapseAlarm(LOW)
    for energy in (0.001, 0.001, 1.0):
        alarm.observe(energy)
    assert alarm.num_low == 0


def test_other_workers_are_silent(caplog: pytest.LogCaptureFixture) -> None:
    alarm = CollapseAlarm(LOW, warns=False)
    for _ in range(5):
        alarm.observe(0.0)
    assert caplog.messages == []
    assert alarm.num_low == 5


def test_it_ends_the_run_where_that_is_asked_for() -> None:
    alarm = CollapseAlarm(CollapseConfig(energy_below=0.01, for_steps=2, end_run=True))
    alarm.observe(0.0)
    with pytest.raises(TrainingError, match="collapsed to silence"):
        alarm.observe(0.0)


def test_a_step_without_a_finite_energy_does_not_count() -> None:
    alarm = CollapseAlarm(LOW)
    alarm.observe(0.5)
    alarm.observe(float("nan"))
    assert alarm.energy == pytest.approx(0.5)


def test_its_state_goes_on() -> None:
    first, second = CollapseAlarm(LOW), CollapseAlarm(LOW)
    for energy in (0.5, 0.2, 0.0):
        first.observe(energy)
    second.load_state_dict(first.state_dict())
    for alarm in (first, second):
        alarm.observe(0.1)
    assert second.state_dict() == first.state_dict()
