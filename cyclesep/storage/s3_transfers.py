"""Uploads and downloads of large files: in parts, with retries; downloads resume after an interruption."""

import hashlib
import random
import shutil
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, unquote

from botocore import exceptions as boto

from cyclesep.errors import StorageError
from cyclesep.storage import s3_objects
from cyclesep.storage.s3_client import client
from cyclesep.storage.s3_errors import INTERRUPTIONS, error_code, translate_errors
from cyclesep.storage.uri import parse

# Size of an upload part, the unit that is sent again after an error; S3 allows 5 MiB to 5 GiB.
PART_BYTES = 16 * 2**20
# Parts of a file, and files, that are uploaded at the same time.
NUM_PARTS, NUM_FILES = 8, 4

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


def upload(files: Sequence[Upload]) -> None:
    """Upload files in parallel, large ones in parts, and check that the objects have the size and hash that were sent.

    Failed requests are retried with growing pauses. An object is replaced atomically. Raises StorageError.
    """
    with ThreadPoolExecutor(NUM_FILES) as pool:
        list(pool.map(_upload, files))


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


def _upload(file: Upload) -> None:
    for _ in range(_MAX_UPLOADS):
        try:
            with translate_errors(file.uri):
                _send(file)
        except StorageError as error:
            if _server_code(error) not in _DAMAGED_IN_TRANSIT:
                raise
            continue
        stored = s3_objects.head(file.uri)
        if stored is not None and (stored.bytes, stored.sha256) == (file.path.stat().st_size, file.sha256):
            return
    raise StorageError(f"{file.uri}: damaged in every upload; check the network and the server")


def _send(file: Upload) -> None:
    # Imported here because boto3 takes a quarter of a second, and local folders do not need it.
    from boto3.exceptions import S3UploadFailedError
    from boto3.s3.transfer import TransferConfig

    config = TransferConfig(
        multipart_threshold=PART_BYTES,
        multipart_chunksize=PART_BYTES,
        max_concurrency=NUM_PARTS,
        preferred_transfer_client="classic",
    )
    bucket, key = parse(file.uri)
    metadata = {"Metadata": {"sha256": file.sha256}}
    try:
        client().upload_file(str(file.path), bucket, key, ExtraArgs=metadata, Config=config)
    except S3UploadFailedError as failed:
        # boto3 raises it in place of the server's error.
        raise failed.__context__ or failed from None


def _fetch(uri: str, path: Path) -> tuple[Path, str]:
    """Download the whole object to a partial file; return the file and the SHA-256 stored with the object, if any."""
    bucket, key = parse(uri)
    stalls = 0
    while True:
        partial = next((file for file in path.parent.glob(f".{path.name}.*.partial") if file.stat().st_size), None)
        num_bytes = partial.stat().st_size if partial else 0
        # The last byte is requested again, because S3 rejects a range that starts at the end.
        start = max(0, num_bytes - 1)
        rest = {"IfMatch": _etag_of(partial), "Range": f"bytes={start}-"} if partial else {}
        try:
            with translate_errors(uri):
                response = client().get_object(Bucket=bucket, Key=key, **rest)
            partial = path.with_name(f".{path.name}.{_escaped(response['ETag'])}.partial")
            # A server without support for ranges sends the whole object.
            with partial.open("r+b" if "ContentRange" in response else "wb") as file:
                file.seek(start if "ContentRange" in response else 0)
                shutil.copyfileobj(response["Body"], file, _BLOCK_BYTES)
            return partial, str(response.get("Metadata", {}).get("sha256", ""))
        except INTERRUPTIONS as error:
            reason = f"the transfer was interrupted repeatedly ({type(error).__name__}); try again later, it resumes"
        except StorageError as error:
            if not partial or _server_code(error) not in ("PreconditionFailed", "InvalidRange", "412", "416"):
                raise
            reason = "changes during the download; wait until no process writes it"
            partial.unlink()
        stalls = 0 if partial and partial.exists() and partial.stat().st_size > num_bytes else stalls + 1
        if stalls >= _MAX_STALLS:
            raise StorageError(f"{uri}: {reason}")
        time.sleep(random.uniform(0.0, min(_MAX_WAIT_SECONDS, 0.5 * 2**stalls)))


def _escaped(etag: str) -> str:
    return quote(etag.strip('"'), safe="").replace(".", "%2E")


def _etag_of(partial: Path) -> str:
    return f'"{unquote(partial.name.removesuffix(".partial").rpartition(".")[2])}"'


def _server_code(error: StorageError) -> str:
    return error_code(error.__cause__) if isinstance(error.__cause__, boto.ClientError) else ""


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
