"""One writer at a time for a prefix: a lock that is an object, made on the condition that there is none.

S3 knows no locks, but a PUT with `If-None-Match: *` succeeds for one of several who try. Whoever holds the lock writes
it anew every 15 s. One that was not renewed for 90 s, by the server's clock, or whose process on this machine is gone,
counts as left behind by a crash, and is taken over. Deleting the object breaks the lock at once.

Where a server refuses the condition (501, older ones), the lock is written without it and read again a moment later:
two that start within that moment may then both see the other's and both be refused, or, if the server is slow to show
what was written, both go on.
"""

import json
import logging
import os
import threading
import time
import uuid
from contextlib import suppress
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

from botocore import exceptions as boto

from cyclesep.errors import LockHeldError, ObjectNotFound, StorageError
from cyclesep.storage.s3_client import client
from cyclesep.storage.s3_errors import code_of, translate_errors
from cyclesep.storage.uri import parse, process_name

RENEW_SECONDS = 15.0
STALE_SECONDS = 90.0
# What a server without conditions is given to show one writer what another one wrote.
_SETTLE_SECONDS = 1.0
# Between looks at a lock whose owner may be dead.
_LOOK_SECONDS = 2.0

_TAKEN = ("PreconditionFailed", "ConditionalRequestConflict", "412", "409")
_UNKNOWN = ("NotImplemented", "501")


_log = logging.getLogger(__name__)


class S3Lock:
    """A lock object in S3, renewed by a thread of its own while it is held."""

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self._token = uuid.uuid4().hex
        self._since = _now()
        self._ended = threading.Event()
        self._renewed = 0.0
        self._lost = ""

    def acquire(self, *, wait_for_crashed_owner: bool = False) -> None:
        """Take the lock, or take it over from a crashed owner; raises LockHeldError.

        Whether an owner on another machine has crashed shows only when it no longer renews the lock: with
        `wait_for_crashed_owner` this waits until it does, or until the lock is stale.
        """
        with suppress(ObjectNotFound):
            found = LockState(self.uri)
            if wait_for_crashed_owner:
                found = self._last_of(found)
            if not found.is_stale():
                raise found.refusal()
            found.delete()
        self._create()
        self._renewed = time.monotonic()
        threading.Thread(target=self._keep, name="storage-lock", daemon=True).start()

    def _last_of(self, first: "LockState") -> "LockState":
        """The lock when it is stale or was renewed; raises ObjectNotFound when it is given back."""
        found = first
        if not found.is_stale():
            _log.warning("%s: held by %s; waiting for a sign of life", self.uri, found.told())
        while not found.is_stale() and found.etag == first.etag and found.renewed_at == first.renewed_at:
            time.sleep(_LOOK_SECONDS)
            found = LockState(self.uri)
        return found

    def check(self) -> None:
        """Raise StorageError if the lock is no longer surely ours, as before a step that others must not see twice."""
        if time.monotonic() - self._renewed > STALE_SECONDS:
            self._lost = self._lost or f"could not be renewed for {STALE_SECONDS:.0f} s"
        if self._lost or self._found_ours() is None:
            raise StorageError(f"{self.uri}: the lock was lost, it {self._lost}; run the same command again")

    def release(self) -> None:
        """Give the lock back; what cannot be deleted any more is left to go stale."""
        self._ended.set()
        with suppress(StorageError):
            found = LockState(self.uri)
            if found.token == self._token:
                found.delete()

    def _create(self) -> None:
        try:
            with translate_errors(self.uri):
                self._put(IfNoneMatch="*")
        except StorageError as problem:
            code = code_of(problem.__cause__) if isinstance(problem.__cause__, boto.ClientError) else ""
            if code in _UNKNOWN:
                with translate_errors(self.uri):
                    self._put()
                time.sleep(_SETTLE_SECONDS)
            elif code not in _TAKEN:
                raise
        # Also after success: there are servers that pass over the condition.
        found = LockState(self.uri)
        if found.token != self._token:
            raise found.refusal()

    def _put(self, **condition: str) -> None:
        bucket, key = parse(self.uri)
        body = {"token": self._token, "owner": process_name(), "process": _process(os.getpid()), "since": self._since}
        text = json.dumps(body, indent=2) + "\n"
        client().put_object(Bucket=bucket, Key=key, Body=text.encode(), ContentType="application/json", **condition)

    def _keep(self) -> None:
        while not self._ended.wait(RENEW_SECONDS):
            with suppress(StorageError), translate_errors(self.uri):
                found = self._found_ours()
                if found is not None and self._renew(found):
                    self._renewed = time.monotonic()
                if self._ended.is_set():
                    # A release that came between must not leave what this renewal wrote.
                    self.release()

    def _renew(self, found: "LockState") -> bool:
        """Write the lock anew unless somebody has deleted or taken it since it was found."""
        try:
            self._put(IfMatch=found.etag)
        except boto.ClientError as problem:
            if code_of(problem) not in _UNKNOWN:
                # The next look tells what became of it.
                return False
            # Somebody may come in between; `check` and the next renewal notice.
            self._put()
        return True

    def _found_ours(self) -> "LockState | None":
        """The lock as it lies there; None, with the reason noted, if it is no longer ours."""
        try:
            found = LockState(self.uri)
            if found.token == self._token:
                return found
            self._lost = f"is now that of {found.told()}"
        except ObjectNotFound:
            self._lost = "was deleted"
        return None


