"""Resources of a trial: how many trials run at a time, and placement groups that Ray does not release.

Tune reserves the driver of a trial and Ray Train its workers, independently. If Tune started more drivers than there is
room for workers, all of them would wait forever. So the number of trials is limited to those that fit with both. A
driver mostly waits: it is counted by its memory, and all CPUs remain for workers.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import ray
from ray import tune
from ray.util.placement_group import PlacementGroup, remove_placement_group
from ray.util.state import list_placement_groups
from ray.util.state.exception import RayStateApiException

from cyclesep.errors import ConfigError
from cyclesep.tuning.config import TuneConfig

# Bytes of a trial's driver and of Ray Train's controller: Python, torch and Ray, no audio.
DRIVER_MEMORY = 600 << 20

# Ray counts resources in units of 1/10,000.
_RESOURCE_UNIT = 1e-4
# Maximum number of placement groups to list; Ray's default is 100.
_MAX_GROUPS = 10_000


@dataclass(frozen=True, kw_only=True)
class TrialResources:
    """Resources of the workers of one trial."""

    num_workers: int
    cpus: float
    """CPUs per worker."""
    gpus: float = 0.0
    """GPUs per worker."""

    def __str__(self) -> str:
        gpus = f" and {self.gpus:g} GPU" if self.gpus else ""
        memory = f"{DRIVER_MEMORY >> 20} MiB"
        return f"a trial needs {self.num_workers} workers of {self.cpus:g} CPU{gpus} each, and {memory}"


def num_concurrent(config: TuneConfig, nodes: Sequence[Mapping[str, float]]) -> int:
    """Return how many trials, each with a driver and all its workers, fit on `nodes` at a time.

    Raises ConfigError if not even one fits, or with pbt fewer than the whole population.
    """
    resources = trial_resources(config, nodes)
    workers = sum(_workers_on(node, resources) for node in nodes)
    drivers = sum(int(node.get("memory", 0.0) // DRIVER_MEMORY) for node in nodes)
    fitting = min(workers // resources.num_workers, drivers)
    if fitting == 0:
        raise ConfigError(
            f"train: {resources}, and the cluster has {_total(nodes)}; reduce the resources of a trial, or "
            "add nodes before the search, which does not wait for a cluster to scale up"
        )
    allowed = min(fitting, config.max_concurrent or fitting)
    if config.scheduler == "pbt" and allowed < config.num_trials:
        raise ConfigError(
            f"num_trials={config.num_trials}: scheduler=pbt trains all trials at a time and the cluster has room for "
            f"{allowed} ({resources}); lower num_trials, or train.cpus_per_worker or gpus_per_trial so that several "
            "share a CPU or GPU"
        )
    return allowed


def trial_resources(config: TuneConfig, nodes: Sequence[Mapping[str, float]]) -> TrialResources:
    """Return the resources of each trial on a cluster of `nodes` (resources of each), with GPUs if available."""
    train = config.train
    gpus = sum(node.get("GPU", 0.0) for node in nodes)
    use_gpu = gpus >= train.num_workers if train.use_gpu is None else train.use_gpu
    return TrialResources(
        num_workers=train.num_workers, cpus=train.cpus_per_worker, gpus=config.gpus_per_trial if use_gpu else 0.0
    )


def cluster_nodes() -> list[dict[str, float]]:
    """Return the resources of each node of the connected cluster."""
    return [dict(node["Resources"]) for node in ray.nodes() if node["Alive"]]


def driver_resources() -> tune.PlacementGroupFactory:
    """Return the resources that Tune reserves for the driver of a trial."""
    return tune.PlacementGroupFactory([{"memory": float(DRIVER_MEMORY)}])


@contextmanager
def release_placement_groups() -> Iterator[None]:
    """At the end of the block, remove the placement groups that this job has created in it and not released.

    Ray Train's workers have their own group. Ray releases it when their controller ends, but not always if the
    controller was still waiting for it (https://github.com/ray-project/ray/issues/62753). A cluster without a dashboard
    cannot list groups; there they are released when the job ends.
    """
    try:
        before = job_placement_groups()
    except RayStateApiException:
        yield
        return
    try:
        yield
    finally:
        with suppress(Exception):
            for group_id in job_placement_groups() - before:
                remove_placement_group(PlacementGroup(ray.PlacementGroupID(bytes.fromhex(group_id))))


def job_placement_groups() -> set[str]:
    """Return the IDs, in hex, of placement groups that this process and its actors have created and not removed."""
    context = ray.get_runtime_context()
    groups = list_placement_groups(
        address=context.gcs_address, detail=True, limit=_MAX_GROUPS, raise_on_missing_output=False
    )
    job = context.get_job_id()
    return {
        group.placement_group_id
        for group in groups
        if group.creator_job_id == job and group.state != "REMOVED" and not group.is_detached
    }


def _workers_on(node: Mapping[str, float], resources: TrialResources) -> int:
    room = math.floor(node.get("CPU", 0.0) / resources.cpus + _RESOURCE_UNIT)
    if resources.gpus:
        # A fraction of a GPU cannot be split over several GPUs.
        room = min(room, int(node.get("GPU", 0.0)) * math.floor(1 / resources.gpus + _RESOURCE_UNIT))
    return room


def _total(nodes: Sequence[Mapping[str, float]]) -> str:
    total = {name: sum(node.get(name, 0.0) for node in nodes) for name in ("CPU", "GPU", "memory")}
    return f"{total['CPU']:g} CPUs, {total['GPU']:g} GPUs and {total['memory'] / 2**30:.1f} GiB on {len(nodes)} nodes"
