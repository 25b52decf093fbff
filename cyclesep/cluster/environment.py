"""Environment variables of Ray: defaults that Ray reads at import, and what `ray job submit` passes to a job."""

import json
import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_DEFAULTS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_TRAIN_V2_ENABLED": "1",
    # Suppress reminders that a user cannot act on.
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    # Suppress the warning, repeated every few seconds, that a disk is more than 95 % full.
    "RAY_local_fs_capacity_threshold": "0.99",
}


def set_defaults() -> None:
    """Set the variables that Ray reads at import, except those that are set already."""
    for name, value in _DEFAULTS.items():
        os.environ.setdefault(name, value)


def suppress_widget_warnings() -> None:
    """Suppress the warnings about missing notebook widgets, which Ray and its tqdm print at import."""
    logging.getLogger("ray.widgets.util").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", message="IProgress not found")


@contextmanager
def temporarily(variables: dict[str, str]) -> Iterator[None]:
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
