"""A cluster of this machine's own: what is said when it does not start, and what is left then."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import ray

from cyclesep import cluster
from cyclesep.errors import ClusterError

pytestmark = pytest.mark.xdist_group("ray")


def test_a_ray_that_does_not_start_is_told_in_one_line_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def init(**_: object) -> None:
        raise Exception("The current node timed out during startup.\nThe GCS may be overloaded.")

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    monkeypatch.setattr(cluster, "_SHORT", str(tmp_path))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    before = dict(os.environ)
    with (
        pytest.raises(ClusterError, match=r"did not start .*startup\. The GCS may .*try again") as told,
        cluster.connect(),
    ):
        pass
    assert "\n" not in str(told.value)
    assert list(tmp_path.iterdir()) == []
    assert dict(os.environ) == before


def test_a_machine_without_memory_is_told_in_one_line() -> None:
    script = (
        "import time, ray\n"
        "from cyclesep.cluster import connect\n"
        "from cyclesep.errors import ClusterError\n"
        "try:\n"
        "    with connect(num_cpus=1):\n"
        "        ray.get(ray.remote(max_retries=0)(lambda: time.sleep(60)).remote())\n"
        "except ClusterError as told:\n"
        "    print(told)\n"
    )
    crowded = {"RAY_memory_usage_threshold": "0.001", "RAY_memory_monitor_refresh_ms": "100"}
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"} | crowded
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, timeout=120, check=True
    )
    (line,) = done.stdout.splitlines()
    told = (
        r"127.0.0.1 \(\S+GB of \S+GB used\): ran out of memory, so Ray ended processes of this job; end other .* more"
    )
    assert re.fullmatch(told, line)
