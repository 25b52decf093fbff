"""Local and shared clusters: errors in one line, authentication, and cleanup."""

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
from filelock import FileLock

from cyclesep.cluster import connect, local_cluster
from cyclesep.errors import ClusterError
from tests.support.paths import CHECKOUT

pytestmark = pytest.mark.xdist_group("ray")


def test_a_failed_start_of_ray_is_one_line_and_leaves_no_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def init(**_: object) -> None:
        raise Exception("The current node timed out during startup.\nThe GCS may be overloaded.")

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    monkeypatch.setattr(local_cluster, "_SHORT_PARENT", str(tmp_path))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    before = dict(os.environ)
    with (
        pytest.raises(ClusterError, match=r"did not start .*startup\. The GCS may .*try again") as error,
        connect.connect(),
    ):
        pass
    assert "\n" not in str(error.value)
    assert list(tmp_path.iterdir()) == []
    assert dict(os.environ) == before


def test_out_of_memory_is_one_line() -> None:
    script = (
        "import time, ray\n"
        "from cyclesep.cluster.connect import connect\n"
        "from cyclesep.errors import ClusterError\n"
        "try:\n"
        "    with connect(num_cpus=1):\n"
        "        ray.get(ray.remote(max_retries=0)(lambda: time.sleep(60)).remote())\n"
        "except ClusterError as error:\n"
        "    print(error)\n"
    )
    low_threshold = {"RAY_memory_usage_threshold": "0.001", "RAY_memory_monitor_refresh_ms": "100"}
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"} | low_threshold
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, timeout=120, check=True
    )
    (line,) = done.stdout.splitlines()
    message = (
        r"127.0.0.1 \(\S+GB of \S+GB used\): out of memory, so Ray killed processes of this job; close .* more memory"
    )
    assert re.fullmatch(message, line)


@pytest.mark.parametrize("address", ["127.0.0.1:{port}", "no-such-host.invalid:6379"])
def test_an_address_without_a_cluster_is_an_immediate_error(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    with socket.socket() as closed:
        # Bound, so that no other process takes the port, but not listening.
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
except ClusterError as error:
    print(error)
"""


# Ray's variables and the beginning of what a process with them prints, by whether the cluster uses tokens.
WITH_TOKENS: dict[str, dict[str, str]] = {
    "joined": {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN},
    "RAY_ADDRESS={address}: the cluster requires a token, and this process sends none or another one; set": {},
    "RAY_ADDRESS={address}: the cluster requires a token, and this process": {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": OTHER,
    },
    "RAY_AUTH_MODE=token: Token authentication is enabled but no authentication token was found; set": {
        "RAY_AUTH_MODE": "token"
    },
    "RAY_AUTH_MODE=token: RAY_AUTH_TOKEN_PATH is set but file cannot be opened": {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": "/nowhere",
    },
}
WITHOUT_TOKENS: dict[str, dict[str, str]] = {
    "joined": {},
    "RAY_ADDRESS={address}: the cluster does not use tokens, but RAY_AUTH_MODE=token is set here; unset it": {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": TOKEN,
    },
}


@pytest.mark.parametrize(
    ("mode", "cases"), [({"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN}, WITH_TOKENS),
                        ({"RAY_AUTH_MODE": "disabled"}, WITHOUT_TOKENS)], ids=["with tokens", "without tokens"],
)  # fmt: skip
def test_a_cluster_is_joined_with_its_token_and_otherwise_a_line_names_the_variable(
    tmp_path: Path, mode: dict[str, str], cases: dict[str, dict[str, str]]
) -> None:
    names = ("RAY_ADDRESS", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")
    environment = {name: value for name, value in os.environ.items() if name not in names} | {"HOME": str(tmp_path)}
    # A short path, because Ray creates Unix sockets there.
    folder = tempfile.mkdtemp(prefix="cyclesep-token-", dir="/tmp")
    try:
        with subprocess.Popen(
            [sys.executable, str(CHECKOUT / "tests" / "support" / "cluster_host.py")],
            env={**environment, **mode, "RAY_TMPDIR": folder},
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        ) as host:  # fmt: skip
            assert host.stdout is not None
            address = next(line.strip() for line in host.stdout if line.count(":") == 1 and line[0].isdigit())
            joining = {
                expected.format(address=address): subprocess.Popen(
                    [sys.executable, "-c", JOIN],
                    env={**environment, "RAY_ADDRESS": address, **variables},
                    stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                )
                for expected, variables in cases.items()
            }  # fmt: skip
            for expected, process in joining.items():
                output, _ = process.communicate(timeout=180)
                assert process.returncode == 0
                assert output.startswith(expected)
                assert output.count("\n") == 1
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def test_the_next_cluster_removes_the_folder_of_a_killed_one_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def init(**_: object) -> None:
        raise Exception("no")

    script = (
        "import os, signal, sys; from cyclesep.cluster import connect, local_cluster; import ray\n"
        "local_cluster._SHORT_PARENT = sys.argv[1]\n"
        "ray.init = lambda **_: os.kill(os.getpid(), signal.SIGKILL)\n"
        "connect.connect().__enter__()\n"
    )
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    for _ in range(2):
        subprocess.run([sys.executable, "-c", script, str(tmp_path)], env=environment, check=False)
    # The second cluster has removed the folder of the first one.
    (abandoned,) = tmp_path.iterdir()
    (tmp_path / "cyclesep-ray-other").mkdir()
    monkeypatch.setattr(local_cluster, "_SHORT_PARENT", str(tmp_path))
    (locked := tmp_path / "cyclesep-ray-locked").mkdir()
    with FileLock(locked / "owner.lock"):
        monkeypatch.setattr(ray, "is_initialized", lambda: False)
        monkeypatch.setattr(ray, "init", init)
        monkeypatch.setattr(ray, "shutdown", lambda: None)
        monkeypatch.delenv("RAY_ADDRESS", raising=False)
        with pytest.raises(ClusterError):
            connect.connect().__enter__()
    assert not abandoned.exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cyclesep-ray-locked", "cyclesep-ray-other"]
