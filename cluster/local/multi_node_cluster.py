"""A Ray cluster of a head and several nodes on this machine, whose nodes can be added and killed."""

from contextlib import suppress
from pathlib import Path
from typing import Self

from cluster.local.ray_nodes import RayHead, RayNode

# How long a node continues after SIGTERM.
NOTICE_SECONDS = 12
# Ray gives a node half a minute to start, which may be too little on a busy machine.
_NUM_START_ATTEMPTS = 3


class MultiNodeCluster:
    """A head without CPUs, and nodes of one CPU, each with its own address, folders and shard cache."""

    def __init__(self, folder: Path, *, dashboard: bool = False) -> None:
        self.folder, self._dashboard = folder, dashboard
        self.nodes: list[RayNode] = []
        self._num_started = 0
        self.head = self._new_head()

    def __enter__(self) -> Self:
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

    def cached_bytes(self) -> dict[str, int]:
        """Return the size of each node's shard cache, killed nodes included."""
        caches = sorted(self.folder.glob("node-*"), key=lambda folder: int(folder.name.rpartition("-")[2]))
        return {cache.name: sum(file.stat().st_size for file in cache.rglob("*.lmdb")) for cache in caches}

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
