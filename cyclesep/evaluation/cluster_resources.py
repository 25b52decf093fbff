"""Resources of the cluster, queried repeatedly because nodes can join and leave while a job runs."""

import logging
import math
import os
import time
from dataclasses import dataclass

import ray

from cyclesep.errors import ConfigError
from cyclesep.evaluation.config import EvaluateConfig

_MAX_AGE_SECONDS = 5.0

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Capacity:
    """Total resources of all running nodes."""

    cpus: int
    gpus: int
    node_memory: int
    """Largest memory for processes of a node with CPUs, in bytes."""
    object_store: int
    """Total size of the object store, in bytes."""

    @classmethod
    def now(cls) -> "Capacity":
        resources = ray.cluster_resources()
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        return cls(
            cpus=max(1, int(resources.get("CPU", 1))),
            gpus=int(resources.get("GPU", 0)),
            node_memory=int(max((node.get("memory", 0) for node in nodes if node.get("CPU")), default=0)),
            object_store=int(resources.get("object_store_memory", 0)),
        )


class Cluster:
    """The capacity of the cluster, cached for a few seconds."""

    def __init__(self) -> None:
        self._updated, self._capacity = time.monotonic(), Capacity.now()

    @property
    def capacity(self) -> Capacity:
        if time.monotonic() - self._updated > _MAX_AGE_SECONDS:
            self._updated, self._capacity = time.monotonic(), Capacity.now()
        return self._capacity


def check_resources(config: EvaluateConfig, capacity: Capacity) -> None:
    """Raise ConfigError for a request that the cluster cannot satisfy."""
    if config.separation.device == "cuda" and not uses_gpu(config, capacity):
        raise ConfigError(
            "separation.device: cuda is not available, the cluster has no GPU; set it to auto or cpu, or set "
            "scale_up_timeout_minutes= if the cluster scales up"
        )
    num_actors = config.num_separation_actors or 0
    if not uses_gpu(config, capacity) and num_actors > capacity.cpus:
        raise ConfigError(
            f"num_separation_actors: {num_actors}, but the cluster has {capacity.cpus} CPUs; set it to a smaller number"
        )


def uses_gpu(config: EvaluateConfig, capacity: Capacity) -> bool:
    """Return whether tracks are separated on GPUs."""
    if capacity.gpus:
        return config.separation.device != "cpu"
    return config.separation.device == "cuda" and config.scale_up_timeout_minutes > 0


def warn_if_no_gpu(config: EvaluateConfig, capacity: Capacity) -> None:
    """Warn that a shared cluster has no GPU now, which may be unexpected on one that scales up."""
    if os.environ.get("RAY_ADDRESS") and config.separation.device == "auto" and not capacity.gpus:
        _log.warning(
            "the cluster has no GPU now, so tracks are separated on CPUs; to request GPUs, set separation.device=cuda "
            "num_separation_actors=... scale_up_timeout_minutes=20; to silence this warning, separation.device=cpu"
        )


def gpus_per_actor(config: EvaluateConfig, capacity: Capacity) -> float:
    """Return the GPUs that each actor requests: whole ones on a cluster that scales up, to make it scale up."""
    if config.gpus_per_actor is not None or not uses_gpu(config, capacity):
        return config.gpus_per_actor or 0.0
    num_actors = config.num_separation_actors or 1
    if config.scale_up_timeout_minutes or num_actors <= capacity.gpus:
        return 1.0
    return 1 / math.ceil(num_actors / capacity.gpus)
