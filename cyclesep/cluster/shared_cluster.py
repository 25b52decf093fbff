"""Connect to a running cluster: its address, and the token that it may require."""

import logging
import os
import re
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import ray
from ray._private import services
from ray._raylet import (  # type: ignore[attr-defined]
    AuthenticationTokenLoader,
    Config,
    GcsClient,
)

from cyclesep.cluster.environment import job_runtime_env
from cyclesep.cluster.localhost import is_on_loopback_only, listen_on_loopback
from cyclesep.errors import ClusterError

_AUTH_MODE = "RAY_AUTH_MODE"


@contextmanager
def shared_cluster(address: str, log_to_driver: bool) -> Iterator[None]:
    """Connect to the cluster at `address` for the length of the block; raise ClusterError if it cannot be joined."""
    auth_mode = os.environ.get(_AUTH_MODE)
    try:
        _join(address, log_to_driver)
        try:
            yield
        finally:
            ray.shutdown()
    finally:
        _set_auth_mode(auth_mode)


def _join(address: str, log_to_driver: bool) -> None:
    try:
        _check_port(address)
        with listen_on_loopback() if is_on_loopback_only(address) else nullcontext():
            _send_token_if_required(address)
            ray.init(logging_level=logging.WARNING, log_to_driver=log_to_driver, runtime_env=_with_address(address))
    except (OSError, ray.exceptions.RpcError) as error:
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


def _send_token_if_required(address: str) -> None:
    """Make this process send the machine's token if, and only if, the cluster at `address` requires one.

    Ray decides by this process's environment. A driver that sends a token also expects one, which a cluster without
    tokens cannot provide: it considers the driver dead and kills its actors as they start. Raises ClusterError if there
    is no token or the cluster rejects it, and RpcError if no Ray cluster answers.
    """
    if "://" in address or os.environ.get(_AUTH_MODE, "token") not in ("disabled", "token"):
        return
    host_and_port = services.canonicalize_bootstrap_address(address)
    _set_auth_mode("disabled")
    if host_and_port is None or _accepts_us(host_and_port):
        return
    try:
        # Checked first because Ray's core ends a process that has no token.
        if AuthenticationTokenLoader.instance().has_token(ignore_auth_mode=True):
            _set_auth_mode("token")
            if _accepts_us(host_and_port):
                return
        reason = "this machine has none, or another one"
    except ray.exceptions.AuthenticationError as error:
        reason = str(error).partition(". ")[0]
    raise ClusterError(
        f"RAY_ADDRESS={address}: the cluster requires a token ({reason}); set RAY_AUTH_TOKEN to the cluster's, or copy "
        "its ~/.ray/auth_token"
    )


def _set_auth_mode(mode: str | None) -> None:
    """Set the mode, which Ray otherwise reads only at import."""
    if mode is None:
        os.environ.pop(_AUTH_MODE, None)
    else:
        os.environ[_AUTH_MODE] = mode
    Config.initialize("")


def _accepts_us(address: str) -> bool:
    """Return whether a cluster accepts this process with its current authentication mode."""
    sys.stderr.flush()
    stderr = os.dup(2)
    try:
        # Ray's core writes its own message about a rejection, bypassing Python.
        with Path(os.devnull).open("w") as devnull:
            os.dup2(devnull.fileno(), 2)
        GcsClient(address=address)
        return True
    except ray.exceptions.AuthenticationError:
        return False
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
