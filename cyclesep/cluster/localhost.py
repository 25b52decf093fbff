"""Clusters that listen on 127.0.0.1 only."""

import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import ray
from ray._private import ray_constants

# For the processes of a private cluster: Ray's (see on_loopback), and gloo's and NCCL's for the workers' gradients.
LOOPBACK = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"} | (
    {"GLOO_SOCKET_IFNAME": "lo", "NCCL_SOCKET_IFNAME": "lo"} if sys.platform == "linux" else {}
)


@contextmanager
def on_loopback() -> Iterator[None]:
    """Let a cluster that is started in the block listen on 127.0.0.1 only, as Ray does by itself on macOS, or join one.

    Elsewhere Ray takes the machine's outer address for every loopback one, and then listens on all of them.
    """
    before = ray_constants.ENABLE_RAY_CLUSTER
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before


def is_on_loopback_only(address: str) -> bool:
    """Whether a cluster's address is a loopback one and the same port of the outer address is closed."""
    host, _, port = address.rpartition(":")
    if host not in ("127.0.0.1", "localhost") or not port.isdigit():
        return False
    with socket.socket() as probe:
        probe.settimeout(1.0)
        return probe.connect_ex((ray.util.get_node_ip_address(), int(port))) != 0
