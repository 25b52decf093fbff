"""Locations: local paths and S3 URIs."""

from pathlib import Path

import pytest

from cyclesep.errors import StorageError
from cyclesep.storage.uri import absolute_uri, display_path, is_remote, join_uri, parse


def test_a_uri_is_recognized_split_and_joined() -> None:
    assert is_remote("s3://bucket/a")
    assert not is_remote("/s3://bucket")
    assert not is_remote(Path("s3://bucket/a"))
    assert parse("s3://bucket/a/b/") == ("bucket", "a/b")
    assert parse("s3://bucket") == ("bucket", "")
    assert join_uri("s3://bucket/a/", "b", "c") == "s3://bucket/a/b/c"


def test_a_location_becomes_absolute_and_is_displayed_relative(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert absolute_uri("s3://bucket/a/") == "s3://bucket/a" == display_path("s3://bucket/a")
    assert absolute_uri("data/songs") == str(tmp_path / "data" / "songs")
    assert display_path(absolute_uri("data/songs")) == "data/songs"
    assert display_path(tmp_path / "data" / "songs") == "data/songs"
    assert display_path(tmp_path.parent / "elsewhere") == str(tmp_path.parent / "elsewhere")


def test_credentials_in_a_location_are_an_error_that_does_not_repeat_them() -> None:
    with pytest.raises(StorageError, match="must not contain credentials") as error:
        parse("s3://key:hidden@bucket/a")
    assert "hidden" not in str(error.value)
    with pytest.raises(StorageError, match="s3://b/a: not an S3 location; write s3://bucket/prefix"):
        parse("s3://b/a")
