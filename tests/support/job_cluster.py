"""A cluster of several local Ray nodes with an S3 server, and jobs that run on it."""

import io
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.local import processes
from cluster.local.multi_node_cluster import MultiNodeCluster
from cyclesep.storage.uri import parse
from tests.support.s3_server import S3

DEADLINE_SECONDS = 600.0
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


class JobCluster(MultiNodeCluster):
    """A multi-node cluster on which jobs are started and interrupted."""

    def __init__(self, s3: S3, folder: Path) -> None:
        self.s3 = s3
        super().__init__(folder)

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

    def workers(self) -> dict[int, str]:
        """Return the training and scoring processes of all nodes, by PID."""
        trees = [processes.descendants(node.process.pid) for node in self.nodes]
        names = ("RayTrainWorker", "ray::score")
        return {
            pid: command for tree in trees for pid, command in tree.items() if any(name in command for name in names)
        }
