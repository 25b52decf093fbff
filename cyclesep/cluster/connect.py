"""Joining a Ray cluster, or being one: the same jobs run on a laptop and behind `ray job submit`."""

import logging
import os
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

# Read by Ray when it is import_object: Train V2 only, no usage report, no reminder lines that a user cannot act on; nor a
# complaint every few seconds where a disk is 95 % full, as a person's often is.
_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_TRAIN_V2_ENABLED": "1",
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_local_fs_capacity_threshold": "0.99",
}

for _name, _value in _ENVIRONMENT.items():
    os.environ.setdefault(_name, _value)

# In a notebook Ray and its tqdm ask for widgets, with which nothing here is drawn.
logging.getLogger("ray.widgets.util").setLevel(logging.WARNING)
warnings.filterwarnings("ignore", message="IProgress not found")

import ray  # noqa: E402
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy  # noqa: E402

from cyclesep.cluster.local_cluster import private_cluster  # noqa: E402
from cyclesep.cluster.log_filters import filter_ray_logs  # noqa: E402
from cyclesep.cluster.shared_cluster import on_cluster  # noqa: E402
from cyclesep.errors import ClusterError  # noqa: E402

__all__ = ["connect", "local_actor", "out_of_memory_error", "ray"]

filter_ray_logs()


@contextmanager
def connect(*, num_cpus: int | None = None, log_to_driver: bool = True) -> Iterator[None]:
    """Join the cluster that RAY_ADDRESS names, or start a private one on this machine for the length of the block.

    The private one keeps its files in a folder of its own, so that two of them, or another Ray on the same host, do not
    meet, and listens on loopback only. Where Ray is already running in this process nothing is done. Without
    `log_to_driver` what its processes print stays in Ray's own files. Raises ClusterError where no cluster
    answers, Ray does not start, or it ends processes that the block needs because their machine is out of memory.
    """
    with _joined(num_cpus, log_to_driver):
        try:
            yield
        except ray.exceptions.OutOfMemoryError as problem:
            raise out_of_memory_error(problem) from problem


def out_of_memory_error(problem: ray.exceptions.OutOfMemoryError) -> ClusterError:
    """What Ray's page about processes that it ended comes to."""
    seen = re.search(r"Memory on the node \(IP: ([^,)]+).*?was (\S+) used / (\S+) limit", str(problem))
    machine = f"{seen[1]} ({seen[2]} of {seen[3]} used)" if seen else "a machine of the cluster"
    return ClusterError(
        f"{machine}: ran out of memory, so Ray ended processes of this job; end other programs there, let less run at "
        "a time, or take a machine with more"
    )


def local_actor(kind: type) -> Any:
    """A new actor of `kind` without CPUs, on the node of this process: on another one it would be lost with that."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return ray.remote(num_cpus=0, scheduling_strategy=here)(kind).remote()


@contextmanager
def _joined(num_cpus: int | None, log_to_driver: bool) -> Iterator[None]:
    if ray.is_initialized():
        yield
    elif os.environ.get("RAY_ADDRESS"):
        with on_cluster(os.environ["RAY_ADDRESS"], log_to_driver):
            yield
    else:
        with private_cluster(num_cpus, log_to_driver):
            yield
