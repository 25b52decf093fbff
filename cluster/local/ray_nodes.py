"""Local Ray nodes, started by `ray start`, with a token and their own ports."""

import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import requests

from cluster.local import processes
from cluster.local.ports import free_ports

_START_SECONDS = 90.0
_RAY = str(Path(sys.executable).parent / "ray")
# Keep the output of workers in their log files.
_QUIET = ("--include-log-monitor", "false")
_STORE = ("--object-store-memory", str(100 * 2**20))


class _RayStart:
    """A `ray start --block` with its own folder; a context manager that removes all traces at its end."""

    def __init__(self, token: str, environment: dict[str, str], options: tuple[str, ...]) -> None:
        # Not below TMPDIR, which may be long: the paths of Ray's sockets are limited to 107 characters.
        self.folder = Path(tempfile.mkdtemp(prefix="ray-", dir="/tmp"))
        self._log_file = (self.folder / "start.log").open("w")
        own = {
            "RAY_TMPDIR": str(self.folder),
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": token,
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_TRAIN_V2_ENABLED": "1",
            "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
            # How long a node continues after SIGTERM.
            "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",
            # The jobs need little disk space; suppress the warning about a full disk.
            "RAY_local_fs_capacity_threshold": "1",
            "OMP_NUM_THREADS": "1",
            "PYTHONUNBUFFERED": "1",
        }
        kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        self.process = subprocess.Popen(
            # A node without its own folder would share the head's and delete files of other jobs there.
            [_RAY, "start", "--block", "--temp-dir", str(self.folder / "ray"), *_STORE, *options],
            env=kept | own | {"PATH": path} | environment,
            stdout=self._log_file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def __exit__(self, *_: object) -> None:
        children = processes.descendants(self.process.pid)
        self.process.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        processes.kill({child: command for child, command in children.items() if _is_running(child, command)})
        self._log_file.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def log(self) -> str:
        """The end of its output."""
        return (self.folder / "start.log").read_text()[-2000:]

    def _wait(self, is_ready: Callable[[], bool]) -> None:
        until = time.monotonic() + _START_SECONDS
        while not is_ready():
            if time.monotonic() > until or self.process.poll() is not None:
                log = self.log
                self.__exit__()
                raise RuntimeError(f"Ray did not start: {log}")
            time.sleep(0.2)

    def _runs(self) -> bool:
        return "Ray runtime started" in self.log


class RayHead(_RayStart):
    """A head, with the dashboard that receives jobs, or without it in fewer processes."""

    def __init__(
        self,
        environment: dict[str, str] | None = None,
        *,
        num_cpus: int = 2,
        node_address: str | None = None,
        dashboard: bool = True,
    ) -> None:
        self.token = secrets.token_hex(16)
        gcs_port, dashboard_port, agent_port, client_port = map(str, free_ports(4))
        self.url = f"http://127.0.0.1:{dashboard_port}"
        self.address = f"{node_address or '127.0.0.1'}:{gcs_port}"
        """Address at which nodes and drivers connect."""
        options = [
            "--head", "--num-cpus", str(num_cpus), "--port", gcs_port, "--dashboard-host", "127.0.0.1",
            "--dashboard-port", dashboard_port, "--dashboard-agent-listen-port", agent_port,
            "--ray-client-server-port", client_port,
        ]  # fmt: skip
        options += ["--node-ip-address", node_address] if node_address else []
        options += [] if dashboard else ["--include-dashboard=false", *_QUIET]
        super().__init__(self.token, environment or {}, tuple(options))
        self._wait(self._answers if dashboard else self._runs)

    def __enter__(self) -> "RayHead":
        return self

    @property
    def environment(self) -> dict[str, str]:
        """Environment variables with which a shell reaches this head."""
        return {"RAY_ADDRESS": self.url, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": self.token}

    def kill(self) -> None:
        """SIGKILL all its processes at once, as when its machine is lost."""
        children = processes.descendants(self.process.pid)
        self.process.kill()
        processes.kill(children)
        self.process.wait()

    def _answers(self) -> bool:
        headers = {"Authorization": f"Bearer {self.token}"}
        with suppress(requests.RequestException):
            return requests.get(f"{self.url}/api/jobs/", headers=headers, timeout=5).ok
        return False


class RayNode(_RayStart):
    """A node that joins a head, with its own address (127.0.0.2 and up), resources and environment."""

    def __init__(
        self, head: RayHead, node_address: str, environment: dict[str, str] | None = None, *, num_cpus: int = 1
    ) -> None:
        self.is_leaving = False
        options = ("--address", head.address, "--node-ip-address", node_address, "--num-cpus", str(num_cpus))
        ports = ("--dashboard-agent-listen-port", str(*free_ports(1)))
        super().__init__(head.token, environment or {}, (*options, *ports, *_QUIET))
        self._wait(self._runs)

    def __enter__(self) -> "RayNode":
        return self

    def kill(self) -> None:
        """SIGKILL its raylet, with which its workers end; `ray start` notices and ends."""
        # A worker that the raylet is forking may have the same command line for a moment.
        assert processes.kill(processes.descendants(self.process.pid), called="/raylet ") >= 1
        self.process.wait(60)

    def interrupt(self) -> None:
        """SIGTERM, as sent to a pod or machine before it is removed."""
        self.is_leaving = True
        self.process.send_signal(signal.SIGTERM)


def _is_running(process: int, command: str) -> bool:
    """Return whether a process is still running, and its PID was not reused."""
    try:
        return Path(f"/proc/{process}/cmdline").read_text().replace("\0", " ") == command
    except OSError:
        return False
