"""List, read, write and delete S3 objects; all functions take `s3://bucket/key` and raise StorageError."""

import itertools
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from botocore import exceptions as boto

from cyclesep.errors import StorageError
from cyclesep.storage.s3_client import client
from cyclesep.storage.s3_errors import INTERRUPTIONS, error_code, translate_errors
from cyclesep.storage.uri import SCHEME, join_uri, parse

# S3's limit of keys in one delete request.
_MAX_DELETED_KEYS = 1000
# botocore itself retries only errors that occur before the body.
_MAX_READS = 5


@dataclass(frozen=True, kw_only=True)
class ObjectInfo:
    """Metadata of an object."""

    bytes: int
    etag: str
    """Changes with the content."""
    modified: datetime
    sha256: str = ""
    """Stored at upload; empty if it was not, and in listings."""


def read_text(uri: str) -> str:
    """Read a small object as UTF-8; raise ObjectNotFound if it does not exist, StorageError if it cannot be decoded."""
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
    except UnicodeDecodeError as error:
        raise StorageError(f"{uri}: damaged, not a text file; write it again") from error


def write_text(uri: str, text: str) -> None:
    """Write a small object; readers see either the old or the new content."""
    bucket, key = parse(uri)
    with translate_errors(uri):
        client().put_object(Bucket=bucket, Key=key, Body=text.encode("utf-8"), ContentType="text/plain; charset=utf-8")


def head(uri: str) -> ObjectInfo | None:
    """Return the metadata of an object; None if it does not exist."""
    bucket, key = parse(uri)
    if not key:
        return None
    with translate_errors(uri):
        try:
            response = client().head_object(Bucket=bucket, Key=key)
        except boto.ClientError as error:
            if error_code(error) in ("404", "NoSuchKey"):
                return None
            raise
    return ObjectInfo(
        bytes=response["ContentLength"],
        etag=response["ETag"],
        modified=response["LastModified"],
        sha256=str(response.get("Metadata", {}).get("sha256", "")),
    )


def sizes(uri: str) -> dict[str, int]:
    """Return the size in bytes of each object directly below the prefix `uri`, by name."""
    return {name: info.bytes for name, info in list_objects(uri, deep=False).items()}


def folders(uri: str) -> list[str]:
    """Return the names of the "folders" directly below the prefix `uri`, sorted."""
    prefix = _prefix(uri)
    found = (entry["Prefix"] for page in _pages(uri, Delimiter="/") for entry in page.get("CommonPrefixes", ()))
    return sorted(name.removeprefix(prefix).rstrip("/") for name in found)


def list_objects(uri: str, *, deep: bool = True, limit: int | None = None) -> dict[str, ObjectInfo]:
    """Return the objects below the prefix `uri`, or the first `limit` of them, by their keys relative to it.

    Without `deep`, only those directly below it, like the files of a folder.
    """
    prefix = _prefix(uri)
    pages = _pages(uri) if deep else _pages(uri, Delimiter="/")
    entries = (entry for page in pages for entry in page.get("Contents", ()) if entry["Key"] != prefix)
    return {
        entry["Key"].removeprefix(prefix): ObjectInfo(
            bytes=int(entry["Size"]), etag=entry["ETag"], modified=entry["LastModified"]
        )
        for entry in itertools.islice(entries, limit)
    }


def delete(uri: str, names: Iterable[str]) -> None:
    """Delete the objects `uri`/name that exist."""
    bucket, _ = parse(uri)
    keys = [{"Key": parse(join_uri(uri, name)).key} for name in names]
    for start in range(0, len(keys), _MAX_DELETED_KEYS):
        batch = keys[start : start + _MAX_DELETED_KEYS]
        with translate_errors(uri):
            response = client().delete_objects(Bucket=bucket, Delete={"Objects": batch, "Quiet": True})
        failed = response.get("Errors", [])
        if failed:
            raise StorageError(
                f"{join_uri(SCHEME + bucket, failed[0]['Key'])}: cannot be deleted ({failed[0]['Code']}); "
                "ask for permission to delete objects there"
            )


def _prefix(uri: str) -> str:
    key = parse(uri).key
    return f"{key}/" if key else ""


def _pages(uri: str, **options: str) -> Iterator[Any]:
    with translate_errors(uri):
        pages = client().get_paginator("list_objects_v2")
        yield from pages.paginate(Bucket=parse(uri).bucket, Prefix=_prefix(uri), **options)
