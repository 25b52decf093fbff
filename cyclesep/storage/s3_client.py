"""The connection to S3: one boto3 client per process, made when it is first needed.

A client is shared by threads, is not carried over a fork and is no part of anything that is pickled, so that no
credential leaves boto3.
"""

import os
import threading
from typing import Any

# How often a request is tried, unless AWS_MAX_ATTEMPTS or the profile's max_attempts says otherwise. With botocore's
# exponential backoff (at most 20 s) eight attempts outlast a minute of failures.
MAX_ATTEMPTS = 8
# Connections kept open: the threads of a prefetch or of an upload, twice over.
MAX_CONNECTIONS = 32
# Parts of an upload; S3 allows 5 MiB to 5 GiB. A part is what is sent again after a fault.
PART_BYTES = 16 * 2**20
NUM_UPLOAD_THREADS = 8

_lock = threading.Lock()
_client: Any = None


def client() -> Any:
    """The S3 client of this process; raises what boto3 raises for a profile or an endpoint that cannot be."""
    global _client
    with _lock:
        if _client is None:
            _client = _new_client()
        return _client


def endpoint() -> str:
    """The server that this process talks to; empty before its first request."""
    return str(_client.meta.endpoint_url) if _client is not None else ""


def reset() -> None:
    """Start anew: after a fork, or when the environment has changed."""
    global _client, _lock
    _lock, _client = threading.Lock(), None


os.register_at_fork(after_in_child=reset)


def transfer_manager() -> Any:
    """A context manager of s3transfer that uploads several files and several parts of each at once."""
    from boto3.s3.transfer import TransferConfig, create_transfer_manager

    config = TransferConfig(
        multipart_threshold=PART_BYTES,
        multipart_chunksize=PART_BYTES,
        max_concurrency=NUM_UPLOAD_THREADS,
        preferred_transfer_client="classic",
    )
    return create_transfer_manager(client(), config)


def _new_client() -> Any:
    # Here, because boto3 takes a quarter of a second, which whoever works on local folders need not wait for.
    import boto3.session
    from botocore.config import Config

    session = boto3.session.Session()
    attempts = session._session.get_config_variable("max_attempts") or MAX_ATTEMPTS
    config = Config(
        retries={"mode": "standard", "total_max_attempts": attempts},
        max_pool_connections=MAX_CONNECTIONS,
        connect_timeout=10,
        read_timeout=60,
        tcp_keepalive=True,
        # Whoever downloads knows a SHA-256, and not every server returns checksums.
        response_checksum_validation="when_required",
    )
    return session.client("s3", config=config)
