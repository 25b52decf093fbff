"""Atomic writes, and error messages of a file system."""

import errno
from pathlib import Path

import pytest

from cyclesep.errors import StorageError
from cyclesep.storage import atomic_io


def test_a_failing_block_keeps_the_old_file_and_removes_the_partial_one(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "table.json"
    atomic_io.write_text(target, "old")
    with pytest.raises(KeyError):
        _fail_halfway(target)
    assert target.read_text() == "old"
    assert [path.name for path in target.parent.iterdir()] == ["table.json"]


def test_the_new_file_appears_when_the_block_ends(tmp_path: Path) -> None:
    target = tmp_path / "table.json"
    with atomic_io.replacing(target) as partial:
        partial.write_text("complete")
        assert not target.exists()
    assert target.read_text() == "complete"


def test_an_os_error_becomes_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("a file")
    with pytest.raises(StorageError, match="cannot be written"):
        atomic_io.write_text(tmp_path / "file" / "below", "x")


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("file/below", "File exists); a parent folder is a file; choose another location"),
        ("folder", "Is a directory); a folder has this name; choose another name"),
        ("x" * 256, "File name too long); a name may have at most 255 bytes; choose a shorter one"),
        ("/proc/x/y", "No such file or directory); files cannot be created there; choose another location"),
    ],
)
def test_an_error_names_the_target_and_not_the_partial_file(tmp_path: Path, name: str, reason: str) -> None:
    (tmp_path / "file").write_text("a file")
    (tmp_path / "folder").mkdir()
    with pytest.raises(StorageError) as raised:
        atomic_io.write_text(tmp_path / name, "x")
    assert str(raised.value) == f"{tmp_path / name}: cannot be written ({reason}"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]


def test_a_full_disk_suggests_to_free_space(tmp_path: Path) -> None:
    with (
        pytest.raises(StorageError, match="free space or choose another location"),
        atomic_io.replacing(tmp_path / "x"),
    ):
        raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("name", ["x" * 255, "é" * 127])
def test_a_name_of_the_maximum_length_can_be_written(tmp_path: Path, name: str) -> None:
    atomic_io.write_text(tmp_path / name, "x")
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_file_with_a_name_that_is_too_long_does_not_exist(tmp_path: Path) -> None:
    assert atomic_io.exists(tmp_path)
    assert not atomic_io.exists(tmp_path / "absent")
    assert not atomic_io.exists(tmp_path / ("x" * 256))


def _fail_halfway(target: Path) -> None:
    with atomic_io.replacing(target) as partial:
        partial.write_text("half")
        raise KeyError("lost")
