"""How much of everything the cluster has, asked again and again: nodes come and go while a job runs."""

import logging
import math
import os
import time
from dataclasses import dataclass

import ray

from cyclesep.errors import ConfigError
from cyclesep.evaluation.config import EvaluateConfig

_STALE_SECONDS = 5.0

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Capacity:
    """The resources of all nodes that are alive."""

    cpus: int
    gpus: int
    node_memory: int
    """Bytes for processes on that node with CPUs that has most."""
    object_store: int
    """Bytes that all nodes have for what travels between processes."""

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
    """The capacity of the cluster, at most some seconds old."""

    def __init__(self) -> None:
        self._asked, self._capacity = time.monotonic(), Capacity.now()

    @property
    def capacity(self) -> Capacity:
        if time.monotonic() - self._asked > _STALE_SECONDS:
            self._asked, self._capacity = time.monotonic(), Capacity.now()
        return self._capacity


def refuse_impossible(config: EvaluateConfig, capacity: Capacity) -> None:
    """Raise ConfigError for what the cluster cannot give."""
    if config.separation.device == "cuda" and not uses_gpu(config, capacity):
        raise ConfigError(
            "separation.device: cuda was asked for, but the cluster has no GPU; set it to auto or cpu, or "
            "scale_up_timeout_minutes= if the cluster grows"
        )
    wanted = config.num_separation_actors or 0
    if not uses_gpu(config, capacity) and wanted > capacity.cpus:
        raise ConfigError(f"num_separation_actors: {wanted}, but the cluster has {capacity.cpus} CPUs; ask for fewer")


def uses_gpu(config: EvaluateConfig, capacity: Capacity) -> bool:
    """Whether tracks are separated on GPUs."""
    if capacity.gpus:
        return config.separation.device != "cpu"
    return config.separation.device == "cuda" and config.scale_up_timeout_minutes > 0


def tell_if_on_cpus(config: EvaluateConfig, capacity: Capacity) -> None:
    """Say that a cluster has no GPU now, which this machine's user knows and one of a cluster that grows may not."""
    if os.environ.get("RAY_ADDRESS") and config.separation.device == "auto" and not capacity.gpus:
        _log.warning(
            "the cluster has no GPU now, so tracks are separated on CPUs; separation.device=cuda num_separation_actors=... "
            "scale_up_timeout_minutes=20 asks it for some, separation.device=cpu says that this is meant"
        )


def gpus_per_actor(config: EvaluateConfig, capacity: Capacity) -> float:
    """What each process asks for; a cluster that grows is asked for whole GPUs, so that it does."""
    if config.gpus_per_actor is not None or not uses_gpu(config, capacity):
        return config.gpus_per_actor or 0.0
    wanted = config.num_separation_actors or 1
    return 1.0 if config.scale_up_timeout_minutes or wanted <= capacity.gpus else 1 / math.ceil(wanted / capacity.gpus)
