"""Small objects whole, and what lies under a prefix."""

import itertools
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from botocore import exceptions as boto

from cyclesep.errors import StorageError
from cyclesep.storage.s3_client import client
from cyclesep.storage.s3_errors import INTERRUPTIONS, code_of, translate_errors
from cyclesep.storage.uri import SCHEME, join_uri, parse

# The most keys that one request may delete.
_DELETED_AT_ONCE = 1000
# botocore itself asks again for what fails before the body comes.
_MAX_READS = 5


@dataclass(frozen=True, kw_only=True)
class ObjectInfo:
    """What the server tells of an object."""

    bytes: int
    etag: str
    """Changes with the content."""
    modified: datetime
    sha256: str = ""
    """Written down at the upload; empty if it was not, and in listings."""


def read_text(uri: str) -> str:
    """A small object as text. Raises ObjectNotFound if it is not there, StorageError if it cannot be read as UTF-8."""
    bucket, key = parse(uri)
    for attempt in range(_MAX_READS):
        with translate_errors(uri):
            response = client().get_object(Bucket=bucket, Key=key)
            try:
                body: bytes = response["Body"].read()
                break
            except INTERRUPTIONS:
                if attempt == _MAX_READS - 1:
                    raise
                time.sleep(2.0**attempt / 4)
    try:
        return body.decode("utf-8")
    except UnicodeDecodeError as problem:
        raise StorageError(f"{uri}: damaged, it is not text; write it again") from problem


def write_text(uri: str, text: str) -> None:
    """Write a small object; readers see the old one or the new one, whole."""
    bucket, key = parse(uri)
    with translate_errors(uri):
        client().put_object(Bucket=bucket, Key=key, Body=text.encode("utf-8"), ContentType="text/plain; charset=utf-8")


def head(uri: str) -> ObjectInfo | None:
    """What the server tells of one object; None if there is none."""
    bucket, key = parse(uri)
    if not key:
        return None
    with translate_errors(uri):
        try:
            found = client().head_object(Bucket=bucket, Key=key)
        except boto.ClientError as problem:
            if code_of(problem) in ("404", "NoSuchKey"):
                return None
            raise
    sha256 = str(found.get("Metadata", {}).get("sha256", ""))
    return ObjectInfo(bytes=found["ContentLength"], etag=found["ETag"], modified=found["LastModified"], sha256=sha256)


def sizes(uri: str) -> dict[str, int]:
    """Names and bytes of the objects directly below the prefix `uri`, as of the files of a folder; empty for none."""
    return {name: stored.bytes for name, stored in list_objects(uri, deep=False).items()}


def folders(uri: str) -> list[str]:
    """Names of what would be folders directly below the prefix `uri`, sorted."""
    prefix = _prefix(uri)
    listed = (found["Prefix"] for page in _pages(uri, Delimiter="/") for found in page.get("CommonPrefixes", ()))
    return sorted(found.removeprefix(prefix).rstrip("/") for found in listed)


def list_objects(uri: str, *, deep: bool = True, limit: int | None = None) -> dict[str, ObjectInfo]:
    """The objects below the prefix `uri`, or the first `limit` of them, by the rest of their keys.

    Without `deep` only those directly below it, as the files of a folder.
    """
    prefix = _prefix(uri)
    pages = _pages(uri) if deep else _pages(uri, Delimiter="/")
    each = (found for page in pages for found in page.get("Contents", ()) if found["Key"] != prefix)
    return {
        found["Key"].removeprefix(prefix): ObjectInfo(
            bytes=int(found["Size"]), etag=found["ETag"], modified=found["LastModified"]
        )
        for found in itertools.islice(each, limit)
    }


def delete(uri: str, names: Iterable[str]) -> None:
    """Delete the objects `uri`/name; names that are not there do not matter."""
    bucket, _ = parse(uri)
    keys = [{"Key": parse(join_uri(uri, name)).key} for name in names]
    for first in range(0, len(keys), _DELETED_AT_ONCE):
        some = keys[first : first + _DELETED_AT_ONCE]
        with translate_errors(uri):
            refused = client().delete_objects(Bucket=bucket, Delete={"Objects": some, "Quiet": True}).get("Errors", [])
        if refused:
            raise StorageError(
                f"{join_uri(SCHEME + bucket, refused[0]['Key'])}: cannot be deleted ({refused[0]['Code']}); "
                "ask for the right to delete objects there"
            )


def _prefix(uri: str) -> str:
    key = parse(uri).key
    return f"{key}/" if key else ""


def _pages(uri: str, **how: str) -> Iterator[Any]:
    with translate_errors(uri):
        pages = client().get_paginator("list_objects_v2")
        yield from pages.paginate(Bucket=parse(uri).bucket, Prefix=_prefix(uri), **how)
