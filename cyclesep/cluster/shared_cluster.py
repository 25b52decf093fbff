"""Joining a cluster that is running: its address, and the token that it may ask for."""

import json
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

from cyclesep.cluster.localhost import is_on_loopback_only, on_loopback
from cyclesep.errors import ClusterError

_AUTHENTICATION = "RAY_AUTH_MODE"


@contextmanager
def on_cluster(address: str, log_to_driver: bool) -> Iterator[None]:
    """Be a driver of the cluster at `address` for the length of the block; raises ClusterError if it does not let."""
    authentication = os.environ.get(_AUTHENTICATION)
    try:
        _join(address, log_to_driver)
        try:
            yield
        finally:
            ray.shutdown()
    finally:
        _authenticate_by(authentication)


def _join(address: str, log_to_driver: bool) -> None:
    try:
        _try_port(address)
        with on_loopback() if is_on_loopback_only(address) else nullcontext():
            _bring_token_if_asked(address)
            ray.init(logging_level=logging.WARNING, log_to_driver=log_to_driver, runtime_env=_with_address(address))
    except (OSError, ray.exceptions.RpcError) as problem:
        raise ClusterError(
            f"RAY_ADDRESS={address}: no Ray cluster answers there; correct it, or unset RAY_ADDRESS to run on this "
            "machine alone"
        ) from problem


def _with_address(address: str) -> dict[str, dict[str, str]]:
    """A runtime environment that tells workers too which cluster they are of, where that is known as HOST:PORT.

    `ray job submit` tells it the driver only. Train's helper actors look there first and, without it, may take another
    cluster that runs on their host for theirs, and give up the run's resources. Everything else in a job's environment
    comes from whoever submitted it: Ray refuses to be told the same variable twice.
    """
    given = json.loads(os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")).get("runtime_env") or {}
    is_known = re.fullmatch(r"[^/]+:\d+", address) and "RAY_ADDRESS" not in (given.get("env_vars") or {})
    return {"env_vars": {"RAY_ADDRESS": address}} if is_known else {}


def _try_port(address: str) -> None:
    """Raise OSError at once if nothing listens at HOST:PORT, which Ray would try for minutes."""
    host, _, port = address.rpartition(":")
    if port.isdigit() and "/" not in host:
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()


def _bring_token_if_asked(address: str) -> None:
    """Have this process send the token of its machine exactly where the cluster at `address` asks for one.

    Ray goes by this process's environment. A driver that brings a token asks for one too, and a cluster that has none
    cannot answer: it takes the driver for gone, and its actors die as they start. Raises ClusterError where there is no
    token or the cluster wants another one, and RpcError where no Ray answers.
    """
    if "://" in address or os.environ.get(_AUTHENTICATION, "token") not in ("disabled", "token"):
        return
    where = services.canonicalize_bootstrap_address(address)
    _authenticate_by("disabled")
    if where is None or _is_welcome(where):
        return
    try:
        # Ray's core ends a process that has none.
        if AuthenticationTokenLoader.instance().has_token(ignore_auth_mode=True):
            _authenticate_by("token")
            if _is_welcome(where):
                return
        reason = "this machine has none, or another one"
    except ray.exceptions.AuthenticationError as problem:
        reason = str(problem).partition(". ")[0]
    raise ClusterError(
        f"RAY_ADDRESS={address}: the cluster asks for a token ({reason}); set RAY_AUTH_TOKEN to the cluster's, or copy "
        "its ~/.ray/auth_token"
    )


def _authenticate_by(mode: str | None) -> None:
    """Set what Ray otherwise reads when it is import_object."""
    if mode is None:
        os.environ.pop(_AUTHENTICATION, None)
    else:
        os.environ[_AUTHENTICATION] = mode
    Config.initialize("")


def _is_welcome(address: str) -> bool:
    """Whether a cluster answers this process, authenticated as it is now."""
    sys.stderr.flush()
    screen = os.dup(2)
    try:
        # Ray's core has a line of its own for each refusal, written past Python.
        with Path(os.devnull).open("w") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        GcsClient(address=address)
        return True
    except ray.exceptions.AuthenticationError:
        return False
    finally:
        os.dup2(screen, 2)
        os.close(screen)
