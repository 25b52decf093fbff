"""The S3 client: one boto3 client per process, created on first use.

Endpoint, region, profile and credentials come from boto3's own sources (AWS_ENDPOINT_URL, AWS_DEFAULT_REGION,
AWS_PROFILE, AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, ~/.aws, the machine's role). This package never stores, logs
or pickles them: threads share the client, a forked child creates its own, and no pickled object contains it.
"""

import os
import threading
from typing import Any

# Attempts per request, unless AWS_MAX_ATTEMPTS or the profile's max_attempts is set. With botocore's exponential
# backoff (at most 20 s) eight attempts survive a minute of failures.
MAX_ATTEMPTS = 8
# Open connections: four times the threads of a prefetch, and those of an upload.
MAX_CONNECTIONS = 32

_lock = threading.Lock()
_client: Any = None


def client() -> Any:
    """Return the S3 client of this process; raises boto3's errors for an invalid profile or endpoint."""
    global _client
    with _lock:
        if _client is None:
            _client = _new_client()
        return _client


def endpoint() -> str:
    """Return the server's URL; empty before the first request of this process."""
    return str(_client.meta.endpoint_url) if _client is not None else ""


def reset() -> None:
    """Discard the client: after a fork, or when the environment has changed."""
    global _client, _lock
    _lock, _client = threading.Lock(), None


os.register_at_fork(after_in_child=reset)


def _new_client() -> Any:
    # Imported here because boto3 takes a quarter of a second, and local folders do not need it.
    import boto3
    import botocore.session
    from botocore.config import Config

    session = botocore.session.Session()
    attempts = session.get_config_variable("max_attempts") or MAX_ATTEMPTS
    config = Config(
        retries={"mode": "standard", "total_max_attempts": attempts},
        max_pool_connections=MAX_CONNECTIONS,
        connect_timeout=10,
        read_timeout=60,
        tcp_keepalive=True,
        # Downloads are verified by SHA-256, and not every server returns checksums.
        response_checksum_validation="when_required",
    )
    return boto3.Session(botocore_session=session).client("s3", config=config)
