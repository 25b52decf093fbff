"""Files that appear whole or not at all."""

import errno
from pathlib import Path

import pytest

from cyclesep.errors import StorageError
from cyclesep.storage import atomic_io


def test_a_block_that_fails_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "table.json"
    atomic_io.write_text(target, "old")
    with pytest.raises(KeyError):
        _fail_half_way(target)
    assert target.read_text() == "old"
    assert [path.name for path in target.parent.iterdir()] == ["table.json"]


def test_the_new_file_is_not_seen_before_the_block_ends(tmp_path: Path) -> None:
    target = tmp_path / "table.json"
    with atomic_io.replacing(target) as partial:
        partial.write_text("whole")
        assert not target.exists()
    assert target.read_text() == "whole"


def test_a_place_that_refuses_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageError, match="cannot be written"):
        atomic_io.write_text(tmp_path / "file" / "below", "x")


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("file/below", "File exists); a file is where a folder should be; choose another place"),
        ("folder", "Is a directory); a folder has this name; choose another name"),
        ("x" * 256, "File name too long); a name may have 255 bytes; choose a shorter one"),
        ("/proc/x/y", "No such file or directory); no files can be made there; choose another place"),
    ],
)
def test_why_a_place_refuses_is_told_without_the_partial_file(tmp_path: Path, name: str, told: str) -> None:
    (tmp_path / "file").write_text("in the way")
    (tmp_path / "folder").mkdir()
    with pytest.raises(StorageError) as raised:
        atomic_io.write_text(tmp_path / name, "x")
    assert str(raised.value) == f"{tmp_path / name}: cannot be written ({told}"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]


def test_a_full_disk_asks_for_space(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="free space or choose another place"), atomic_io.replacing(tmp_path / "x"):
        raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("name", ["x" * 255, "é" * 127])
def test_a_name_as_long_as_may_be_can_be_written(tmp_path: Path, name: str) -> None:
    atomic_io.write_text(tmp_path / name, "whole")
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_name_that_is_too_long_for_any_file_exists_nowhere(tmp_path: Path) -> None:
    assert atomic_io.exists(tmp_path)
    assert not atomic_io.exists(tmp_path / "absent")
    assert not atomic_io.exists(tmp_path / ("x" * 256))


def _fail_half_way(target: Path) -> None:
    with atomic_io.replacing(target) as partial:
        partial.write_text("half")
        raise KeyError("lost")


def test_a_path_below_the_working_directory_is_shown_relative(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert atomic_io.shown(tmp_path / "data" / "songs") == "data/songs"
    assert atomic_io.shown(tmp_path.parent / "elsewhere") == str(tmp_path.parent / "elsewhere")
