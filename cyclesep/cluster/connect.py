"""Connect to a running Ray cluster, or start one on this machine."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from cyclesep.cluster.local_cluster import local_cluster
from cyclesep.cluster.shared_cluster import shared_cluster
from cyclesep.errors import ClusterError


@contextmanager
def connect(*, num_cpus: int | None = None, log_to_driver: bool = True) -> Iterator[None]:
    """Join the cluster at RAY_ADDRESS, or start a local one on this machine, for the length of the block.

    A local cluster has its own folder, so that it does not interfere with other Ray clusters on this machine, and
    listens on loopback only, if Ray was imported within `environment.loopback_by_default`. If Ray is already running in
    this process, does nothing. With `log_to_driver=False`, the output of Ray's processes goes to Ray's log files only.
    Raises ClusterError if no cluster answers, if Ray does not start, or if Ray kills processes of the block because
    their machine is out of memory.
    """
    with _connection(num_cpus, log_to_driver):
        try:
            yield
        except ray.exceptions.OutOfMemoryError as error:
            raise out_of_memory_error(error) from error


def out_of_memory_error(error: ray.exceptions.OutOfMemoryError) -> ClusterError:
    """Summarize Ray's long out-of-memory message in one line."""
    match = re.search(r"Memory on the node \(IP: ([^,)]+).*?was (\S+) used / (\S+) limit", str(error))
    machine = f"{match[1]} ({match[2]} of {match[3]} used)" if match else "a machine of the cluster"
    return ClusterError(
        f"{machine}: out of memory, so Ray killed processes of this job; close other programs there, run fewer "
        "processes at a time, or use a machine with more memory"
    )


def local_actor(kind: type) -> Any:
    """Return a new actor of class `kind`, without CPUs, on the node of this process."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return ray.remote(num_cpus=0, scheduling_strategy=here)(kind).remote()


@contextmanager
def _connection(num_cpus: int | None, log_to_driver: bool) -> Iterator[None]:
    if ray.is_initialized():
        yield
    elif os.environ.get("RAY_ADDRESS"):
        with shared_cluster(os.environ["RAY_ADDRESS"], log_to_driver):
            yield
    else:
        with local_cluster(num_cpus, log_to_driver):
            yield
