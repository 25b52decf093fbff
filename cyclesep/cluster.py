"""Joining a Ray cluster, or being one: the same jobs run on a laptop and behind `ray job submit`."""

import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# Read by Ray when it is imported: Train V2 only, no usage report, no reminder lines that a user cannot act on.
_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_TRAIN_V2_ENABLED": "1",
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
}
_SHORT = "/tmp"

for _name, _value in _ENVIRONMENT.items():
    os.environ.setdefault(_name, _value)

import ray  # noqa: E402

# Says at every start that the cluster's ports are protected by a token, which needs no action.
logging.getLogger("ray._private.authentication").setLevel(logging.ERROR)


@contextmanager
def connect(*, num_cpus: int | None = None) -> Iterator[None]:
    """Join the cluster that RAY_ADDRESS names, or start a private one on this machine for the length of the block.

    The private one keeps its files in a folder of its own, so that two of them, or another Ray on the same host, do not
    meet. Where Ray is already running in this process nothing is done.
    """
    if ray.is_initialized():
        yield
    elif os.environ.get("RAY_ADDRESS"):
        # Bare: a job's runtime environment comes from whoever submitted it, and Ray refuses to be told twice.
        ray.init(logging_level=logging.WARNING)
        try:
            yield
        finally:
            ray.shutdown()
    else:
        with _private_cluster(num_cpus):
            yield


@contextmanager
def _private_cluster(num_cpus: int | None) -> Iterator[None]:
    # Not below TMPDIR, which may be long: Ray puts Unix sockets here and their paths may have 107 characters.
    folder = tempfile.mkdtemp(prefix="cyclesep-", dir=_SHORT if os.access(_SHORT, os.W_OK) else None)
    before = os.environ.get("RAY_TMPDIR")
    os.environ["RAY_TMPDIR"] = folder
    try:
        ray.init(address="local", num_cpus=num_cpus, logging_level=logging.WARNING, _temp_dir=folder)
        _note_address(Path(folder))
        yield
    finally:
        ray.shutdown()
        os.environ.pop("RAY_TMPDIR")
        if before is not None:
            os.environ["RAY_TMPDIR"] = before
        shutil.rmtree(folder, ignore_errors=True)


def _note_address(folder: Path) -> None:
    """Leave the cluster's address where `ray start` would.

    Train's helper actors ask for "the" cluster of this host, which they look up below RAY_TMPDIR; where they find
    nothing they take any other cluster that is running, or none if there are several, and give up the run's resources.
    """
    place = folder / "ray" / "ray_current_cluster"
    place.parent.mkdir(exist_ok=True)
    place.write_text(ray.get_runtime_context().gcs_address)
