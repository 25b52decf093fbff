"""Environment variables: all that cyclesep sets for Ray, NCCL and gloo, and those that `ray job submit` passes on.

Variables are set for the length of a block and restored afterwards.
"""

import json
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

# Read when Ray is imported and by its processes: the default of "0" on macOS and Windows makes them use the loopback
# address and listen on it only, and "0" has the same effect on Linux.
_RAY_ON_LOOPBACK = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}

# Marks the processes of a local cluster.
_IS_LOCAL = "CYCLESEP_LOCAL_CLUSTER"

# For a local cluster, unless the user sets them: read by the driver and inherited by Ray's processes.
LOCAL_CLUSTER = {
    _IS_LOCAL: "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    # Metrics for the dashboard of a cluster that ends with the job.
    "RAY_TRAIN_METRICS_ENABLED": "0",
    # The only node ends together with this process, so there is no preemption to watch for.
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    # Removes a warning that Ray repeats every few seconds if a disk is more than 95 % full.
    "RAY_local_fs_capacity_threshold": "0.99",
    **_RAY_ON_LOOPBACK,
    # Gradients between workers.
    **({"GLOO_SOCKET_IFNAME": "lo", "NCCL_SOCKET_IFNAME": "lo"} if sys.platform == "linux" else {}),
}

# For a search, read by Ray Tune in its driver.
SEARCH = {
    # One logger instead of three.
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    # A failed trial reports no score.
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
    "TUNE_MAX_PENDING_TRIALS_PG": "1",
    # Tune's own progress tables.
    "RAY_AIR_NEW_OUTPUT": "0",
    # Relative paths in the settings refer to the working directory of the job.
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
}

_START_TIMEOUT = "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"

# For a trial, read by Ray Train in the trial's process. Trials are short, so workers are checked more often than every
# two seconds. Workers may wait a day for resources that other trials use; Ray Train would count a timeout as a failure.
TRIAL = {"RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5", _START_TIMEOUT: "86400"}


def start_timeout(minutes: float) -> dict[str, str]:
    """Return the variable, read by Ray Train's controller, with which workers may take so long to start; 0: default."""
    return {_START_TIMEOUT: str(60 * minutes)} if minutes else {}


def loopback_by_default() -> AbstractContextManager[None]:
    """Let Ray, if imported in this block, use the loopback address only, unless RAY_ADDRESS is set.

    A program enters the block before it imports Ray.
    """
    return nullcontext() if os.environ.get("RAY_ADDRESS") else temporarily(_RAY_ON_LOOPBACK)


def is_local_cluster() -> bool:
    """Return whether this process uses a cluster that cyclesep started on this machine."""
    return _IS_LOCAL in os.environ


def unset(variables: Mapping[str, str]) -> dict[str, str]:
    """Return those of the variables that this process does not have."""
    return {name: value for name, value in variables.items() if name not in os.environ}


@contextmanager
def temporarily(variables: Mapping[str, str]) -> Iterator[None]:
    """Set variables of this process, inherited by its child processes, for the length of the block."""
    before = {name: os.environ[name] for name in variables if name in os.environ}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name in variables:
            os.environ.pop(name, None)
        os.environ.update(before)


def job_runtime_env() -> dict[str, Any]:
    """Return the runtime environment of the Ray job that this process runs; empty outside a job."""
    job_config: dict[str, Any] = json.loads(os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}"))
    return job_config.get("runtime_env") or {}
