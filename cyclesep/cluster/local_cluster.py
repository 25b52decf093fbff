"""A cluster of this machine alone, for the length of one job."""

import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import ray

from cyclesep.cluster.localhost import LOOPBACK, on_loopback
from cyclesep.errors import ClusterError
from cyclesep.storage import atomic_io

# Its one node does not go before this process does: nobody has to look out for that.
_UNWATCHED = {"RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0"}
_SHORT = "/tmp"
_PREFIX, _OWNER = "cyclesep-ray-", "owner.lock"


@contextmanager
def private_cluster(num_cpus: int | None, log_to_driver: bool) -> Iterator[None]:
    """Run a cluster of one node for the length of the block; raises ClusterError if Ray does not start."""
    # Not below TMPDIR, which may be long: Ray puts Unix sockets here and their paths may have 107 characters.
    parent = Path(_SHORT if os.access(_SHORT, os.W_OK) else tempfile.gettempdir())
    _remove_abandoned(parent)
    folder = tempfile.mkdtemp(prefix=_PREFIX, dir=parent)
    # Held until this process ends, however it does.
    owner = atomic_io.lock_file(Path(folder) / _OWNER, wait=True)
    assert owner is not None
    try:
        with _environment({"RAY_TMPDIR": folder} | _UNWATCHED):
            with _environment(LOOPBACK), on_loopback(), _startup_told():
                ray.init(
                    address="local", num_cpus=num_cpus, num_gpus=_usable_gpus(), logging_level=logging.WARNING,
                    log_to_driver=log_to_driver, _temp_dir=folder, _node_ip_address="127.0.0.1",
                )  # fmt: skip
            _note_address(Path(folder))
            yield
    finally:
        ray.shutdown()
        shutil.rmtree(folder, ignore_errors=True)
        owner.close()


def _usable_gpus() -> int | None:
    """0 where torch can use none of those that Ray would count; None leaves the counting to Ray."""
    # Here, because not every job needs it.
    import torch

    return None if torch.cuda.is_available() else 0


def _remove_abandoned(parent: Path) -> None:
    """Remove the folders of private clusters whose processes were killed."""
    for path in parent.glob(f"{_PREFIX}*/{_OWNER}"):
        with suppress(OSError):
            owner = atomic_io.lock_file(path, wait=False)
            if owner is not None:
                shutil.rmtree(path.parent, ignore_errors=True)
                owner.close()


@contextmanager
def _startup_told() -> Iterator[None]:
    """Say in one line what a machine without time or memory for it makes of Ray's start."""
    try:
        yield
    # Ray raises Exception itself here.
    except Exception as problem:
        told = " ".join(str(problem).split())[:200]
        raise ClusterError(
            f"Ray did not start on this machine ({told}); it may be short of memory or too busy: try again when it is "
            "not, or name a running cluster by RAY_ADDRESS"
        ) from problem


@contextmanager
def _environment(variables: dict[str, str]) -> Iterator[None]:
    """Set variables of this process, and so of those that it starts, for the length of the block."""
    before = {name: os.environ[name] for name in variables if name in os.environ}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name in variables:
            os.environ.pop(name, None)
        os.environ.update(before)


def _note_address(folder: Path) -> None:
    """Leave the cluster's address where `ray start` would.

    Train's helper actors ask for "the" cluster of this host, which they look up below RAY_TMPDIR; where they find
    nothing they take any other cluster that is running, or none if there are several, and give up the run's resources.
    """
    place = folder / "ray" / "ray_current_cluster"
    place.parent.mkdir(exist_ok=True)
    place.write_text(ray.get_runtime_context().gcs_address)
