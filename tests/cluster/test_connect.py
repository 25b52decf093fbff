"""A cluster of this machine's own: what is said when it does not start, and what is left then."""

import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import ray

from cyclesep.cluster import connect, local_cluster
from cyclesep.errors import ClusterError
from cyclesep.storage import atomic_io
from tests.support.paths import CHECKOUT

pytestmark = pytest.mark.xdist_group("ray")


def test_a_ray_that_does_not_start_is_told_in_one_line_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def init(**_: object) -> None:
        raise Exception("The current node timed out during startup.\nThe GCS may be overloaded.")

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    monkeypatch.setattr(local_cluster, "_SHORT", str(tmp_path))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    before = dict(os.environ)
    with (
        pytest.raises(ClusterError, match=r"did not start .*startup\. The GCS may .*try again") as told,
        connect.connect(),
    ):
        pass
    assert "\n" not in str(told.value)
    assert list(tmp_path.iterdir()) == []
    assert dict(os.environ) == before


def test_a_machine_without_memory_is_told_in_one_line() -> None:
    script = (
        "import time, ray\n"
        "from cyclesep.cluster.connect import connect\n"
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


@pytest.mark.parametrize("address", ["127.0.0.1:{port}", "no-such-host.invalid:6379"])
def test_an_address_at_which_no_cluster_answers_is_told_at_once(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    with socket.socket() as closed:
        # Bound, so that nobody else takes it, and listening to nobody.
        closed.bind(("127.0.0.1", 0))
        address = address.format(port=closed.getsockname()[1])
        monkeypatch.setattr(ray, "is_initialized", lambda: False)
        monkeypatch.setenv("RAY_ADDRESS", address)
        with pytest.raises(ClusterError, match=f"^RAY_ADDRESS={address}: no Ray cluster answers there"):
            connect.connect().__enter__()


TOKEN, OTHER = "a" * 64, "b" * 64
JOIN = """
import ray
from cyclesep.cluster.connect import connect
from cyclesep.errors import ClusterError

class Actor:
    def answer(self):
        return "joined"

try:
    with connect():
        print(ray.get(ray.remote(Actor).remote().answer.remote(), timeout=60))
except ClusterError as told:
    print(told)
"""


@pytest.mark.parametrize("protected", [False, True])
def test_a_token_is_brought_exactly_to_a_cluster_that_asks_for_one(tmp_path: Path, protected: bool) -> None:
    names = ("RAY_ADDRESS", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")
    environment = {name: value for name, value in os.environ.items() if name not in names}
    # Unix sockets lie there: a short one.
    folder = tempfile.mkdtemp(prefix="cyclesep-token-", dir="/tmp")
    own = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN} if protected else {"RAY_AUTH_MODE": "disabled"}

    def told(token: str, **more: str) -> tuple[str, str]:
        """What a process of a person with this token prints to stdout and stderr when it joins."""
        home = tmp_path / (token[:1] or "nobody")
        (home / ".ray").mkdir(parents=True, exist_ok=True)
        if token:
            (home / ".ray/auth_token").write_text(token)
        done = subprocess.run(
            [sys.executable, "-c", JOIN],
            env={**environment, "HOME": str(home), "RAY_ADDRESS": address, **more},
            capture_output=True, text=True, timeout=120, check=True,
        )  # fmt: skip
        return done.stdout.strip(), done.stderr

    try:
        with subprocess.Popen(
            [sys.executable, str(CHECKOUT / "tests" / "support" / "cluster_host.py")],
            env={**environment, **own, "RAY_TMPDIR": folder},
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        ) as host:  # fmt: skip
            assert host.stdout is not None
            address = next(line.strip() for line in host.stdout if line.count(":") == 1 and line[0].isdigit())
            assert told(TOKEN) == told(TOKEN, RAY_AUTH_MODE="token") == ("joined", "")
            assert told(TOKEN, RAY_AUTH_MODE="disabled") == ("joined", "")
            refused = f"RAY_ADDRESS={address}: the cluster asks for a token (this machine has none, or another one); "
            for token in (OTHER, ""):
                answer, said = told(token)
                assert answer.startswith(refused) if protected else answer == "joined"
                assert said == ""
            if protected:
                lost = str(tmp_path / "lost")
                assert "(RAY_AUTH_TOKEN_PATH is set but file cannot be opened" in told("", RAY_AUTH_TOKEN_PATH=lost)[0]
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def test_the_next_cluster_removes_what_a_killed_one_has_left_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def init(**_: object) -> None:
        raise Exception("no")

    script = (
        "import os, signal, sys; from cyclesep.cluster import connect, local_cluster; import ray\n"
        "local_cluster._SHORT = sys.argv[1]\n"
        "ray.init = lambda **_: os.kill(os.getpid(), signal.SIGKILL)\n"
        "connect.connect().__enter__()\n"
    )
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    for _ in range(2):
        subprocess.run([sys.executable, "-c", script, str(tmp_path)], env=environment, check=False)
    # The second has removed what the first left.
    (left,) = tmp_path.iterdir()
    (tmp_path / "cyclesep-ray-other").mkdir()
    monkeypatch.setattr(local_cluster, "_SHORT", str(tmp_path))
    (held := tmp_path / "cyclesep-ray-held").mkdir()
    with atomic_io.lock_file(held / "owner.lock", wait=True):  # type: ignore[union-attr]
        monkeypatch.setattr(ray, "is_initialized", lambda: False)
        monkeypatch.setattr(ray, "init", init)
        monkeypatch.setattr(ray, "shutdown", lambda: None)
        monkeypatch.delenv("RAY_ADDRESS", raising=False)
        with pytest.raises(ClusterError):
            connect.connect().__enter__()
    assert not left.exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cyclesep-ray-held", "cyclesep-ray-other"]
