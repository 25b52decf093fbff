"""Large files to and from S3: several at once, in parts, tried again, and taken up where they stopped."""

import hashlib
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

from botocore import exceptions as boto

from cyclesep.errors import StorageError
from cyclesep.storage.s3_client import client, transfer_manager
from cyclesep.storage.s3_errors import INTERRUPTIONS, code_of, translate_errors
from cyclesep.storage.uri import parse

_BLOCK_BYTES = 2**20
# A download is given up after so many interruptions in a row between which not one byte came.
_MAX_STALLS = 6
_MAX_WAIT_SECONDS = 20.0
_MAX_UPLOADS = 3
# The server's names for a body that arrived otherwise than it was sent.
_DAMAGED_ON_THE_WAY = {"BadDigest", "IncompleteBody", "XAmzContentSHA256Mismatch", "XAmzContentChecksumMismatch"}


@dataclass(frozen=True, kw_only=True)
class Upload:
    """One file to be uploaded."""

    path: Path
    uri: str
    sha256: str
    """Of the file; kept as the object's metadata."""

    @classmethod
    def of(cls, path: Path, uri: str) -> "Upload":
        """The upload of a file as it is now."""
        return cls(path=path, uri=uri, sha256=_sha256(path))


class _ChangedError(Exception):
    """The object is no longer the one that a download began with."""


def upload(files: Sequence[Upload]) -> None:
    """Upload several files at once, large ones in parts, and see that what lies there then is what was sent.

    Requests are tried again on faults, with growing pauses. Raises StorageError; an object appears whole or not at all.
    """
    for file in files:
        parse(file.uri)
    for attempt in range(1, _MAX_UPLOADS + 1):
        files = _sent(files, last=attempt == _MAX_UPLOADS)
    for file in files:
        raise StorageError(f"{file.uri}: arrives damaged each time; look for a fault of the network or of the server")


