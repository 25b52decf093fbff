"""A cluster of several local Ray nodes: a head, nodes that are added and killed, drivers, and a real S3 server."""

import io
import os
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cyclesep.storage.uri import parse
from tests.support import processes
from tests.support.ray_head import RayHead, RayNode
from tests.support.s3_server import S3

DEADLINE_SECONDS = 600.0
# How long a node continues after SIGTERM.
NOTICE_SECONDS = 12
# Ray gives a node half a minute to start, which may be too little on a busy machine.
_NUM_START_ATTEMPTS = 3
_MAIN = "from cyclesep.cli.main import main; main()"


@dataclass(frozen=True)
class Driver:
    """`cyclesep JOB ...` in its own process."""

    process: subprocess.Popen[bytes]
    log: Path

    @property
    def is_running(self) -> bool:
        return self.process.poll() is None

    @property
    def output(self) -> str:
        return self.log.read_text()

    def status(self) -> int:
        """Wait until the process ends and return its exit status."""
        try:
            return self.process.wait(DEADLINE_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise AssertionError(f"still running: {self.output[-3000:]}") from None

    def wait_for(self, condition: Callable[[], bool]) -> None:
        """Wait until a condition is true; it is an error if the process ends before."""
        until = time.monotonic() + DEADLINE_SECONDS
        while not condition():
            assert self.is_running, self.output[-3000:]
            assert time.monotonic() < until, self.output[-3000:]
            time.sleep(0.02)


class MultiNodeCluster:
    """A head without CPUs, and nodes of one CPU, each with its own address, folders and shard cache."""

    def __init__(self, s3: S3, folder: Path, *, dashboard: bool = False) -> None:
        self.s3, self.folder, self._dashboard = s3, folder, dashboard
        self.nodes: list[RayNode] = []
        self._num_started = 0
        self.head = self._new_head()

    def __enter__(self) -> "MultiNodeCluster":
        return self

    def __exit__(self, *_: object) -> None:
        for node in self.nodes:
            node.__exit__()
        self.head.__exit__()

    def ensure_nodes(self, number: int) -> None:
        """Start nodes until `number` of them are running."""
        self.nodes = [node for node in self.nodes if node.process.poll() is None and not node.is_leaving]
        while len(self.nodes) < number:
            self.nodes.append(self._new_node())

    def replace_head(self) -> None:
        """SIGKILL the head, with which its nodes end, and start another head with as many nodes."""
        number = len(self.nodes)
        self.head.kill()
        for node in self.nodes:
            node.__exit__()
        self.head.__exit__()
        self.nodes = []
        self.head = self._new_head()
        self.ensure_nodes(number)

    def start(self, *arguments: str) -> Driver:
        """Run `cyclesep` on the head's machine."""
        log = self.folder / f"{arguments[0]}-{time.monotonic_ns()}.log"
        environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        environment |= self.head.environment | {
            "RAY_ADDRESS": self.head.address,
            "RAY_TMPDIR": str(self.head.folder),
            "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
            "RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S": "0.2",
            "CYCLESEP_CACHE": str(self.folder / "cache-of-drivers"),
            "OMP_NUM_THREADS": "1",
        }
        with log.open("w") as file:
            command = [sys.executable, "-c", _MAIN, *arguments]
            return Driver(subprocess.Popen(command, env=environment, stdout=file, stderr=file), log)

    def upload(self, folder: Path, uri: str) -> None:
        """Upload a folder's files to S3."""
        bucket, prefix = parse(uri)
        for path in folder.iterdir():
            self.s3.client().upload_file(str(path), bucket, f"{prefix}/{path.name}")

    def list_keys(self, uri: str) -> list[str]:
        """Return the keys below a prefix, relative to it."""
        bucket, prefix = parse(uri)
        pages = self.s3.client().get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=f"{prefix}/")
        return [entry["Key"].removeprefix(f"{prefix}/") for page in pages for entry in page.get("Contents", ())]

    def open_object(self, uri: str) -> Any:
        """Return an object's content as a file in memory."""
        bucket, key = parse(uri)
        return io.BytesIO(self.s3.client().get_object(Bucket=bucket, Key=key)["Body"].read())

    def cached_bytes(self) -> dict[str, int]:
        """Return the size of each node's shard cache, killed nodes included."""
        caches = sorted(self.folder.glob("node-*"), key=lambda folder: int(folder.name.rpartition("-")[2]))
        return {cache.name: sum(file.stat().st_size for file in cache.rglob("*.lmdb")) for cache in caches}

    def workers(self) -> dict[int, str]:
        """Return the training and scoring processes of all nodes, by PID."""
        trees = [processes.descendants(node.process.pid) for node in self.nodes]
        names = ("RayTrainWorker", "ray::score")
        return {
            pid: command for tree in trees for pid, command in tree.items() if any(name in command for name in names)
        }

    def _new_head(self) -> RayHead:
        return RayHead(num_cpus=0, node_address="127.0.0.2", dashboard=self._dashboard)

    def _new_node(self) -> RayNode:
        self._num_started += 1
        name = f"node-{self._num_started}"
        environment = {
            "CYCLESEP_CACHE": str(self.folder / name),
            "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": str(NOTICE_SECONDS),
        }
        for _ in range(_NUM_START_ATTEMPTS - 1):
            with suppress(RuntimeError):
                return RayNode(self.head, f"127.0.1.{self._num_started}", environment)
        return RayNode(self.head, f"127.0.1.{self._num_started}", environment)
