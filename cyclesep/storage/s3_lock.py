"""An exclusive lock for an S3 prefix: an object that is created only if it does not exist.

S3 has no locks, but of several concurrent PUT requests with `If-None-Match: *` only one succeeds. The owner renews the
lock every 15 s. A lock that was not renewed for 90 s by the server's clock, or whose owner was a process of this
machine that has ended, counts as abandoned and is taken over. Deleting the object breaks the lock.

If a server rejects the condition (501, older servers), the lock is written without it and read again after a moment:
two processes that start within that moment may both see the other's lock and both fail, or, if the server is slow to
show a write, both succeed.
"""

import functools
import json
import logging
import os
import threading
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

from botocore import exceptions as boto

from cyclesep.errors import LockHeldError, ObjectNotFound, StorageError
from cyclesep.storage.s3_client import client
from cyclesep.storage.s3_errors import error_code, translate_errors
from cyclesep.storage.uri import parse, process_name

RENEW_SECONDS = 15.0
STALE_SECONDS = 90.0
# How long a server without conditional writes may take to show one writer what another one wrote.
_SETTLE_SECONDS = 1.0
# Interval for polling a lock whose owner may have crashed.
_POLL_SECONDS = 2.0

_CONDITION_FAILED = ("PreconditionFailed", "ConditionalRequestConflict", "412", "409")
_NOT_IMPLEMENTED = ("NotImplemented", "501")

_log = logging.getLogger(__name__)


class S3Lock:
    """A lock object in S3, renewed by a background thread while it is held."""

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self._token = uuid.uuid4().hex
        self._since = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        self._released = threading.Event()
        self._renewed = 0.0
        self._lost = ""

    def acquire(self) -> None:
        """Acquire the lock, or take it over from a crashed owner; raise LockHeldError if it is held.

        A crash on another machine is recognized only by a missing renewal, so this waits until the lock is renewed or
        stale.
        """
        with suppress(ObjectNotFound):
            state = first = LockState(self.uri)
            while not state.is_stale():
                if state.is_owner_running or (state.etag, state.renewed_at) != (first.etag, first.renewed_at):
                    raise state.held_error()
                if state is first:
                    _log.warning("%s: held by %s; waiting for its next renewal", self.uri, state.owner())
                time.sleep(_POLL_SECONDS)
                state = LockState(self.uri)
            state.delete()
        self._create()
        self._renewed = time.monotonic()
        threading.Thread(target=self._renew_until_released, name="s3-lock", daemon=True).start()

    def check(self) -> None:
        """Raise StorageError unless this lock is certainly still held; call before a step that must not run twice."""
        if time.monotonic() - self._renewed > STALE_SECONDS:
            self._lost = self._lost or f"could not be renewed for {STALE_SECONDS:.0f} s"
        if self._lost or self._own_state() is None:
            raise StorageError(f"{self.uri}: the lock was lost, it {self._lost}; run the same command again")

    def release(self) -> None:
        """Release the lock; if it cannot be deleted, it becomes stale."""
        self._released.set()
        with suppress(StorageError):
            state = LockState(self.uri)
            if state.token == self._token:
                state.delete()

    def _create(self) -> None:
        with translate_errors(self.uri):
            try:
                if not self._put(IfNoneMatch="*"):
                    time.sleep(_SETTLE_SECONDS)
            except boto.ClientError as error:
                if error_code(error) not in _CONDITION_FAILED:
                    raise
        # Checked after success too, because some servers ignore the condition.
        state = LockState(self.uri)
        if state.token != self._token:
            raise state.held_error()

    def _put(self, **condition: str) -> bool:
        """Write the lock object; return whether the server supports the condition."""
        bucket, key = parse(self.uri)
        body = {
            "token": self._token,
            "owner": process_name(),
            "process": _process_identity(os.getpid()),
            "since": self._since,
        }
        text = json.dumps(body, indent=2) + "\n"
        put = functools.partial(
            client().put_object, Bucket=bucket, Key=key, Body=text.encode(), ContentType="application/json"
        )
        return _send_if(put, **condition)

    def _renew_until_released(self) -> None:
        while not self._released.wait(RENEW_SECONDS):
            # After an error, the next renewal or `check` finds out what happened.
            with suppress(StorageError), translate_errors(self.uri):
                state = self._own_state()
                if state is not None:
                    self._put(IfMatch=state.etag)
                    self._renewed = time.monotonic()
                if self._released.is_set():
                    # Delete what this renewal wrote after a concurrent release.
                    self.release()

    def _own_state(self) -> "LockState | None":
        """Return the current lock; None if it is no longer ours, with the reason in `_lost`."""
        try:
            state = LockState(self.uri)
            if state.token == self._token:
                return state
            self._lost = f"is now held by {state.owner()}"
        except ObjectNotFound:
            self._lost = "was deleted"
        return None


class LockState:
    """The current content of a lock object; raises ObjectNotFound if it does not exist."""

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
        self.is_owner_running = _is_running(values.get("process"))
        """None if the owner ran on another machine."""
        self._owner = str(values.get("owner", "an unknown process"))
        self._since = str(values.get("since", "an unknown time"))
        # Both times are by the server's clock.
        now = response["ResponseMetadata"]["HTTPHeaders"].get("date")
        self._age = (parsedate_to_datetime(now) - response["LastModified"]).total_seconds() if now else 0.0

    def is_stale(self) -> bool:
        return self._age > STALE_SECONDS or self.is_owner_running is False

    def owner(self) -> str:
        return f"{self._owner} since {self._since}, last renewed {max(0.0, self._age):.0f} s ago"

    def held_error(self) -> LockHeldError:
        owner = f"{self.owner()} (if it hangs, delete {self.uri})"
        return LockHeldError(f"{self.uri}: locked by {owner}; wait until it ends", owner)

    def delete(self) -> None:
        """Delete this object but not a newer one; `acquire` detects concurrent changes."""
        bucket, key = parse(self.uri)
        with translate_errors(self.uri):
            try:
                _send_if(functools.partial(client().delete_object, Bucket=bucket, Key=key), IfMatch=self.etag)
            except boto.ClientError as error:
                if error_code(error) not in (*_CONDITION_FAILED, "NoSuchKey", "404"):
                    raise


def _send_if(request: Callable[..., object], **condition: str) -> bool:
    """Send a request with a condition; if the server does not implement it, send it without, and return False."""
    try:
        request(**condition)
    except boto.ClientError as error:
        if error_code(error) not in _NOT_IMPLEMENTED:
            raise
        request()
        return False
    return True


def _process_identity(pid: int) -> list[str] | None:
    """Return what identifies a process uniquely: boot ID, PID namespace, PID and start time; None if it has ended."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        name_space = str(Path("/proc/self/ns/pid").readlink())
        # Fields from the third on, see proc(5); the second is the command name, which may contain spaces.
        state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if state in "ZX" else [boot, name_space, str(pid), fields[18]]


def _is_running(process: Any) -> bool | None:
    """Return whether a process of this machine is running; None if it ran on another machine."""
    own = _process_identity(os.getpid())
    if own is None or not isinstance(process, list) or process[:2] != own[:2] or len(process) != len(own):
        return None
    return _process_identity(int(process[2])) == process if str(process[2]).isdigit() else None
