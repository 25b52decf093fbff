"""Clusters that listen on 127.0.0.1 only."""

import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import ray
from ray._private import ray_constants

# For the processes of a private cluster: Ray's (see listen_on_loopback), and those of gloo and NCCL for gradients.
LOOPBACK = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"} | (
    {"GLOO_SOCKET_IFNAME": "lo", "NCCL_SOCKET_IFNAME": "lo"} if sys.platform == "linux" else {}
)


@contextmanager
def listen_on_loopback() -> Iterator[None]:
    """Make a cluster started in the block listen on 127.0.0.1 only, and let the block join such a cluster.

    This is Ray's default on macOS. On Linux, Ray replaces loopback addresses by the machine's external address and
    listens on all interfaces.
    """
    before = ray_constants.ENABLE_RAY_CLUSTER
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before


def is_on_loopback_only(address: str) -> bool:
    """Return whether a cluster's address is loopback and the same port is closed on the external address."""
    host, _, port = address.rpartition(":")
    if host not in ("127.0.0.1", "localhost") or not port.isdigit():
        return False
    with socket.socket() as probe:
        probe.settimeout(1.0)
        return probe.connect_ex((ray.util.get_node_ip_address(), int(port))) != 0
