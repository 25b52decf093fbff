"""Files that appear whole or not at all."""

from pathlib import Path

import pytest

from cyclesep import files
from cyclesep.errors import StorageError


def test_a_block_that_fails_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "table.json"
    files.write_text(target, "old")
    with pytest.raises(KeyError):
        _fail_half_way(target)
    assert target.read_text() == "old"
    assert [path.name for path in target.parent.iterdir()] == ["table.json"]


def test_the_new_file_is_not_seen_before_the_block_ends(tmp_path: Path) -> None:
    target = tmp_path / "table.json"
    with files.replacing(target) as partial:
        partial.write_text("whole")
        assert not target.exists()
    assert target.read_text() == "whole"


def test_a_place_that_refuses_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageError, match="cannot be written"):
        files.write_text(tmp_path / "file" / "below", "x")


def _fail_half_way(target: Path) -> None:
    with files.replacing(target) as partial:
        partial.write_text("half")
        raise KeyError("lost")


def test_a_path_below_the_working_directory_is_shown_relative(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert files.shown(tmp_path / "data" / "songs") == "data/songs"
    assert files.shown(tmp_path.parent / "elsewhere") == str(tmp_path.parent / "elsewhere")
