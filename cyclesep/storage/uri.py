"""Names of places: a path of this machine, or `s3://bucket/prefix`."""

import re
from pathlib import Path
from typing import NamedTuple

from cyclesep.errors import StorageError
from cyclesep.storage import atomic_io

SCHEME = "s3://"

_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,61}[A-Za-z0-9]")


class Location(NamedTuple):
    """A bucket and what comes after it; the key of the bucket itself is empty."""

    bucket: str
    key: str


def is_remote(place: Path | str) -> bool:
    """Whether `place` is a URI of S3 and not a path."""
    return isinstance(place, str) and place.startswith(SCHEME)


def parse(uri: str) -> Location:
    """Bucket and key of `s3://bucket/key`, without a slash at either end; raises StorageError if it is none."""
    bucket, _, key = uri.removeprefix(SCHEME).partition("/")
    if "@" in bucket:
        # Not repeated in the message: what stands before the @ may be a secret.
        raise StorageError(
            "an s3:// location holds no credentials; take out what stands before the @ and set AWS_ACCESS_KEY_ID and "
            "AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
        )
    if not uri.startswith(SCHEME) or not _BUCKET.fullmatch(bucket):
        raise StorageError(f"{uri}: is no location in S3; write s3://bucket/prefix")
    return Location(bucket, key.strip("/"))


def join(uri: str, *names: str) -> str:
    """`uri`/name/name, whether or not `uri` ends in a slash."""
    return "/".join([uri.rstrip("/"), *names])


def absolute(place: Path | str) -> str:
    """A place as any process of this machine understands it: URIs as they are, paths from the root."""
    if isinstance(place, str) and is_remote(place):
        bucket, key = parse(place)
        return f"{SCHEME}{bucket}/{key}".rstrip("/")
    return str(Path(place).expanduser().absolute())


def shown(place: Path | str) -> str:
    """A place as a person types it here."""
    return str(place) if is_remote(place) else atomic_io.shown(Path(place))
