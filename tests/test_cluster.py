"""A cluster of this machine's own: what is said when it does not start, and what is left then."""

import os
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
