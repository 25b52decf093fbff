"""A local Ray cluster on this machine, for the length of one job."""

import logging
import os
import shutil
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import ray
from filelock import FileLock

from cyclesep.cluster.environment import LOCAL_CLUSTER, temporarily, unset
from cyclesep.errors import ClusterError

_LOOPBACK = "127.0.0.1"
_SHORT_PARENT = "/tmp"
_PREFIX, _OWNER = "cyclesep-ray-", "owner.lock"

_log = logging.getLogger(__name__)


@contextmanager
def local_cluster(num_cpus: int | None, log_to_driver: bool) -> Iterator[None]:
    """Run a cluster of one node for the length of the block; raise ClusterError if Ray does not start."""
    # Not below TMPDIR, which may be long: Ray creates Unix sockets here, whose paths are limited to 107 characters.
    parent = Path(_SHORT_PARENT if os.access(_SHORT_PARENT, os.W_OK) else tempfile.gettempdir())
    _remove_abandoned(parent)
    folder = tempfile.mkdtemp(prefix=_PREFIX, dir=parent)
    # The operating system releases this lock when the process ends, also after a kill.
    with FileLock(Path(folder) / _OWNER):
        try:
            with temporarily(unset(LOCAL_CLUSTER) | {"RAY_TMPDIR": folder}):
                _start(num_cpus, log_to_driver)
                yield
        finally:
            ray.shutdown()
            shutil.rmtree(folder, ignore_errors=True)


def _start(num_cpus: int | None, log_to_driver: bool) -> None:
    # Ray's processes inherit the address. Without it, Ray Train's helper actors look for a cluster on this machine, may
    # find another one, and then give up the run's resources.
    port = _free_port()
    address = {"RAY_GCS_SERVER_PORT": str(port), "RAY_ADDRESS": f"{_LOOPBACK}:{port}"}
    with temporarily(address), _translate_startup_error():
        ray.init(
            address="local",
            num_cpus=num_cpus,
            num_gpus=_usable_gpus(),
            logging_level=logging.ERROR,
            log_to_driver=log_to_driver,
        )
    if (node := ray.util.get_node_ip_address()) != _LOOPBACK:
        _log.warning(
            "the local Ray cluster listens on %s, protected by Ray's token; to keep it on %s, set "
            "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER=0 before Ray is imported",
            node,
            _LOOPBACK,
        )


def _free_port() -> int:
    with socket.socket() as found:
        found.bind((_LOOPBACK, 0))
        return int(found.getsockname()[1])


def _usable_gpus() -> int | None:
    """Return 0 if torch cannot use the GPUs that Ray would count; None lets Ray count them."""
    # Imported here because not every job needs torch.
    import torch

    return None if torch.cuda.is_available() else 0


def _remove_abandoned(parent: Path) -> None:
    """Remove the folders of local clusters whose processes were killed."""
    for path in parent.glob(f"{_PREFIX}*/{_OWNER}"):
        # Raises Timeout, an OSError, if the process is running.
        with suppress(OSError), FileLock(path, timeout=0):
            shutil.rmtree(path.parent, ignore_errors=True)


@contextmanager
def _translate_startup_error() -> Iterator[None]:
    """Turn an error of Ray's start, which a machine short of time or memory causes, into a one-line ClusterError."""
    try:
        yield
    # Ray raises Exception itself here.
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise ClusterError(
            f"Ray did not start on this machine ({reason}); it may be short of memory or busy: try again later, or set "
            "RAY_ADDRESS to a running cluster"
        ) from error
