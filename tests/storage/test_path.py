"""The same verbs on a folder of this machine and on a prefix in S3."""

import fcntl
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from cyclesep.errors import LockHeldError, StorageError
from cyclesep.storage import atomic_io, s3_lock
from cyclesep.storage import path as folder_module
from cyclesep.storage.path import StoragePath


@pytest.fixture(params=["local", "s3"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> StoragePath:
    return StoragePath.of(tmp_path / "out" if request.param == "local" else f"{request.getfixturevalue('prefix')}/out")


def test_what_was_written_is_read_back_and_listed_with_its_size(folder: StoragePath) -> None:
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
    folder.delete("parts/never was")
    assert folder.sizes("parts") == {"a b.json": 8}


def write_half(folder: StoragePath, name: str) -> None:
    with folder.replacing(name) as path:
        path.write_text("half")
        raise KeyError(name)


def test_a_block_that_fails_leaves_nothing_and_what_was_there_stays(folder: StoragePath) -> None:
    folder.write_text("kept.txt", "old")
    for name in ("kept.txt", "new.txt"):
        with pytest.raises(KeyError):
            write_half(folder, name)
    assert folder.read_text("kept.txt") == "old"
    assert folder.sizes("") == {"kept.txt": 3}


def test_a_file_that_is_missing_is_told_by_its_place(folder: StoragePath) -> None:
    with pytest.raises(StorageError, match=r"out/nowhere\.txt"):
        folder.read_text("nowhere.txt")
    with pytest.raises(StorageError, match=r"out/nowhere\.bin"), folder.reading("nowhere.bin"):
        pass


def test_sweeping_removes_abandoned_partial_files_and_nothing_else(tmp_path: Path) -> None:
    folder = StoragePath.of(tmp_path)
    for name in (".new.json.1234.partial", ".old.json.1234.partial", "old.json"):
        folder.write_text(f"parts/{name}", "x")
    old = time.time() - 7200
    for name in (".old.json.1234.partial", "old.json"):
        os.utime(tmp_path / "parts" / name, (old, old))
    folder.remove_stale()
    assert sorted(folder.sizes("parts")) == [".new.json.1234.partial", "old.json"]


def test_folders_in_it_are_listed_copied_measured_and_deleted(folder: StoragePath) -> None:
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
    folder.child("never", "was").delete_all()
    assert folder.folders() == ["a", "c"]
    assert folder.child("c").name == "c"


def test_who_holds_a_local_folder_keeps_other_processes_out_until_it_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = StoragePath.of(tmp_path / "runs" / "new")
    holding = "import sys, time; from cyclesep.storage.path import StoragePath\nwith StoragePath.of(sys.argv[1]).lock('.lock'):\n "
    command = [sys.executable, "-c", holding + "print(flush=True); time.sleep(60)", folder.uri]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        other.stdout.readline()
        monkeypatch.setattr(folder_module, "_DYING_SECONDS", 0.1)
        told = rf"\.lock: held by process {other.pid} on .*wait for it"
        with pytest.raises(LockHeldError, match=told), folder.lock(".lock"):
            pass
        other.kill()
    with folder.lock(".lock"):
        assert folder.has_file(".lock")
    assert folder.sizes("") == {}


def test_a_lock_of_another_machine_is_waited_for_longer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder_module, "_DYING_SECONDS", 0.0)
    path = tmp_path / ".lock"
    held = atomic_io.lock_file(path, wait=True)
    assert held is not None
    with held:
        held.write("process 7 on a-machine-that-was-lost")
        held.flush()
        # The server of a shared disk forgets that machine.
        threading.Timer(0.7, lambda: fcntl.flock(held, fcntl.LOCK_UN)).start()
        with StoragePath.of(tmp_path).lock(".lock"):
            assert path.read_text() != "process 7 on a-machine-that-was-lost"


def test_processes_that_take_turns_meet_no_error(tmp_path: Path) -> None:
    turns = (
        "import sys; from cyclesep.storage.path import StoragePath\n"
        "for _ in range(8):\n with StoragePath.of(sys.argv[1]).lock('.lock'):\n  pass"
    )
    started = [subprocess.Popen([sys.executable, "-c", turns, str(tmp_path)]) for _ in range(3)]
    assert [each.wait(60) for each in started] == [0, 0, 0]


def test_a_folder_that_cannot_be_locked_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(StorageError, match="cannot be written or locked"),
        StoragePath.of(tmp_path / "file").lock(".lock"),
    ):
        pass


def test_who_holds_a_folder_in_s3_keeps_others_out_and_whoever_died_does_not(
    prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As on two machines: nobody can tell by its number whether a process lives.
    monkeypatch.setattr(s3_lock, "_process", lambda _: None)
    monkeypatch.setattr(s3_lock, "RENEW_SECONDS", 0.2)
    monkeypatch.setattr(s3_lock, "_LOOK_SECONDS", 0.1)
    folder = StoragePath.of(prefix)
    with folder.lock(".lock"):
        with pytest.raises(LockHeldError, match=r"\.lock: held by process .*wait for it"), folder.lock(".lock"):
            pass
        left = folder.read_text(".lock")
    assert folder.sizes("") == {}
    # What a process leaves that was killed: a lock that nobody renews.
    folder.write_text(".lock", left)
    monkeypatch.setattr(s3_lock, "STALE_SECONDS", 2.0)
    with folder.lock(".lock"):
        assert folder.read_text(".lock") != left
