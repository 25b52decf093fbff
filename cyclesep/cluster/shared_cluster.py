"""Connect to the running Ray cluster at RAY_ADDRESS."""

import logging
import os
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import ray

from cyclesep.cluster.environment import job_runtime_env
from cyclesep.errors import ClusterError

_SET_TOKEN = "set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN to its token or RAY_AUTH_TOKEN_PATH to a file with it"


@contextmanager
def shared_cluster(address: str, log_to_driver: bool) -> Iterator[None]:
    """Connect to the cluster at `address` for the length of the block; raise ClusterError if it cannot be joined.

    Whether a token is sent, and which one, is decided by Ray's variables RAY_AUTH_MODE, RAY_AUTH_TOKEN and
    RAY_AUTH_TOKEN_PATH.
    """
    _join(address, log_to_driver)
    try:
        if os.environ.get("RAY_AUTH_MODE") == "token":
            _check_actors(address)
        yield
    finally:
        ray.shutdown()


def _join(address: str, log_to_driver: bool) -> None:
    try:
        _check_port(address)
        ray.init(logging_level=logging.WARNING, log_to_driver=log_to_driver, runtime_env=_with_address(address))
    except ray.exceptions.AuthenticationError as error:
        raise ClusterError(f"RAY_AUTH_MODE=token: {str(error).partition('. ')[0]}; {_SET_TOKEN}") from error
    except (OSError, ray.exceptions.RpcError) as error:
        # Ray raises ConnectionError for every problem, from an error that contains the text of the cause.
        if "AuthenticationError" in f"{error} {error.__cause__}":
            raise ClusterError(
                f"RAY_ADDRESS={address}: the cluster requires a token, and this process sends none or another one; "
                f"{_SET_TOKEN}"
            ) from error
        raise ClusterError(
            f"RAY_ADDRESS={address}: no Ray cluster answers there; correct it, or unset RAY_ADDRESS to run on this "
            "machine alone"
        ) from error


def _with_address(address: str) -> dict[str, dict[str, str]]:
    """Return a runtime environment that sets RAY_ADDRESS for workers too, if the address is HOST:PORT.

    `ray job submit` sets it for the driver only. Without it, Ray Train's helper actors may connect to another cluster
    that runs on their machine, and then give up the run's resources. Other variables come from the submitted runtime
    environment: Ray rejects a variable that is set in both.
    """
    is_host_and_port = re.fullmatch(r"[^/]+:\d+", address)
    is_submitted = "RAY_ADDRESS" in (job_runtime_env().get("env_vars") or {})
    return {"env_vars": {"RAY_ADDRESS": address}} if is_host_and_port and not is_submitted else {}


def _check_port(address: str) -> None:
    """Raise OSError immediately if nothing listens at HOST:PORT, which Ray would retry for minutes."""
    host, _, port = address.rpartition(":")
    if port.isdigit() and "/" not in host:
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()


def _check_actors(address: str) -> None:
    """Raise ClusterError if the cluster does not use tokens although this process does.

    Such a cluster can be joined, but it cannot call this process back, considers it dead, and stops its actors.
    """
    try:
        ray.get(ray.remote(num_cpus=0)(_Probe).remote().answer.remote())
    except ray.exceptions.ActorDiedError as error:
        raise ClusterError(
            f"RAY_ADDRESS={address}: the cluster does not use tokens, but RAY_AUTH_MODE=token is set here; unset it"
        ) from error


class _Probe:
    """An actor that answers."""

    def answer(self) -> None:
        """Return None."""
