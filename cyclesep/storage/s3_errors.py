"""S3 and network errors as one-line messages with a remedy."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

from botocore import exceptions as boto

from cyclesep.errors import ObjectNotFound, StorageError
from cyclesep.storage.s3_client import endpoint

_CREDENTIALS = "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
_REJECTED = f"the credentials are rejected; correct {_CREDENTIALS}"
_REGION = "the bucket is in another region; set AWS_DEFAULT_REGION to it"
_BUSY = "the server keeps failing; try again later: finished work is kept"
_DENIED = "access denied; ask for permission to list, get, put and delete objects"

_MESSAGES = {
    "NoSuchBucket": "bucket not found; create it or correct the name",
    "NoSuchKey": "object not found; correct the location",
    "404": "not found; correct the location, or AWS_ENDPOINT_URL if that is not an S3 server",
    "AccessDenied": _DENIED,
    "403": _DENIED,
    "InvalidAccessKeyId": _REJECTED,
    "SignatureDoesNotMatch": _REJECTED,
    "ExpiredToken": "the session token has expired; get new credentials",
    "RequestTimeTooSkewed": "the clocks of this machine and of the server differ too much; set this machine's clock",
    "PermanentRedirect": _REGION,
    "AuthorizationHeaderMalformed": _REGION,
    "301": _REGION,
    "SlowDown": _BUSY,
    "ServiceUnavailable": _BUSY,
    "InternalError": _BUSY,
    "500": _BUSY,
    "502": _BUSY,
    "503": _BUSY,
    "504": _BUSY,
}

# Errors that end a transfer which can be resumed.
INTERRUPTIONS = (
    boto.ConnectionClosedError,
    boto.HTTPClientError,
    boto.IncompleteReadError,
    boto.ReadTimeoutError,
    boto.ResponseStreamingError,
)


@contextmanager
def translate_errors(uri: str) -> Iterator[None]:
    """Turn boto3's errors in the block into StorageError, or ObjectNotFound if only the object is missing."""
    try:
        yield
    except boto.ClientError as error:
        code = error_code(error)
        kind = ObjectNotFound if code == "NoSuchKey" else StorageError
        raise kind(f"{uri}: {_server_message(code, error)}") from error
    except (boto.BotoCoreError, boto.HTTPClientError, ValueError) as error:
        raise StorageError(f"{uri}: {_client_message(error)}") from error


def error_code(error: boto.ClientError) -> str:
    """Return S3's code of an error, such as NoSuchKey, or the HTTP status if the response had no body."""
    return str(error.response.get("Error", {}).get("Code", ""))


def _server_message(code: str, error: boto.ClientError) -> str:
    message = _MESSAGES.get(code)
    if message is not None:
        return f"{message} ({code})"
    message = " ".join(str(error.response.get("Error", {}).get("Message", "")).split())[:200]
    return f"the server returned {code}: {message.rstrip('.')}; correct the cause"


def _client_message(error: Exception) -> str:
    """Return the message for an error without a response from the server."""
    if isinstance(error, boto.NoCredentialsError | boto.PartialCredentialsError | boto.CredentialRetrievalError):
        return f"no credentials found; set {_CREDENTIALS}, on every machine of the cluster"
    if isinstance(error, boto.ProfileNotFound):
        return f"{str(error).rstrip('.')}; correct AWS_PROFILE, or add the profile to ~/.aws/config"
    if isinstance(error, boto.SSLError):
        return f"the certificate of {_endpoint()} is not trusted; set AWS_CA_BUNDLE to its authority's certificate file"
    if isinstance(error, boto.ParamValidationError):
        return "invalid name for S3; correct the location"
    if isinstance(error, boto.ConnectionError | boto.HTTPClientError):
        message = f"no S3 server answers at {_endpoint()} ({type(error).__name__})"
        return f"{message}; correct AWS_ENDPOINT_URL or the network"
    # Remove a user name and password from a URL.
    message = re.sub(r"//[^/@\s]*@", "//", " ".join(str(error).split()))[:200].rstrip(".")
    return f"{message}; correct AWS_ENDPOINT_URL and the other settings of boto3"


def _endpoint() -> str:
    """Return the server's URL without user name and password."""
    url = urlsplit(endpoint() or os.environ.get("AWS_ENDPOINT_URL") or "Amazon")
    return f"{url.scheme}://{url.netloc.rpartition('@')[2]}" if url.netloc else url.path
