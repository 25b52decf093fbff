"""The connection to a Ray head: its address and token, and one sentence for each way in which it can refuse."""

import logging
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import requests
from ray.exceptions import AuthenticationError
from ray.job_submission import JobSubmissionClient
from typing_extensions import override

from cyclesep.errors import ClusterError, ConfigError

ADDRESS_VARIABLE = "RAY_ADDRESS"
# To connect, and between two bytes of an answer; to upload takes a head some seconds.
_TIMEOUT_SECONDS = (10.0, 120.0)
# A head that has just started answers before it can run a job.
_STARTING_SECONDS = 60.0
_STARTING = ("No available agent", "status code 503")

_Answer = TypeVar("_Answer")


class Client(JobSubmissionClient):  # type: ignore[misc]
    """Ray's own client of the jobs of one cluster, which gives up where the network does."""

    def __init__(self, address: str) -> None:
        self.url = _url(address)
        with _address(self.url), explained(self.url):
            super().__init__(self.url, headers=_token_header())

    @override
    def _do_request(self, method: str, endpoint: str, **options: Any) -> requests.Response:
        response: requests.Response = super()._do_request(method, endpoint, timeout=_TIMEOUT_SECONDS, **options)
        return response


def connect(address: str | None) -> Client:
    """The cluster at `address`, or at RAY_ADDRESS.

    Raises ConfigError if neither is given, ClusterError if no head answers or it refuses the token.
    """
    for name in ("ray.dashboard.modules.dashboard_sdk", "ray.dashboard.modules.job.sdk"):
        # What they tell of uploads is told here in one line.
        logging.getLogger(name).setLevel(logging.WARNING)
    address = address or os.environ.get("RAY_API_SERVER_ADDRESS") or os.environ.get(ADDRESS_VARIABLE)
    if not address:
        raise ConfigError(
            f"no cluster is named; set {ADDRESS_VARIABLE} or give --address, as in --address http://HOST:8265 "
            "(without `submit` the job runs on this machine)"
        )
    return Client(address)


@contextmanager
def explained(address: str, job_id: str = "") -> Iterator[None]:
    """Turn what Ray's client raises in the block into ClusterError; its message names the head and no secret."""
    try:
        yield
    except (ConnectionError, requests.ConnectionError, requests.Timeout) as problem:
        raise ClusterError(
            f"{address}: no Ray head answers there; start one (ray start --head), forward its port "
            f"(kubectl port-forward, ssh -L), or correct {ADDRESS_VARIABLE}"
        ) from problem
    except AuthenticationError as problem:
        raise ClusterError(f"{address}: {_refused_token(str(problem))}") from problem
    except (requests.RequestException, RuntimeError, ValueError, KeyError) as problem:
        raise ClusterError(f"{address}: {_sentence(str(problem), job_id)}") from problem


def once_started(action: Callable[[], _Answer]) -> _Answer:
    """The answer of `action`, asked again for a minute while the head says that it is only starting."""
    until = time.monotonic() + _STARTING_SECONDS
    while True:
        try:
            return action()
        except RuntimeError as problem:
            if not any(sign in str(problem) for sign in _STARTING) or time.monotonic() > until:
                raise
        time.sleep(1.0)


def _url(address: str) -> str:
    """The head's URL; `auto` and ray:// stay what they are for Ray to look up."""
    if address == "auto" or address.startswith("ray://"):
        return address
    try:
        url = urlsplit(address if "://" in address else f"http://{address}")
        _ = url.port
    except ValueError as problem:
        raise ConfigError(
            f"{ADDRESS_VARIABLE}: {address!r} is no address ({problem}); give http://HOST:8265"
        ) from problem
    if url.scheme not in ("http", "https") or not url.hostname:
        raise ConfigError(f"{ADDRESS_VARIABLE}: {url.scheme}:// leads to no Ray head; give http://HOST:8265")
    if url.username or url.password:
        raise ConfigError(f"{ADDRESS_VARIABLE}: holds a user or password; give the token in RAY_AUTH_TOKEN instead")
    return f"{url.scheme}://{url.netloc}{url.path.rstrip('/')}"


@contextmanager
def _address(url: str) -> Iterator[None]:
    """Ray takes what these variables say over the address that it is given."""
    names = ("RAY_API_SERVER_ADDRESS", ADDRESS_VARIABLE)
    before = {name: os.environ.pop(name) for name in names if name in os.environ}
    os.environ["RAY_API_SERVER_ADDRESS"] = url
    try:
        yield
    finally:
        os.environ.pop("RAY_API_SERVER_ADDRESS")
        os.environ.update(before)


def _token_header() -> dict[str, str]:
    """The token that this shell has for Ray clusters, from where Ray itself looks; its core reads it only once."""
    mode = os.environ.get("RAY_AUTH_MODE", "").lower()
    if mode not in ("", "token"):
        return {}
    token = os.environ.get("RAY_AUTH_TOKEN", "").strip() or _token_file()
    if not token and mode == "token":
        raise ConfigError("RAY_AUTH_MODE=token and there is no token; set RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH")
    return {"Authorization": f"Bearer {token}"} if token else {}


def _token_file() -> str:
    named = os.environ.get("RAY_AUTH_TOKEN_PATH")
    path = Path(named) if named else Path("~/.ray/auth_token").expanduser()
    try:
        return path.read_text().strip()
    except OSError as problem:
        if named:
            raise ConfigError(f"RAY_AUTH_TOKEN_PATH={named}: cannot be read ({problem.strerror})") from problem
        return ""


def _refused_token(told: str) -> str:
    if "failed" in told.partition("\n")[0]:
        return "the token is not that of this cluster (403); correct RAY_AUTH_TOKEN or the file it comes from"
    return "the cluster asks for a token (401); set RAY_AUTH_TOKEN (and RAY_AUTH_MODE=token) to the one it started with"


def _sentence(told: str, job_id: str) -> str:
    if "413" in told and "body size" in told:
        return "what travels with the job is too large for it (413); name large files in .gitignore"
    if "does not exist" in told or ("status code 404" in told and job_id):
        return f"there is no job {job_id!r}; `cyclesep submit list` shows those that there are"
    if "returned 404" in told or "Expecting value" in told or "ray_version" in told:
        return "answers, and is no Ray head; give the address of its dashboard, http://HOST:8265"
    return f"Ray refuses: {re.sub(r'[Bb]earer [^ ]+', 'Bearer ...', ' '.join(told.split()))[:300]}"
