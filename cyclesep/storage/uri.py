"""Locations: a path on this machine, or `s3://bucket/prefix`."""

import os
import re
import socket
from pathlib import Path
from typing import NamedTuple

from cyclesep.errors import StorageError

SCHEME = "s3://"

_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,61}[A-Za-z0-9]")


class BucketKey(NamedTuple):
    """A bucket and a key in it; the key is empty for the bucket itself."""

    bucket: str
    key: str


def is_remote(location: Path | str) -> bool:
    """Return whether a location is an S3 URI."""
    return isinstance(location, str) and location.startswith(SCHEME)


def parse(uri: str) -> BucketKey:
    """Split `s3://bucket/key`, stripping slashes at the key's ends; raise StorageError if it is not a valid URI."""
    bucket, _, key = uri.removeprefix(SCHEME).partition("/")
    if "@" in bucket:
        # The message does not repeat the URI because the part before the @ may be a secret.
        raise StorageError(
            "an s3:// location must not contain credentials; remove the part before the @ and set AWS_ACCESS_KEY_ID "
            "and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
        )
    if not uri.startswith(SCHEME) or not _BUCKET.fullmatch(bucket):
        raise StorageError(f"{uri}: not an S3 location; write s3://bucket/prefix")
    return BucketKey(bucket, key.strip("/"))


def join_uri(uri: str, *names: str) -> str:
    """Append path components to a location, whether or not it ends in a slash."""
    return "/".join([uri.rstrip("/"), *names])


def absolute_uri(location: Path | str) -> str:
    """Return a location independent of the working directory: an absolute path, or a normalized S3 URI."""
    if isinstance(location, str) and is_remote(location):
        bucket, key = parse(location)
        return f"{SCHEME}{bucket}/{key}".rstrip("/")
    return str(Path(location).expanduser().absolute())


def display_path(location: Path | str) -> str:
    """Return a location for messages: a path below the working directory relative to it, any other one absolute."""
    if is_remote(location):
        return str(location)
    path = Path(location).absolute()
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


def process_name() -> str:
    """Return this process and machine as one phrase, written into locks."""
    return f"process {os.getpid()} on {socket.gethostname()}"
