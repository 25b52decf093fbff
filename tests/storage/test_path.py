"""The same operations on a local folder and on a prefix in S3."""

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from filelock import FileLock

from cyclesep.errors import LockHeldError, StorageError
from cyclesep.storage import path as path_module
from cyclesep.storage import s3_lock
from cyclesep.storage.path import StoragePath


def test_importing_local_paths_imports_no_s3_library() -> None:
    code = (
        "import sys, cyclesep.storage.path, cyclesep.storage.atomic_io\n"
        "print(*{'boto3', 'botocore', 'pyarrow'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


@pytest.fixture(params=["local", "s3"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> StoragePath:
    return StoragePath.of(tmp_path / "out" if request.param == "local" else f"{request.getfixturevalue('prefix')}/out")


def test_files_are_written_read_listed_and_deleted(folder: StoragePath) -> None:
    assert folder.sizes("parts") == {}
    folder.write_text("parts/a b.json", "größer")
    with folder.replacing("parts/deep/b.bin") as path:
        path.write_bytes(b"12345")
    with folder.replacing("parts/c.bin") as path:
        path.write_bytes(b"123")
    assert folder.read_text("parts/a b.json") == "größer"
    assert folder.sizes("parts") == {"a b.json": 8, "c.bin": 3}
    with folder.reading("parts/deep/b.bin") as path:
        assert path.read_bytes() == b"12345"
    folder.delete("parts/c.bin")
    folder.delete("parts/absent")
    assert folder.sizes("parts") == {"a b.json": 8}


def fail_halfway(folder: StoragePath, name: str) -> None:
    with folder.replacing(name) as path:
        path.write_text("half")
        raise KeyError(name)


def test_a_failing_block_writes_nothing_and_keeps_the_old_file(folder: StoragePath) -> None:
    folder.write_text("kept.txt", "old")
    for name in ("kept.txt", "new.txt"):
        with pytest.raises(KeyError):
            fail_halfway(folder, name)
    assert folder.read_text("kept.txt") == "old"
    assert folder.sizes("") == {"kept.txt": 3}


def test_the_error_for_a_missing_file_names_its_location(folder: StoragePath) -> None:
    with pytest.raises(StorageError, match=r"out/nowhere\.txt"):
        folder.read_text("nowhere.txt")
    with pytest.raises(StorageError, match=r"out/nowhere\.bin"), folder.reading("nowhere.bin"):
        pass


def test_remove_stale_deletes_old_partial_files_only(tmp_path: Path) -> None:
    folder = StoragePath.of(tmp_path)
    for name in (".new.json.1234.partial", ".old.json.1234.partial", "old.json"):
        folder.write_text(f"parts/{name}", "x")
    old = time.time() - 7200
    for name in (".old.json.1234.partial", "old.json"):
        os.utime(tmp_path / "parts" / name, (old, old))
    folder.remove_stale()
    assert sorted(folder.sizes("parts")) == [".new.json.1234.partial", "old.json"]


def test_subfolders_are_listed_copied_measured_and_deleted(folder: StoragePath) -> None:
    assert (folder.exists(), folder.folders(), folder.num_bytes()) == (False, [], 0)
    for name in ("b/one", "b/two", "a/deep/three"):
        folder.write_text(name, name)
    assert folder.exists()
    assert folder.folders() == ["a", "b"]
    assert [folder.has_file(name) for name in ("b/one", "b", "c")] == [True, False, False]
    assert folder.num_bytes() == 5 + 5 + 12
    folder.child("c").copy_files(folder.child("b"), last="one")
    assert folder.sizes("c") == {"one": 5, "two": 5}
    assert (folder.child("c").local_path("two") / "two").read_text() == "b/two"
    folder.child("b").delete_all()
    folder.child("not", "there").delete_all()
    assert folder.folders() == ["a", "c"]
    assert folder.child("c").name == "c"


def test_a_local_lock_excludes_other_processes_until_its_owner_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = StoragePath.of(tmp_path / "runs" / "new")
    script = (
        "import sys, time; from cyclesep.storage.path import StoragePath\n"
        "with StoragePath.of(sys.argv[1]).lock('.lock'):\n print(flush=True); time.sleep(60)"
    )
    command = [sys.executable, "-c", script, folder.uri]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        other.stdout.readline()
        monkeypatch.setattr(path_module, "_LOCAL_OWNER_SECONDS", 0.1)
        message = rf"\.lock: locked by process {other.pid} on .*wait until it ends"
        with pytest.raises(LockHeldError, match=message), folder.lock(".lock"):
            pass
        other.kill()
    with folder.lock(".lock"):
        assert folder.has_file(".lock")
    assert folder.sizes("") == {}


def test_the_lock_of_another_machine_is_waited_for_longer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(path_module, "_LOCAL_OWNER_SECONDS", 0.0)
    path = tmp_path / ".lock"
    lock = FileLock(path, thread_local=False)
    lock.acquire()
    path.write_text("process 7 on a-lost-machine")
    # An NFS server drops the locks of a lost machine.
    threading.Timer(0.7, lock.release).start()
    with StoragePath.of(tmp_path).lock(".lock"):
        assert path.read_text() != "process 7 on a-lost-machine"


def test_processes_that_lock_in_turn_succeed(tmp_path: Path) -> None:
    script = (
        "import sys; from cyclesep.storage.path import StoragePath\n"
        "for _ in range(8):\n with StoragePath.of(sys.argv[1]).lock('.lock'):\n  pass"
    )
    started = [subprocess.Popen([sys.executable, "-c", script, str(tmp_path)]) for _ in range(3)]
    assert [each.wait(60) for each in started] == [0, 0, 0]


def test_a_folder_that_cannot_be_locked_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(StorageError, match="cannot be written or locked"),
        StoragePath.of(tmp_path / "file").lock(".lock"),
    ):
        pass


def test_an_s3_lock_excludes_other_processes_until_its_owner_has_crashed(
    prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As on two machines, where a process cannot be looked up by its PID.
    monkeypatch.setattr(s3_lock, "_process_identity", lambda _: None)
    monkeypatch.setattr(s3_lock, "RENEW_SECONDS", 0.2)
    monkeypatch.setattr(s3_lock, "_POLL_SECONDS", 0.1)
    folder = StoragePath.of(prefix)
    with folder.lock(".lock"):
        with (
            pytest.raises(LockHeldError, match=r"\.lock: locked by process .*wait until it ends"),
            folder.lock(".lock"),
        ):
            pass
        content = folder.read_text(".lock")
    assert folder.sizes("") == {}
    # A killed owner no longer renews its lock.
    folder.write_text(".lock", content)
    monkeypatch.setattr(s3_lock, "STALE_SECONDS", 2.0)
    with folder.lock(".lock"):
        assert folder.read_text(".lock") != content
