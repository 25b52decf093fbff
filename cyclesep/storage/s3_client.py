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
# Open connections: twice the threads of a prefetch or of an upload.
MAX_CONNECTIONS = 32
# Size of an upload part, the unit that is sent again after an error; S3 allows 5 MiB to 5 GiB.
PART_BYTES = 16 * 2**20
NUM_UPLOAD_THREADS = 8

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


def transfer_manager() -> Any:
    """Return a context manager of s3transfer that uploads several files, and several parts of each, in parallel."""
    from boto3.s3.transfer import TransferConfig, create_transfer_manager

    config = TransferConfig(
        multipart_threshold=PART_BYTES,
        multipart_chunksize=PART_BYTES,
        max_concurrency=NUM_UPLOAD_THREADS,
        preferred_transfer_client="classic",
    )
    return create_transfer_manager(client(), config)


def _new_client() -> Any:
    # Imported here because boto3 takes a quarter of a second, and local folders do not need it.
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
        # Downloads are verified by SHA-256, and not every server returns checksums.
        response_checksum_validation="when_required",
    )
    return session.client("s3", config=config)
