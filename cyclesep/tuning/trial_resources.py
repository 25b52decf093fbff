"""How many trials a cluster holds at a time, so that none waits for what another one will not give back.

Tune reserves a trial's driver, Ray Train its workers, and neither knows of the other: where more drivers are let in
than there is room for workers, all of them wait for ever. So as many trials are let in as there is room for a driver
together with its workers. The driver only waits and is counted by its memory; processors are left to the workers.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import ray
from ray import tune

from cyclesep.errors import ConfigError
from cyclesep.tuning.config import TuneConfig

# Bytes of a trial's driver and of Ray Train's processes beside it: Python, torch and Ray, no audio.
DRIVER_MEMORY = 600 << 20

# Ray counts resources in ten thousandths.
_TENTHOUSANDTH = 1e-4


@dataclass(frozen=True, kw_only=True)
class Needs:
    """What the workers of one trial take."""

    num_workers: int
    cpus: float
    """Of each worker."""
    gpus: float = 0.0
    """Of each worker."""


def needs_of(config: TuneConfig, nodes: Sequence[Mapping[str, float]]) -> Needs:
    """What each trial takes on a cluster of `nodes` (resources of each), where its workers use GPUs if they can."""
    train = config.train
    gpus = sum(node.get("GPU", 0.0) for node in nodes)
    use_gpu = gpus >= train.num_workers if train.use_gpu is None else train.use_gpu
    return Needs(
        num_workers=train.num_workers, cpus=train.cpus_per_worker, gpus=config.gpus_per_trial if use_gpu else 0.0
    )


def num_concurrent(config: TuneConfig, nodes: Sequence[Mapping[str, float]]) -> int:
    """Trials that fit onto `nodes` at a time, each with its driver and all its workers.

    Raises ConfigError if there is no room for one, or under pbt for less than the whole population.
    """
    needs = needs_of(config, nodes)
    workers = sum(_workers_on(node, needs) for node in nodes)
    drivers = sum(int(node.get("memory", 0.0) // DRIVER_MEMORY) for node in nodes)
    fitting = min(workers // needs.num_workers, drivers)
    if fitting == 0:
        raise ConfigError(
            f"train: {_asked(needs)}, and the cluster has {_has(nodes)}; lower what a trial takes, or "
            "start nodes first: a search does not wait for a cluster to grow"
        )
    allowed = min(fitting, config.max_concurrent or fitting)
    if config.scheduler == "pbt" and allowed < config.num_trials:
        raise ConfigError(
            f"trials={config.num_trials}: scheduler=pbt trains all of them at a time and the cluster holds {allowed} "
            f"({_asked(needs)}); lower trials, or train.cpus_per_worker or gpus_per_trial so that several share a processor"
        )
    return allowed


def nodes_now() -> list[dict[str, float]]:
    """The resources of each node of the cluster that this process is connected to."""
    return [dict(node["Resources"]) for node in ray.nodes() if node["Alive"]]


def driver_resources() -> tune.PlacementGroupFactory:
    """What Tune reserves for a trial's driver."""
    return tune.PlacementGroupFactory([{"memory": float(DRIVER_MEMORY)}])


def _workers_on(node: Mapping[str, float], needs: Needs) -> int:
    room = math.floor(node.get("CPU", 0.0) / needs.cpus + _TENTHOUSANDTH)
    if needs.gpus:
        # A share of a GPU lies on one GPU.
        room = min(room, int(node.get("GPU", 0.0)) * math.floor(1 / needs.gpus + _TENTHOUSANDTH))
    return room


def _asked(needs: Needs) -> str:
    gpus = f" and {needs.gpus:g} GPU" if needs.gpus else ""
    return f"a trial takes {needs.num_workers} workers of {needs.cpus:g} CPU{gpus} each, and {DRIVER_MEMORY >> 20} MiB"


def _has(nodes: Sequence[Mapping[str, float]]) -> str:
    total = {name: sum(node.get(name, 0.0) for node in nodes) for name in ("CPU", "GPU", "memory")}
    return f"{total['CPU']:g} CPUs, {total['GPU']:g} GPUs and {total['memory'] / 2**30:.1f} GiB on {len(nodes)} nodes"
