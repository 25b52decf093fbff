"""Small objects whole, and what lies under a prefix."""

import time
from collections.abc import Iterable

from cyclesep.errors import StorageError
from cyclesep.storage.client import client
from cyclesep.storage.faults import INTERRUPTIONS, explained
from cyclesep.storage.locations import SCHEME, join, parse

# The most keys that one request may delete.
_DELETED_AT_ONCE = 1000
# botocore itself asks again for what fails before the body comes.
_MAX_READS = 5


def read_text(uri: str) -> str:
    """A small object as text. Raises NoSuchObject if it is not there, StorageError if it cannot be read as UTF-8."""
    bucket, key = parse(uri)
    for attempt in range(_MAX_READS):
        with explained(uri):
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
    with explained(uri):
        client().put_object(Bucket=bucket, Key=key, Body=text.encode("utf-8"), ContentType="text/plain; charset=utf-8")


def sizes(uri: str) -> dict[str, int]:
    """Names and bytes of the objects directly below the prefix `uri`, as of the files of a folder; empty for none."""
    bucket, key = parse(uri)
    prefix = f"{key}/" if key else ""
    with explained(uri):
        pages = client().get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix, Delimiter="/")
        listed = [found for page in pages for found in page.get("Contents", ())]
    return {found["Key"].removeprefix(prefix): int(found["Size"]) for found in listed if found["Key"] != prefix}


def delete(uri: str, names: Iterable[str]) -> None:
    """Delete the objects `uri`/name; names that are not there do not matter."""
    bucket, _ = parse(uri)
    keys = [{"Key": parse(join(uri, name)).key} for name in names]
    for first in range(0, len(keys), _DELETED_AT_ONCE):
        some = keys[first : first + _DELETED_AT_ONCE]
        with explained(uri):
            refused = client().delete_objects(Bucket=bucket, Delete={"Objects": some, "Quiet": True}).get("Errors", [])
        if refused:
            raise StorageError(
                f"{join(SCHEME + bucket, refused[0]['Key'])}: cannot be deleted ({refused[0]['Code']}); "
                "ask for the right to delete objects there"
            )
