"""The start timeout of Ray Train is set for one run only."""

import os

import pytest

from cyclesep.training.config import TrainConfig
from cyclesep.training.fit import START_TIMEOUT, _start_timeout


@pytest.mark.parametrize("before", [None, "30"])
def test_start_timeout_is_set_and_restored(before: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(START_TIMEOUT, raising=False)
    if before is not None:
        monkeypatch.setenv(START_TIMEOUT, before)
    with _start_timeout(TrainConfig(scale_up_timeout_minutes=2)):
        assert os.environ[START_TIMEOUT] == "120"
    assert os.environ.get(START_TIMEOUT) == before


def test_start_timeout_is_unchanged_without_scale_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(START_TIMEOUT, "30")
    with _start_timeout(TrainConfig()):
        assert os.environ[START_TIMEOUT] == "30"
