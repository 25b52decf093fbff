"""S3 as a pyarrow file system: the operations that Ray uses, faults, and no secrets in pickles."""

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


def open_filesystem(prefix: str) -> tuple[str, FileSystem]:
    path, filesystem = for_ray(prefix)
    assert isinstance(filesystem, FileSystem)
    return path, filesystem


def write_folder(path: Path) -> dict[str, bytes]:
    """Write files of three sizes, one of them empty and one in a subfolder."""
    content = {"a.bin": os.urandom(100_000), "empty": b"", "deep/b.bin": os.urandom(10)}
    for name, data in content.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(data)
    return content


def read_back(path: Path) -> dict[str, bytes]:
    return {str(file.relative_to(path)): file.read_bytes() for file in path.rglob("*") if file.is_file()}


def test_a_folder_is_copied_to_s3_and_back(prefix: str, tmp_path: Path) -> None:
    content = write_folder(tmp_path / "original")
    base, filesystem = open_filesystem(f"{prefix}/run")
    pyarrow.fs.copy_files(str(tmp_path / "original"), base, destination_filesystem=filesystem)
    pyarrow.fs.copy_files(base, str(tmp_path / "copy"), source_filesystem=filesystem)
    assert read_back(tmp_path / "copy") == content
    infos = filesystem.get_file_info([base, f"{base}/a.bin", f"{base}/absent"])
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


def test_transfers_survive_faults_and_damage_in_transit(s3: "S3", prefix: str, tmp_path: Path) -> None:
    content = write_folder(tmp_path / "original")
    base, filesystem = open_filesystem(f"{prefix}/run")
    faults = (
        Fault("status", "PUT", "a.bin", value=503),
        Fault("flip-sent", "PUT", "a.bin", value=77),
        Fault("cut", "GET", "a.bin", value=5000),
        Fault("flip", "GET", "b.bin", value=3),
        Fault("reset", "HEAD", "b.bin"),
    )
    with s3.proxy.injecting(*faults):
        pyarrow.fs.copy_files(str(tmp_path / "original"), base, destination_filesystem=filesystem)
        pyarrow.fs.copy_files(base, str(tmp_path / "copy"), source_filesystem=filesystem)
    assert [fault.done for fault in faults] == [1, 1, 1, 1, 1]
    assert read_back(tmp_path / "copy") == content


def test_a_file_that_is_not_closed_is_not_uploaded(prefix: str) -> None:
    base, filesystem = open_filesystem(prefix)
    written = filesystem.open_output_stream(f"{base}/half")
    written.write(b"half")
    del written
    assert s3_objects.sizes(prefix) == {}


def test_a_pickled_filesystem_contains_no_secret_and_works_after_loading(s3: "S3", prefix: str) -> None:
    base, filesystem = open_filesystem(prefix)
    with filesystem.open_output_stream(f"{base}/a") as file:
        file.write(b"abc")
    pickled = pickle.dumps(filesystem)
    for secret in (s3.server.secret_key, s3.server.access_key):
        assert secret.encode() not in pickled
    loaded = pickle.loads(pickled)
    assert loaded == filesystem
    assert loaded.open_input_stream(f"{base}/a").read() == b"abc"


def test_a_missing_bucket_is_a_storage_error() -> None:
    base, filesystem = open_filesystem("s3://nowhere/run")
    with pytest.raises(StorageError, match=r"s3://nowhere/run/a: bucket not found"), \
            filesystem.open_output_stream(f"{base}/a") as file:  # fmt: skip
        file.write(b"abc")


def test_locations_are_converted_to_ray_and_back(tmp_path: Path) -> None:
    for location in ("s3://bucket/a/b", str(tmp_path)):
        assert from_ray(*for_ray(location)) == location
    assert for_ray(str(tmp_path))[1] is None
    assert from_ray(str(tmp_path), pyarrow.fs.LocalFileSystem()) == str(tmp_path)
