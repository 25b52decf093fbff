"""Files in S3, and in whatever speaks its protocol: the one place of this library that talks to a bucket.

Endpoint, region, profile and credentials come from where boto3 looks for them (AWS_ENDPOINT_URL, AWS_DEFAULT_REGION,
AWS_PROFILE, AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, ~/.aws, the machine's role). They are never kept, logged or
pickled: each process asks boto3 anew. All functions take `s3://bucket/key` and raise StorageError, which names it, says
what happened and what to do.
"""

from cyclesep.storage.download_cache import copied
from cyclesep.storage.locks import LockHeldError, StorageLock, this_process
from cyclesep.storage.objects import delete, folders, listed, look, read_text, sizes, write_text
from cyclesep.storage.s3_errors import ObjectNotFound
from cyclesep.storage.transfers import Upload, abort_uploads, download, upload
from cyclesep.storage.uri import absolute, is_remote, join, shown

__all__ = [
    "LockHeldError",
    "ObjectNotFound",
    "StorageLock",
    "Upload",
    "abort_uploads",
    "absolute",
    "copied",
    "delete",
    "download",
    "folders",
    "is_remote",
    "join",
    "listed",
    "look",
    "read_text",
    "shown",
    "sizes",
    "this_process",
    "upload",
    "write_text",
]
