"""Environment variables are set for the length of a block, and importing cyclesep changes none."""

import os
import subprocess
import sys

import pytest

from cyclesep.cluster.environment import loopback_by_default, start_timeout, temporarily, unset

LOOPBACK = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"


@pytest.mark.parametrize("before", [None, "30"])
def test_variables_are_restored_after_the_block(before: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    ((name, value),) = start_timeout(2).items()
    monkeypatch.delenv(name, raising=False)
    if before is not None:
        monkeypatch.setenv(name, before)
    with temporarily({name: value}):
        assert os.environ[name] == "120"
    assert os.environ.get(name) == before


def test_without_scale_up_the_start_timeout_is_rays() -> None:
    assert start_timeout(0) == {}


def test_variables_of_the_user_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "1")
    monkeypatch.delenv("GLOO_SOCKET_IFNAME", raising=False)
    assert unset({"RAY_USAGE_STATS_ENABLED": "0", "GLOO_SOCKET_IFNAME": "lo"}) == {"GLOO_SOCKET_IFNAME": "lo"}


def test_ray_uses_loopback_unless_a_cluster_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(LOOPBACK, raising=False)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with loopback_by_default():
        assert os.environ[LOOPBACK] == "0"
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    with loopback_by_default():
        assert LOOPBACK not in os.environ


def test_importing_cyclesep_changes_no_variable() -> None:
    script = (
        "import os\n"
        "import ray.train, ray.tune\n"
        "before = dict(os.environ)\n"
        "import cyclesep.evaluation.evaluate, cyclesep.data.ingest, cyclesep.training.fit, cyclesep.tuning.search\n"
        "assert dict(os.environ) == before\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