def download(uri: str, path: Path, *, sha256: str | None = None) -> None:
    """Fetch an object into the file `path`, which appears whole or not at all; one caller at a time for one path.

    The bytes gather in a hidden `.partial` file beside it. Where a transfer is cut off, also by the end of the process,
    the next one asks for the rest only, on the condition that the object's ETag is still the same. What came is checked
    against `sha256`, or what `upload` wrote down with the object, and fetched once more if it differs. Raises
    ObjectNotFound, and StorageError for all else.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        for _ in range(2):
            partial, written_down = _fetched(uri, path)
            expected = sha256 or written_down
            if not expected or _sha256(partial) == expected:
                partial.replace(path)
                return
            partial.unlink()
    except OSError as problem:
        raise StorageError(f"{path}: cannot be written ({problem.strerror or problem}); free space there") from problem
    remedy = "ingest the corpus again" if sha256 else "put it there again"
    raise StorageError(f"{uri}: its SHA-256 is not the one that was written down; {remedy}")


def abort_uploads(uri: str) -> int:
    """Throw away the parts of unfinished uploads directly below a prefix, which are paid for and not seen; how many."""
    bucket, key = parse(uri)
    prefix = f"{key}/" if key else ""
    with translate_errors(uri):
        pages = client().get_paginator("list_multipart_uploads").paginate(Bucket=bucket, Prefix=prefix)
        unfinished = [
            found for page in pages for found in page.get("Uploads", ()) if "/" not in found["Key"].removeprefix(prefix)
        ]
        for found in unfinished:
            client().abort_multipart_upload(Bucket=bucket, Key=found["Key"], UploadId=found["UploadId"])
    return len(unfinished)


def _sent(files: Sequence[Upload], *, last: bool) -> list[Upload]:
    """Upload `files`; those that arrived damaged and have to be sent again."""
    if not files:
        return []
    again = []
    with translate_errors(files[0].uri), transfer_manager() as manager:
        futures = {
            manager.upload(str(file.path), *parse(file.uri), extra_args={"Metadata": {"sha256": file.sha256}}): file
            for file in files
        }
        for future, file in futures.items():
            try:
                with translate_errors(file.uri):
                    future.result()
            except StorageError as problem:
                cause = problem.__cause__
                if last or not (isinstance(cause, boto.ClientError) and code_of(cause) in _DAMAGED_ON_THE_WAY):
                    raise
                again.append(file)
    return again + [file for file in files if file not in again and not _arrived(file)]


def _arrived(file: Upload) -> bool:
    bucket, key = parse(file.uri)
    with translate_errors(file.uri):
        found = client().head_object(Bucket=bucket, Key=key)
    return bool(
        found["ContentLength"] == file.path.stat().st_size and found["Metadata"].get("sha256", "") == file.sha256
    )


def _fetched(uri: str, path: Path) -> tuple[Path, str]:
    """The whole object in a file beside `path`, and the SHA-256 that was written down with it, if one was."""
    stalls = 0
    while True:
        before = _gathered(path)
        try:
            return _fetch_rest(uri, path)
        except _ChangedError:
            _remove_partials(path)
            stalls += 1
        except INTERRUPTIONS as problem:
            stalls = 0 if _gathered(path) > before else stalls + 1
            if stalls >= _MAX_STALLS:
                told = f"the transfer breaks off again and again ({type(problem).__name__}); try again later"
                raise StorageError(f"{uri}: {told}, it goes on where it stopped") from problem
        if stalls >= _MAX_STALLS:
            raise StorageError(f"{uri}: changes while it is read; wait until nobody writes there")
        time.sleep(random.uniform(0.0, min(_MAX_WAIT_SECONDS, 0.5 * 2**stalls)))


def _fetch_rest(uri: str, path: Path) -> tuple[Path, str]:
    """Get what the partial file lacks; raises one of INTERRUPTIONS, or _ChangedError."""
    partial = next(iter(_partials(path)), None)
    response = _get(uri, partial)
    if partial is None:
        partial = _partial_of(path, response["ETag"])
    elif _partial_of(path, response["ETag"]) != partial:
        raise _ChangedError
    # A server that does not know ranges sends everything.
    start = int(response["ContentRange"].split()[1].partition("-")[0]) if "ContentRange" in response else 0
    with partial.open("r+b" if partial.exists() else "wb") as file:
        file.seek(start)
        while block := response["Body"].read(_BLOCK_BYTES):
            file.write(block)
        file.truncate()
    return partial, str(response.get("Metadata", {}).get("sha256", ""))


def _get(uri: str, partial: Path | None) -> Any:
    bucket, key = parse(uri)
    # The last byte is asked for again, because a range that begins at the end is refused.
    rest = {"Range": f"bytes={max(0, partial.stat().st_size - 1)}-", "IfMatch": _etag_of(partial)} if partial else {}
    with translate_errors(uri):
        try:
            return client().get_object(Bucket=bucket, Key=key, **rest)
        except boto.ClientError as problem:
            if partial is not None and code_of(problem) in ("PreconditionFailed", "InvalidRange", "412", "416"):
                raise _ChangedError from problem
            raise


def _partial_of(path: Path, etag: str) -> Path:
    """The file in which the object of this ETag gathers."""
    written = quote(etag.strip('"'), safe="").replace(".", "%2E")
    return path.with_name(f".{path.name}.{written}.partial")


def _etag_of(partial: Path) -> str:
    return f'"{unquote(partial.name.removesuffix(".partial").rpartition(".")[2])}"'


def _partials(path: Path) -> list[Path]:
    return [found for found in path.parent.glob(f".{path.name}.*.partial") if found.stat().st_size]


def _gathered(path: Path) -> int:
    return sum(partial.stat().st_size for partial in _partials(path))


def _remove_partials(path: Path) -> None:
    for partial in _partials(path):
        partial.unlink(missing_ok=True)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
