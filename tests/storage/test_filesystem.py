"""S3 as a file system of pyarrow: what Ray does with it, under faults, and without a secret in what is pickled."""

import os
import pickle
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow.fs
import pytest
from pyarrow.fs import FileSelector, FileSystem, FileType

from cyclesep.errors import StorageError
from cyclesep.storage import s3_objects
from cyclesep.storage.filesystem import for_ray, from_ray
from tests.support.fault_proxy import Fault

if TYPE_CHECKING:
    from tests.support.s3_server import S3


def opened(prefix: str) -> tuple[str, FileSystem]:
    path, filesystem = for_ray(prefix)
    assert isinstance(filesystem, FileSystem)
    return path, filesystem


def folder_of(path: Path) -> dict[str, bytes]:
    """Files of three sizes, one of them empty and one in a folder of its own."""
    content = {"a.bin": os.urandom(100_000), "empty": b"", "deep/b.bin": os.urandom(10)}
    for name, data in content.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(data)
    return content


def read_back(path: Path) -> dict[str, bytes]:
    return {str(file.relative_to(path)): file.read_bytes() for file in path.rglob("*") if file.is_file()}


def test_a_folder_comes_back_as_it_went(prefix: str, tmp_path: Path) -> None:
    content = folder_of(tmp_path / "here")
    base, filesystem = opened(f"{prefix}/run")
    pyarrow.fs.copy_files(str(tmp_path / "here"), base, destination_filesystem=filesystem)
    pyarrow.fs.copy_files(base, str(tmp_path / "back"), source_filesystem=filesystem)
    assert read_back(tmp_path / "back") == content
    infos = filesystem.get_file_info([base, f"{base}/a.bin", f"{base}/nothing"])
    assert [info.type for info in infos] == [FileType.Directory, FileType.File, FileType.NotFound]
    assert infos[1].size == 100_000
    listed = filesystem.get_file_info(FileSelector(base))
    assert [(info.base_name, info.type) for info in listed] == [
        ("a.bin", FileType.File), ("deep", FileType.Directory), ("empty", FileType.File)
    ]  # fmt: skip
    filesystem.delete_dir(base)
    assert s3_objects.list_objects(f"{prefix}/run") == {}
    assert filesystem.get_file_info(FileSelector(base, allow_not_found=True)) == []
    with pytest.raises(FileNotFoundError):
        filesystem.open_input_stream(f"{base}/a.bin")


def test_transfers_outlast_faults_and_damage_on_the_way(s3: "S3", prefix: str, tmp_path: Path) -> None:
    content = folder_of(tmp_path / "here")
    base, filesystem = opened(f"{prefix}/run")
    faults = (
        Fault("status", "PUT", "a.bin", value=503),
        Fault("flip-sent", "PUT", "a.bin", value=77),
        Fault("cut", "GET", "a.bin", value=5000),
        Fault("flip", "GET", "b.bin", value=3),
        Fault("reset", "HEAD", "b.bin"),
    )
    with s3.proxy.harming(*faults):
        pyarrow.fs.copy_files(str(tmp_path / "here"), base, destination_filesystem=filesystem)
        pyarrow.fs.copy_files(base, str(tmp_path / "back"), source_filesystem=filesystem)
    assert [fault.done for fault in faults] == [1, 1, 1, 1, 1]
    assert read_back(tmp_path / "back") == content


def test_a_file_that_is_only_forgotten_never_appears(prefix: str) -> None:
    base, filesystem = opened(prefix)
    written = filesystem.open_output_stream(f"{base}/half")
    written.write(b"half")
    del written
    assert s3_objects.sizes(prefix) == {}


def test_what_is_pickled_holds_no_secret_and_finds_the_server_again(s3: "S3", prefix: str) -> None:
    base, filesystem = opened(prefix)
    with filesystem.open_output_stream(f"{base}/a") as file:
        file.write(b"abc")
    pickled = pickle.dumps(filesystem)
    for secret in (s3.server.secret_key, s3.server.access_key):
        assert secret.encode() not in pickled
    again = pickle.loads(pickled)
    assert again == filesystem
    assert again.open_input_stream(f"{base}/a").read() == b"abc"


def test_a_bucket_that_is_not_there_is_told_in_our_words() -> None:
    base, filesystem = opened("s3://nowhere/run")
    with pytest.raises(StorageError, match=r"s3://nowhere/run/a: there is no such bucket"), \
            filesystem.open_output_stream(f"{base}/a") as file:  # fmt: skip
        file.write(b"abc")


def test_places_go_to_ray_and_come_back(tmp_path: Path) -> None:
    for place in ("s3://bucket/a/b", str(tmp_path)):
        assert from_ray(*for_ray(place)) == place
    assert for_ray(str(tmp_path))[1] is None
    assert from_ray(str(tmp_path), pyarrow.fs.LocalFileSystem()) == str(tmp_path)
