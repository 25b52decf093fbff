"""Uploads and downloads of large files: parallel, in parts, with retries; downloads resume after an interruption."""

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
from cyclesep.storage.s3_errors import INTERRUPTIONS, error_code, translate_errors
from cyclesep.storage.uri import parse

_BLOCK_BYTES = 2**20
# A download fails after this many successive interruptions without a new byte.
_MAX_STALLS = 6
_MAX_WAIT_SECONDS = 20.0
_MAX_UPLOADS = 3
# S3's error codes for a body that was damaged in transit.
_DAMAGED_IN_TRANSIT = {"BadDigest", "IncompleteBody", "XAmzContentSHA256Mismatch", "XAmzContentChecksumMismatch"}


@dataclass(frozen=True, kw_only=True)
class Upload:
    """A local file and the object to upload it to."""

    path: Path
    uri: str
    sha256: str
    """SHA-256 of the file, stored as metadata of the object."""

    @classmethod
    def of(cls, path: Path, uri: str) -> "Upload":
        """Return the upload of a file with its current content."""
        return cls(path=path, uri=uri, sha256=_sha256(path))


class _ChangedError(Exception):
    """The object changed since the download began."""


def upload(files: Sequence[Upload]) -> None:
    """Upload files in parallel, large ones in parts, and check that the objects have the size and hash that were sent.

    Failed requests are retried with growing pauses. An object is replaced atomically. Raises StorageError.
    """
    for file in files:
        parse(file.uri)
    for attempt in range(1, _MAX_UPLOADS + 1):
        files = _send(files, last=attempt == _MAX_UPLOADS)
    for file in files:
        raise StorageError(f"{file.uri}: damaged in every upload; check the network and the server")


def download(uri: str, path: Path, *, sha256: str | None = None) -> None:
    """Download an object to the file `path`, which is created atomically; not safe for concurrent calls for one path.

    Data is written to a hidden `.partial` file in the same folder. After an interruption, even the end of the process,
    the next call requests only the rest, provided that the object's ETag is unchanged. The result is checked against
    `sha256`, or the hash that `upload` stored, and downloaded once more if it differs. Raises ObjectNotFound, or
    StorageError for all other problems.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        for _ in range(2):
            partial, stored = _fetch(uri, path)
            expected = sha256 or stored
            if not expected or _sha256(partial) == expected:
                partial.replace(path)
                return
            partial.unlink()
    except OSError as error:
        raise StorageError(f"{path}: cannot be written ({error.strerror or error}); free space there") from error
    remedy = "ingest the corpus again" if sha256 else "upload it again"
    raise StorageError(f"{uri}: SHA-256 mismatch; {remedy}")


def abort_uploads(uri: str) -> int:
    """Delete the parts of unfinished uploads directly below a prefix, which cost money but are not listed.

    Returns the number of aborted uploads.
    """
    bucket, key = parse(uri)
    prefix = f"{key}/" if key else ""
    with translate_errors(uri):
        pages = client().get_paginator("list_multipart_uploads").paginate(Bucket=bucket, Prefix=prefix)
        unfinished = [
            entry for page in pages for entry in page.get("Uploads", ()) if "/" not in entry["Key"].removeprefix(prefix)
        ]
        for entry in unfinished:
            client().abort_multipart_upload(Bucket=bucket, Key=entry["Key"], UploadId=entry["UploadId"])
    return len(unfinished)


def _send(files: Sequence[Upload], *, last: bool) -> list[Upload]:
    """Upload `files` and return those that were damaged in transit and must be sent again."""
    if not files:
        return []
    damaged = []
    with translate_errors(files[0].uri), transfer_manager() as manager:
        futures = {
            manager.upload(str(file.path), *parse(file.uri), extra_args={"Metadata": {"sha256": file.sha256}}): file
            for file in files
        }
        for future, file in futures.items():
            try:
                with translate_errors(file.uri):
                    future.result()
            except StorageError as error:
                cause = error.__cause__
                if last or not (isinstance(cause, boto.ClientError) and error_code(cause) in _DAMAGED_IN_TRANSIT):
                    raise
                damaged.append(file)
    return damaged + [file for file in files if file not in damaged and not _is_complete(file)]


def _is_complete(file: Upload) -> bool:
    bucket, key = parse(file.uri)
    with translate_errors(file.uri):
        response = client().head_object(Bucket=bucket, Key=key)
    return bool(
        response["ContentLength"] == file.path.stat().st_size and response["Metadata"].get("sha256", "") == file.sha256
    )


def _fetch(uri: str, path: Path) -> tuple[Path, str]:
    """Download the whole object to a partial file; return the file and the SHA-256 stored with the object, if any."""
    stalls = 0
    while True:
        before = _num_bytes_fetched(path)
        try:
            return _fetch_rest(uri, path)
        except _ChangedError:
            _remove_partials(path)
            stalls += 1
        except INTERRUPTIONS as error:
            stalls = 0 if _num_bytes_fetched(path) > before else stalls + 1
            if stalls >= _MAX_STALLS:
                reason = f"the transfer was interrupted repeatedly ({type(error).__name__}); try again later"
                raise StorageError(f"{uri}: {reason}, it resumes where it stopped") from error
        if stalls >= _MAX_STALLS:
            raise StorageError(f"{uri}: changes during the download; wait until no process writes it")
        time.sleep(random.uniform(0.0, min(_MAX_WAIT_SECONDS, 0.5 * 2**stalls)))


def _fetch_rest(uri: str, path: Path) -> tuple[Path, str]:
    """Download what the partial file lacks; raises one of INTERRUPTIONS, or _ChangedError."""
    partial = next(iter(_partials(path)), None)
    response = _get(uri, partial)
    if partial is None:
        partial = _partial_path(path, response["ETag"])
    elif _partial_path(path, response["ETag"]) != partial:
        raise _ChangedError
    # A server without support for ranges sends the whole object.
    start = int(response["ContentRange"].split()[1].partition("-")[0]) if "ContentRange" in response else 0
    with partial.open("r+b" if partial.exists() else "wb") as file:
        file.seek(start)
        while block := response["Body"].read(_BLOCK_BYTES):
            file.write(block)
        file.truncate()
    return partial, str(response.get("Metadata", {}).get("sha256", ""))


def _get(uri: str, partial: Path | None) -> Any:
    bucket, key = parse(uri)
    # Request the last byte again, because S3 rejects a range that starts at the end.
    rest = {"Range": f"bytes={max(0, partial.stat().st_size - 1)}-", "IfMatch": _etag_of(partial)} if partial else {}
    with translate_errors(uri):
        try:
            return client().get_object(Bucket=bucket, Key=key, **rest)
        except boto.ClientError as error:
            if partial is not None and error_code(error) in ("PreconditionFailed", "InvalidRange", "412", "416"):
                raise _ChangedError from error
            raise


def _partial_path(path: Path, etag: str) -> Path:
    """Return the partial file for the object with this ETag."""
    escaped = quote(etag.strip('"'), safe="").replace(".", "%2E")
    return path.with_name(f".{path.name}.{escaped}.partial")


def _etag_of(partial: Path) -> str:
    return f'"{unquote(partial.name.removesuffix(".partial").rpartition(".")[2])}"'


def _partials(path: Path) -> list[Path]:
    return [partial for partial in path.parent.glob(f".{path.name}.*.partial") if partial.stat().st_size]


def _num_bytes_fetched(path: Path) -> int:
    return sum(partial.stat().st_size for partial in _partials(path))


def _remove_partials(path: Path) -> None:
    for partial in _partials(path):
        partial.unlink(missing_ok=True)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
