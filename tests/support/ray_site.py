"""A cluster of several Ray nodes on this machine: a head, nodes that come and go, drivers, and a real S3."""

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
# That a node lives on after SIGTERM.
NOTICE_SECONDS = 12
# Ray gives a node half a minute to start, which a busy machine may not have.
_STARTS = 3
_MAIN = "from cyclesep.cli.main import main; main()"


@dataclass(frozen=True)
class Driver:
    """`cyclesep JOB ...` as a process of its own."""

    process: subprocess.Popen[bytes]
    log: Path

    @property
    def is_running(self) -> bool:
        return self.process.poll() is None

    @property
    def output(self) -> str:
        return self.log.read_text()

    def status(self) -> int:
        """Its exit status, when it has ended."""
        try:
            return self.process.wait(DEADLINE_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise AssertionError(f"still running: {self.output[-3000:]}") from None

    def wait_for(self, there: Callable[[], bool]) -> None:
        """Returns when something is there, which has to happen before the job ends."""
        until = time.monotonic() + DEADLINE_SECONDS
        while not there():
            assert self.is_running, self.output[-3000:]
            assert time.monotonic() < until, self.output[-3000:]
            time.sleep(0.02)


class Site:
    """A head without CPUs; nodes of one CPU, each with an address, folders and a shard cache of its own."""

    def __init__(self, s3: S3, folder: Path, *, dashboard: bool = False) -> None:
        self.s3, self.folder, self._dashboard = s3, folder, dashboard
        self.nodes: list[RayNode] = []
        self._num_nodes = 0
        self.head = self._new_head()

    def __enter__(self) -> "Site":
        return self

    def __exit__(self, *_: object) -> None:
        for node in self.nodes:
            node.__exit__()
        self.head.__exit__()

    def has(self, number: int) -> None:
        """Start as many nodes as are missing."""
        self.nodes = [node for node in self.nodes if node.process.poll() is None and not node.is_leaving]
        while len(self.nodes) < number:
            self.nodes.append(self._new_node())

    def replace_head(self) -> None:
        """SIGKILL the head, whose nodes go with it, and start another one with as many nodes."""
        number = len(self.nodes)
        self.head.kill()
        for node in self.nodes:
            node.__exit__()
        self.head.__exit__()
        self.nodes = []
        self.head = self._new_head()
        self.has(number)

    def start(self, *words: str) -> Driver:
        """Run `cyclesep` beside the head."""
        log = self.folder / f"{words[0]}-{time.monotonic_ns()}.log"
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
            command = [sys.executable, "-c", _MAIN, *words]
            return Driver(subprocess.Popen(command, env=environment, stdout=file, stderr=file), log)

    def upload(self, folder: Path, uri: str) -> None:
        """Copy a folder's files into S3."""
        bucket, prefix = parse(uri)
        for path in folder.iterdir():
            self.s3.client().upload_file(str(path), bucket, f"{prefix}/{path.name}")

    def listed(self, uri: str) -> list[str]:
        """The keys below a location, without it."""
        bucket, prefix = parse(uri)
        pages = self.s3.client().get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=f"{prefix}/")
        return [entry["Key"].removeprefix(f"{prefix}/") for page in pages for entry in page.get("Contents", ())]

    def content(self, uri: str) -> Any:
        """An object as a file in memory."""
        bucket, key = parse(uri)
        return io.BytesIO(self.s3.client().get_object(Bucket=bucket, Key=key)["Body"].read())

    def cached_bytes(self) -> dict[str, int]:
        """What the shard cache of each node holds, of those that were killed too."""
        caches = sorted(self.folder.glob("node-*"), key=lambda folder: int(folder.name.rpartition("-")[2]))
        return {cache.name: sum(file.stat().st_size for file in cache.rglob("*.lmdb")) for cache in caches}

    def workers(self) -> dict[int, str]:
        """Processes of all nodes that train or score."""
        below = [processes.below(node.process.pid) for node in self.nodes]
        called = ("RayTrainWorker", "ray::score")
        return {id: name for found in below for id, name in found.items() if any(each in name for each in called)}

    def _new_head(self) -> RayHead:
        return RayHead(num_cpus=0, node_address="127.0.0.2", dashboard=self._dashboard)

    def _new_node(self) -> RayNode:
        self._num_nodes += 1
        name = f"node-{self._num_nodes}"
        own = {
            "CYCLESEP_CACHE": str(self.folder / name),
            "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": str(NOTICE_SECONDS),
        }
        for _ in range(_STARTS - 1):
            with suppress(RuntimeError):
                return RayNode(self.head, f"127.0.1.{self._num_nodes}", own)
        return RayNode(self.head, f"127.0.1.{self._num_nodes}", own)