class LockState:
    """A lock object as it lies there now; raises ObjectNotFound if there is none."""

    def __init__(self, uri: str) -> None:
        self.uri = uri
        bucket, key = parse(uri)
        with translate_errors(uri):
            response = client().get_object(Bucket=bucket, Key=key)
            body = response["Body"].read()
        values: dict[str, Any] = {}
        with suppress(ValueError):
            values = dict(json.loads(body))
        self.token = str(values.get("token", ""))
        self.etag = response["ETag"]
        self.renewed_at = response["LastModified"]
        self._owner = str(values.get("owner", "somebody"))
        self._since = str(values.get("since", "an unknown time"))
        self._process = values.get("process")
        # Both by the server's clock.
        now = response["ResponseMetadata"]["HTTPHeaders"].get("date")
        self._age = (parsedate_to_datetime(now) - response["LastModified"]).total_seconds() if now else 0.0

    def is_stale(self) -> bool:
        return self._age > STALE_SECONDS or _is_gone(self._process)

    def told(self) -> str:
        return f"{self._owner} since {self._since}, last renewed {max(0.0, self._age):.0f} s ago"

    def refusal(self) -> LockHeldError:
        told = f"{self.told()} (if that one hangs, delete {self.uri})"
        return LockHeldError(f"{self.uri}: held by {told}; wait for it", told)

    def delete(self) -> None:
        """Delete this object but not a newer one; what others did meanwhile, `acquire` sees."""
        bucket, key = parse(self.uri)
        with translate_errors(self.uri):
            try:
                client().delete_object(Bucket=bucket, Key=key, IfMatch=self.etag)
            except boto.ClientError as problem:
                if code_of(problem) in _UNKNOWN:
                    client().delete_object(Bucket=bucket, Key=key)
                elif code_of(problem) not in (*_TAKEN, "NoSuchKey", "404"):
                    raise


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def _process(pid: int) -> list[str] | None:
    """What tells a process from all others: this start of this machine, its name space, its number, its start."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        name_space = str(Path("/proc/self/ns/pid").readlink())
        # From field 3 of proc(5) on, after the name, which may hold spaces.
        state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if state in "ZX" else [boot, name_space, str(pid), fields[18]]


def _is_gone(process: Any) -> bool:
    """Whether a process was one of this machine and has ended."""
    here = _process(os.getpid())
    if here is None or not isinstance(process, list) or process[:2] != here[:2] or len(process) != len(here):
        return False
    return str(process[2]).isdigit() and _process(int(process[2])) != process
