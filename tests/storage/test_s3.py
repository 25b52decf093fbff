"""S3 objects, transfers and locks against a real server, with injected faults."""

import concurrent.futures
import hashlib
import io
import logging
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from cluster.local.ports import free_ports
from cyclesep.errors import LockHeldError, ObjectNotFound, StorageError
from cyclesep.storage import s3_lock, s3_objects, s3_transfers
from cyclesep.storage.s3_lock import S3Lock
from cyclesep.storage.s3_transfers import Upload, abort_uploads, download, upload
from cyclesep.storage.uri import parse
from tests.support.fault_proxy import Fault

MIB = 2**20


def write(path: Path, num_bytes: int, seed: int = 0) -> Upload:
    """Write a file of noise; the returned upload has no URI yet."""
    content = b"".join(hashlib.sha256(f"{seed} {n}".encode()).digest() for n in range(-(-num_bytes // 32)))[:num_bytes]
    path.write_bytes(content)
    return Upload(path=path, uri="", sha256=hashlib.sha256(content).hexdigest())


def put(prefix: str, path: Path, num_bytes: int, seed: int = 0) -> Upload:
    """Write and upload a file of noise."""
    file = write(path, num_bytes, seed)
    uploaded = Upload(path=path, uri=f"{prefix}/{path.name}", sha256=file.sha256)
    upload([uploaded])
    return uploaded


# Small objects


def test_objects_are_written_read_listed_and_deleted(prefix):
    s3_objects.write_text(f"{prefix}/one", "eins\n")
    s3_objects.write_text(f"{prefix}/two", "zwölf")
    s3_objects.write_text(f"{prefix}/deep/three", "3")
    assert s3_objects.read_text(f"{prefix}/two") == "zwölf"
    assert s3_objects.sizes(prefix) == {"one": 5, "two": 6}
    s3_objects.delete(prefix, ["one", "absent"])
    assert s3_objects.sizes(prefix) == {"two": 6}
    with pytest.raises(ObjectNotFound, match=f"{prefix}/one: object not found"):
        s3_objects.read_text(f"{prefix}/one")


@pytest.mark.parametrize(
    "fault",
    [
        Fault("status", value=500, times=2),
        Fault("status", value=503, times=2),
        Fault("reset", times=2),
        Fault("cut", value=3, times=2),
    ],
    ids=lambda fault: f"{fault.kind}-{fault.value}",
)
def test_a_read_survives_errors_throttling_resets_and_truncated_bodies(s3, prefix, fault):
    s3_objects.write_text(f"{prefix}/a", "text")
    with s3.proxy.injecting(fault):
        assert s3_objects.read_text(f"{prefix}/a") == "text"
    assert len(s3.proxy.seen("GET", "/a")) == 3


# Uploads


def test_a_large_file_is_uploaded_in_parts_with_its_hash(s3, prefix, tmp_path, monkeypatch):
    monkeypatch.setattr(s3_transfers, "PART_BYTES", 5 * MIB)
    large, small = write(tmp_path / "large", 11 * MIB), write(tmp_path / "small", 1000, seed=1)
    named = [Upload(path=file.path, uri=f"{prefix}/{file.path.name}", sha256=file.sha256) for file in (large, small)]
    upload(named)
    parts = [request.target.partition("partNumber=")[2][:1] for request in s3.proxy.seen("PUT", "/large")]
    assert sorted(parts) == ["1", "2", "3"]
    assert len(s3.proxy.seen("PUT", "/small")) == 1
    for file in named:
        bucket, key = parse(file.uri)
        assert s3.client().head_object(Bucket=bucket, Key=key)["Metadata"] == {"sha256": file.sha256}
        download(file.uri, tmp_path / "back", sha256=file.sha256)
        assert (tmp_path / "back").read_bytes() == file.path.read_bytes()


@pytest.mark.parametrize(
    "fault",
    [Fault("status", "PUT", value=503, times=2), Fault("reset", "PUT", times=2), Fault("flip-sent", "PUT", value=700)],
    ids=lambda fault: fault.kind,
)
def test_an_upload_survives_throttling_resets_and_damage_in_transit(s3, prefix, tmp_path, fault):
    with s3.proxy.injecting(fault):
        file = put(prefix, tmp_path / "a", 1000)
    assert fault.done == fault.times
    download(file.uri, tmp_path / "back", sha256=file.sha256)


def test_a_failed_upload_is_an_error_and_its_parts_are_removed(s3, prefix, tmp_path, monkeypatch):
    monkeypatch.setattr(s3_transfers, "PART_BYTES", 5 * MIB)
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "2")
    s3.configure()
    with (
        s3.proxy.injecting(Fault("status", "PUT", "partNumber=2", times=99, value=503)),
        pytest.raises(StorageError, match=r"/a: the server keeps failing; try again later.* \(SlowDown\)"),
    ):
        put(prefix, tmp_path / "a", 6 * MIB)
    assert s3_objects.sizes(prefix) == {}
    assert abort_uploads(prefix) == 0


def test_abort_uploads_removes_parts_directly_below_a_prefix_only(s3, prefix):
    bucket, key = parse(prefix)
    for name in ("killed", "deep/running"):
        s3.client().create_multipart_upload(Bucket=bucket, Key=f"{key}/{name}")
    assert abort_uploads(prefix) == 1
    assert abort_uploads(f"{prefix}/deep") == 1


# Downloads


def test_an_interrupted_download_resumes_where_it_stopped(s3, prefix, tmp_path):
    file = put(prefix, tmp_path / "a", 3 * MIB)
    with s3.proxy.injecting(Fault("cut", contains="/a", value=2 * MIB + 17, times=1)):
        download(file.uri, tmp_path / "back", sha256=file.sha256)
    first, second = s3.proxy.seen("GET", "/a")
    assert "range" not in first.headers
    # The last byte is requested again, because S3 rejects a range that starts at the end.
    assert second.headers["range"] == f"bytes={2 * MIB + 16}-"
    assert (tmp_path / "back").read_bytes() == file.path.read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "back"]


def test_a_download_resumes_after_its_process_was_killed(s3, prefix, tmp_path):
    file = put(prefix, tmp_path / "a", 3 * MIB)
    script = "import sys; from pathlib import Path; from cyclesep.storage.s3_transfers import download; "
    script += "download(sys.argv[1], Path(sys.argv[2]))"
    release = threading.Event()
    cut, hold = Fault("cut", contains="/a", value=MIB), Fault("hold", contains="/a", value=release)
    with s3.proxy.injecting(cut, hold):
        process = subprocess.Popen([sys.executable, "-c", script, file.uri, str(tmp_path / "back")])
        while not hold.done:
            assert process.poll() is None
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
        process.wait()
        release.set()
    (partial,) = tmp_path.glob(".back.*.partial")
    assert partial.stat().st_size == MIB
    s3.proxy.clear()
    download(file.uri, tmp_path / "back", sha256=file.sha256)
    (request,) = s3.proxy.seen("GET", "/a")
    assert request.headers["range"] == f"bytes={MIB - 1}-"


def test_an_object_that_changed_is_downloaded_from_the_start(s3, prefix, tmp_path):
    file = put(prefix, tmp_path / "a", MIB)
    etag = s3.client().head_object(Bucket="tests", Key=parse(file.uri).key)["ETag"]
    partial = tmp_path / f".back.{s3_transfers._escaped(etag)}.partial"
    partial.write_bytes(file.path.read_bytes()[:1000])
    changed = put(prefix, tmp_path / "a", MIB, seed=1)
    download(changed.uri, tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == changed.path.read_bytes()
    conditional, restarted = s3.proxy.seen("GET", "/a")
    assert conditional.headers["range"] == "bytes=999-"
    assert "range" not in restarted.headers
    assert not partial.exists()


def test_a_download_restarts_when_its_object_changes(s3, prefix, tmp_path, monkeypatch):
    file = put(prefix, tmp_path / "a", MIB)
    pause = SimpleNamespace(sleep=lambda _: put(prefix, tmp_path / "a", MIB, seed=1))
    monkeypatch.setattr(s3_transfers, "time", pause)
    with s3.proxy.injecting(Fault("cut", contains="/a", value=1000)):
        download(file.uri, tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == (tmp_path / "a").read_bytes() != b""
    ranges = [request.headers.get("range") for request in s3.proxy.seen("GET", "/a")]
    assert ranges == [None, "bytes=999-", None]


def test_a_damaged_download_is_retried_once_and_then_an_error(s3, prefix, tmp_path):
    file = put(prefix, tmp_path / "a", 10_000)
    with s3.proxy.injecting(Fault("flip", contains="/a", value=5000)):
        download(file.uri, tmp_path / "back", sha256=file.sha256)
    assert (tmp_path / "back").read_bytes() == file.path.read_bytes()
    (tmp_path / "back").unlink()
    with (
        s3.proxy.injecting(Fault("flip", contains="/a", value=5000, times=9)),
        pytest.raises(StorageError, match="SHA-256 mismatch"),
    ):
        download(file.uri, tmp_path / "back", sha256=file.sha256)
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_download_without_progress_fails_and_can_be_resumed(s3, prefix, tmp_path, monkeypatch):
    monkeypatch.setattr(s3_transfers, "_MAX_WAIT_SECONDS", 0.0)
    file = put(prefix, tmp_path / "a", 1000)
    with (
        s3.proxy.injecting(Fault("cut", contains="/a", value=1, times=99)),
        pytest.raises(StorageError, match="was interrupted repeatedly"),
    ):
        download(file.uri, tmp_path / "back")
    download(file.uri, tmp_path / "back", sha256=file.sha256)


def test_a_target_that_cannot_be_written_is_an_error(prefix, tmp_path):
    file = put(prefix, tmp_path / "a", 1000)
    (tmp_path / "no-folder").write_text("")
    with pytest.raises(StorageError, match="no-folder/back: cannot be written"):
        download(file.uri, tmp_path / "no-folder" / "back")


# Errors


def test_errors_are_one_line_with_a_remedy_and_without_a_secret(s3, prefix, monkeypatch):
    def message(uri: str = f"{prefix}/a", **configuration) -> str:
        s3.configure(**configuration)
        with pytest.raises(StorageError) as error:
            s3_objects.read_text(uri)
        text = f"{error.value}{error.value.__cause__!r}{pickle.dumps(error.value)!r}"
        assert not any(secret in text for secret in (s3.server.secret_key, "not-the-secret"))
        assert "\n" not in str(error.value)
        return str(error.value)

    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    s3_objects.write_text(f"{prefix}/a", "a")
    assert message("s3://nowhere/a").startswith("s3://nowhere/a: bucket not found; create it or correct the name")
    assert "the credentials are rejected; correct AWS_ACCESS_KEY_ID" in message(secret_key="not-the-secret")
    assert "access denied; ask for permission" in message(access_key=s3.server.other_key)
    (port,) = free_ports(1)
    assert f"no S3 server answers at http://127.0.0.1:{port} (EndpointConnectionError)" in message(port=port)
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    assert "(nobody) could not be found; correct AWS_PROFILE" in message()
    monkeypatch.delenv("AWS_PROFILE")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nowhere")
    assert "no credentials found; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE" in message()
    monkeypatch.setenv("AWS_ENDPOINT_URL", "no url")
    assert "Invalid endpoint: no url; correct AWS_ENDPOINT_URL" in message()


def test_the_password_of_an_endpoint_is_not_shown(s3, prefix, monkeypatch):
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    (port,) = free_ports(1)
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://user:password@127.0.0.1:{port}")
    s3.configure()
    with pytest.raises(StorageError, match=f"no S3 server answers at http://127.0.0.1:{port}") as error:
        s3_objects.read_text(f"{prefix}/a")
    assert "password" not in str(error.value)


def test_no_secret_is_logged_or_pickled(s3, prefix, tmp_path):
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    logging.getLogger().addHandler(handler)
    try:
        file = put(prefix, tmp_path / "a", 1000)
        download(file.uri, tmp_path / "back")
    finally:
        logging.getLogger().removeHandler(handler)
    lock = S3Lock(f"{prefix}/lock")
    assert s3.server.secret_key not in stream.getvalue() + repr(pickle.dumps(file))
    lock.acquire()
    try:
        assert s3.server.secret_key not in s3_objects.read_text(f"{prefix}/lock")
    finally:
        lock.release()


def test_a_forked_child_creates_its_own_client(prefix):
    s3_objects.write_text(f"{prefix}/a", "parent")
    child = os.fork()
    if not child:
        s3_objects.write_text(f"{prefix}/b", s3_objects.read_text(f"{prefix}/a"))
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert s3_objects.read_text(f"{prefix}/b") == "parent"


# Locks


def test_one_of_many_gets_the_lock_and_the_others_learn_the_owner(prefix):
    locks = [S3Lock(f"{prefix}/lock") for _ in range(8)]

    def outcome(lock: S3Lock) -> str:
        try:
            lock.acquire()
            return "acquired"
        except LockHeldError as error:
            return str(error)

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        outcomes = list(pool.map(outcome, locks))
    (winner,) = [lock for lock, result in zip(locks, outcomes, strict=True) if result == "acquired"]
    for message in set(outcomes) - {"acquired"}:
        assert f"locked by process {os.getpid()} on " in message
        assert f"delete {prefix}/lock" in message
    winner.check()
    winner.release()
    assert s3_objects.sizes(prefix) == {}


def test_the_lock_of_a_killed_process_of_this_machine_is_taken_over_immediately(prefix):
    script = "import os, sys; from cyclesep.storage.s3_lock import S3Lock; S3Lock(sys.argv[1]).acquire(); "
    script += "os.kill(os.getpid(), 9)"
    assert subprocess.run([sys.executable, "-c", script, f"{prefix}/lock"], check=False).returncode == -signal.SIGKILL
    assert s3_objects.sizes(prefix).keys() == {"lock"}
    lock = S3Lock(f"{prefix}/lock")
    lock.acquire()
    lock.release()


def test_a_stale_lock_of_another_machine_is_taken_over_and_its_owner_notices(prefix, monkeypatch):
    monkeypatch.setattr(s3_lock, "_process_identity", lambda _: None)
    monkeypatch.setattr(s3_lock, "RENEW_SECONDS", 0.5)
    first, second = (S3Lock(f"{prefix}/lock") for _ in range(2))
    first.acquire()
    with pytest.raises(LockHeldError, match="last renewed [0-9] s ago"):
        second.acquire()
    monkeypatch.setattr(s3_lock, "STALE_SECONDS", -10.0)
    second.acquire()
    monkeypatch.setattr(s3_lock, "STALE_SECONDS", 90.0)
    with pytest.raises(
        StorageError, match=r"the lock was lost, it is now held by process .*run the same command again"
    ):
        first.check()
    first.release()
    second.check()
    assert s3_objects.sizes(prefix).keys() == {"lock"}
    second.release()


def test_a_held_lock_is_renewed_and_lost_when_it_is_deleted(prefix, monkeypatch):
    monkeypatch.setattr(s3_lock, "RENEW_SECONDS", 0.3)
    lock = S3Lock(f"{prefix}/lock")
    lock.acquire()
    began = lock._renewed
    try:
        deadline = threading.Event()
        for _ in range(200):
            if lock._renewed > began:
                break
            deadline.wait(0.05)
        assert lock._renewed > began
        lock.check()
        for _ in range(200):
            # Repeatedly, because a renewal may write the lock again in between.
            s3_objects.delete(prefix, ["lock"])
            if lock._lost:
                break
            deadline.wait(0.05)
        with pytest.raises(StorageError, match="the lock was lost, it was deleted"):
            lock.check()
    finally:
        lock.release()
    assert s3_objects.sizes(prefix) == {}


def test_a_server_without_conditional_requests_still_excludes_a_second_owner(s3, prefix, monkeypatch):
    monkeypatch.setattr(s3_lock, "_SETTLE_SECONDS", 0.0)
    first, second = (S3Lock(f"{prefix}/lock") for _ in range(2))
    with s3.proxy.injecting(Fault("status", "PUT", "/lock", value=501)):
        first.acquire()
    with pytest.raises(LockHeldError):
        second.acquire()
    first.release()
