"""What S3 and the way to it can answer, as sentences that say what to do."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

from botocore import exceptions as boto

from cyclesep.errors import ObjectNotFound, StorageError
from cyclesep.storage.s3_client import endpoint

_CREDENTIALS = "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
_REFUSED = f"the credentials are refused; correct {_CREDENTIALS}"
_REGION = "the bucket lies in another region; set AWS_DEFAULT_REGION to it"
_BUSY = "the server goes on failing; try again later: what is finished is kept"

_SENTENCES = {
    "NoSuchBucket": "there is no such bucket; create it or correct the name",
    "NoSuchKey": "there is no such object; correct the location",
    "404": "nothing is known under this name; correct the location, or AWS_ENDPOINT_URL if that is no S3 server",
    "AccessDenied": "access is denied to these credentials; ask for the rights to list, get, put and delete objects",
    "403": "access is denied to these credentials; ask for the rights to list, get, put and delete objects",
    "InvalidAccessKeyId": _REFUSED,
    "SignatureDoesNotMatch": _REFUSED,
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

# What ends a transfer that can go on where it stopped.
INTERRUPTIONS = (
    boto.ConnectionClosedError,
    boto.HTTPClientError,
    boto.IncompleteReadError,
    boto.ReadTimeoutError,
    boto.ResponseStreamingError,
)


@contextmanager
def translate_errors(uri: str) -> Iterator[None]:
    """Turn what boto3 raises in the block into StorageError (ObjectNotFound where only the object is missing)."""
    try:
        yield
    except boto.ClientError as problem:
        code = code_of(problem)
        kind = ObjectNotFound if code == "NoSuchKey" else StorageError
        raise kind(f"{uri}: {_sentence(code, problem)}") from problem
    except (boto.BotoCoreError, boto.HTTPClientError, ValueError) as problem:
        raise StorageError(f"{uri}: {_without_answer(problem)}") from problem


def code_of(problem: boto.ClientError) -> str:
    """S3's own name of an error, such as NoSuchKey, or the HTTP status where the answer had no body."""
    return str(problem.response.get("Error", {}).get("Code", ""))


def _sentence(code: str, problem: boto.ClientError) -> str:
    told = _SENTENCES.get(code)
    if told is not None:
        return f"{told} ({code})"
    message = " ".join(str(problem.response.get("Error", {}).get("Message", "")).split())[:200]
    return f"the server says {code}: {message.rstrip('.')}; correct what it names"


def _without_answer(problem: Exception) -> str:
    if isinstance(problem, boto.NoCredentialsError | boto.PartialCredentialsError | boto.CredentialRetrievalError):
        return f"no credentials were found; set {_CREDENTIALS}, on every machine of the cluster"
    if isinstance(problem, boto.ProfileNotFound):
        return f"{str(problem).rstrip('.')}; correct AWS_PROFILE, or write the profile in ~/.aws/config"
    if isinstance(problem, boto.SSLError):
        return f"the certificate of {_endpoint()} is not trusted; name its authority's file in AWS_CA_BUNDLE"
    if isinstance(problem, boto.ParamValidationError):
        return "S3 takes no such name; correct the location"
    if isinstance(problem, boto.ConnectionError | boto.HTTPClientError):
        told = f"no S3 server answers at {_endpoint()} ({type(problem).__name__})"
        return f"{told}; correct AWS_ENDPOINT_URL or the network"
    # A URL may hold a user and a password.
    told = re.sub(r"//[^/@\s]*@", "//", " ".join(str(problem).split()))[:200].rstrip(".")
    return f"{told}; correct AWS_ENDPOINT_URL and what else is set for boto3"


def _endpoint() -> str:
    """Where requests go, without a user and a password that a URL may hold."""
    url = urlsplit(endpoint() or os.environ.get("AWS_ENDPOINT_URL") or "Amazon")
    return f"{url.scheme}://{url.netloc.rpartition('@')[2]}" if url.netloc else url.path
