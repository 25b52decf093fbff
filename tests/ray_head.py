"""A Ray head of this machine for tests, as `ray start --head` makes one, behind a token, on ports of its own."""

import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import requests

_START_SECONDS = 90.0


class RayHead:
    """A head in processes of its own; a context manager, at whose end nothing of it is left."""

    def __init__(self, environment: dict[str, str] | None = None, *, num_cpus: int = 2) -> None:
        self.token = secrets.token_hex(16)
        # Not below TMPDIR, which may be long: the paths of Ray's sockets may have 107 characters.
        self.folder = Path(tempfile.mkdtemp(prefix="ray-head-", dir="/tmp"))
        port = str(_free_port())
        self.url = f"http://127.0.0.1:{port}"
        self._log = (self.folder / "start.log").open("w")
        own = {
            "RAY_TMPDIR": str(self.folder),
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": self.token,
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_TRAIN_V2_ENABLED": "1",
            "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
            "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
            "OMP_NUM_THREADS": "1",
        }
        command = [
            str(Path(sys.executable).parent / "ray"), "start", "--head", "--block", "--num-cpus", str(num_cpus),
            "--port", str(_free_port()), "--dashboard-host", "127.0.0.1", "--dashboard-port", port,
            "--dashboard-agent-listen-port", str(_free_port()), "--ray-client-server-port", str(_free_port()),
            "--object-store-memory", str(100 * 2**20), "--temp-dir", str(self.folder / "ray"),
        ]  # fmt: skip
        kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        self._process = subprocess.Popen(
            command,
            env=kept | own | {"PATH": path} | (environment or {}),
            stdout=self._log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        self._wait()

    def __enter__(self) -> "RayHead":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        self._log.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def environment(self) -> dict[str, str]:
        """What a shell needs to reach this head."""
        return {"RAY_ADDRESS": self.url, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": self.token}

    def _wait(self) -> None:
        until = time.monotonic() + _START_SECONDS
        while time.monotonic() < until and self._process.poll() is None:
            try:
                headers = {"Authorization": f"Bearer {self.token}"}
                if requests.get(f"{self.url}/api/jobs/", headers=headers, timeout=5).ok:
                    return
            except requests.RequestException:
                pass
            time.sleep(0.3)
        told = (self.folder / "start.log").read_text()[-2000:]
        self.__exit__()
        raise RuntimeError(f"no Ray head came up: {told}")


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])
