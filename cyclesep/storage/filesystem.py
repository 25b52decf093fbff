"""S3 as a pyarrow file system for Ray, on top of boto3.

pyarrow's own S3 file system ignores boto3's sources of endpoint and credentials, and its pickles contain the keys that
it was given. This one has no state: each process gets endpoint and credentials from boto3.
"""

import hashlib
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pyarrow import PythonFile
from pyarrow.fs import FileInfo, FileSelector, FileSystem, FileSystemHandler, FileType, PyFileSystem
from typing_extensions import override

from cyclesep.errors import ObjectNotFound
from cyclesep.storage import s3_objects
from cyclesep.storage.s3_transfers import Upload, download, upload
from cyclesep.storage.uri import SCHEME, is_remote


def for_ray(uri: str) -> tuple[str, FileSystem | None]:
    """Return a location as Ray's storage path and file system; the file system is None for a local path."""
    return (uri.removeprefix(SCHEME), PyFileSystem(_S3Handler())) if is_remote(uri) else (uri, None)


def from_ray(path: str, filesystem: FileSystem | None) -> str:
    """Return the location of Ray's storage path and file system, such as those of a checkpoint."""
    return SCHEME + path if isinstance(filesystem, PyFileSystem) else path


class _S3Handler(FileSystemHandler):  # type: ignore[misc]
    """All buckets; a path is `bucket/key`, and a folder is a prefix of keys."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _S3Handler)

    def __hash__(self) -> int:
        return hash(_S3Handler)

    @override
    def get_type_name(self) -> str:
        return "s3-by-boto3"

    @override
    def normalize_path(self, path: str) -> str:
        return path.strip("/")

    @override
    def get_file_info(self, paths: Sequence[str]) -> list[FileInfo]:
        return [_file_info(path) for path in paths]

    @override
    def get_file_info_selector(self, selector: FileSelector) -> list[FileInfo]:
        base = selector.base_dir.strip("/")
        found = s3_objects.list_objects(SCHEME + base)
        if not found and not selector.allow_not_found:
            raise FileNotFoundError(f"{SCHEME}{base}: folder not found")
        folders = {str(parent) for name in found for parent in Path(name).parents if parent.name}
        infos = {name: FileInfo(f"{base}/{name}", FileType.Directory) for name in folders}
        for name, info in found.items():
            infos[name] = FileInfo(f"{base}/{name}", FileType.File, size=info.bytes, mtime=info.modified)
        return [info for name, info in sorted(infos.items()) if selector.recursive or "/" not in name]

    @override
    def create_dir(self, path: str, recursive: bool) -> None:
        """Do nothing: S3 has no folders to create."""

    @override
    def delete_dir(self, path: str) -> None:
        s3_objects.delete(SCHEME + path, s3_objects.list_objects(SCHEME + path))

    @override
    def delete_dir_contents(self, path: str, missing_dir_ok: bool = False) -> None:
        self.delete_dir(path)

    @override
    def delete_root_dir_contents(self) -> None:
        raise NotImplementedError("deleting whole buckets is not supported")

    @override
    def delete_file(self, path: str) -> None:
        folder, _, name = path.strip("/").rpartition("/")
        s3_objects.delete(SCHEME + folder, [name])

    @override
    def move(self, src: str, dest: str) -> None:
        self.copy_file(src, dest)
        self.delete_file(src)

    @override
    def copy_file(self, src: str, dest: str) -> None:
        with tempfile.TemporaryDirectory(prefix="cyclesep-copy-") as scratch:
            path = Path(scratch) / "object"
            download(SCHEME + src, path)
            upload([Upload.of(path, SCHEME + dest)])

    @override
    def open_input_stream(self, path: str) -> PythonFile:
        return self.open_input_file(path)

    @override
    def open_input_file(self, path: str) -> PythonFile:
        # Downloaded completely first, because only a download resumes after an error and detects damage.
        with tempfile.TemporaryDirectory(prefix="cyclesep-download-") as scratch:
            file = Path(scratch) / "object"
            try:
                download(SCHEME + path, file)
            except ObjectNotFound as problem:
                raise FileNotFoundError(str(problem)) from problem
            # The open file stays readable after the folder is deleted.
            return PythonFile(file.open("rb"), mode="r")

    @override
    def open_output_stream(self, path: str, metadata: Mapping[str, str]) -> PythonFile:
        return PythonFile(_UploadOnClose(SCHEME + path), mode="w")

    @override
    def open_append_stream(self, path: str, metadata: Mapping[str, str]) -> PythonFile:
        raise NotImplementedError("S3 does not support appending")


def _file_info(path: str) -> FileInfo:
    info = s3_objects.head(SCHEME + path)
    if info is not None:
        return FileInfo(path, FileType.File, size=info.bytes, mtime=info.modified)
    is_folder = bool(s3_objects.list_objects(SCHEME + path, limit=1))
    return FileInfo(path, FileType.Directory if is_folder else FileType.NotFound)


class _UploadOnClose:
    """A temporary file that is uploaded when it is closed; one that is garbage-collected is discarded."""

    def __init__(self, uri: str) -> None:
        self.closed = False
        self._uri = uri
        self._digest = hashlib.sha256()
        self._file: Any = tempfile.NamedTemporaryFile(prefix="cyclesep-upload-")  # noqa: SIM115

    def write(self, data: Any) -> int:
        self._digest.update(data)
        return int(self._file.write(data))

    def tell(self) -> int:
        return int(self._file.tell())

    def flush(self) -> None:
        self._file.flush()

    def close(self) -> None:
        if self.closed:
            return
        self.closed = True
        with self._file:
            self._file.flush()
            upload([Upload(path=Path(self._file.name), uri=self._uri, sha256=self._digest.hexdigest())])
