"""A folder in S3, with the operations of StoragePath."""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from typing_extensions import override

from cyclesep.storage import s3_objects
from cyclesep.storage.download_cache import cached_folder
from cyclesep.storage.path import StoragePath
from cyclesep.storage.s3_lock import S3Lock
from cyclesep.storage.s3_transfers import Upload, download, upload


class S3Path(StoragePath):
    """A prefix in a bucket."""

    @override
    @contextmanager
    def replacing(self, name: str) -> Iterator[Path]:
        with tempfile.TemporaryDirectory(prefix="cyclesep-upload-") as scratch:
            path = Path(scratch) / Path(name).name
            yield path
            upload([Upload.of(path, self.file_uri(name))])

    @override
    @contextmanager
    def reading(self, name: str) -> Iterator[Path]:
        with tempfile.TemporaryDirectory(prefix="cyclesep-download-") as scratch:
            path = Path(scratch) / Path(name).name
            download(self.file_uri(name), path)
            yield path

    @override
    def write_text(self, name: str, text: str) -> None:
        s3_objects.write_text(self.file_uri(name), text)

    @override
    def read_text(self, name: str) -> str:
        return s3_objects.read_text(self.file_uri(name))

    @override
    def sizes(self, name: str) -> dict[str, int]:
        return s3_objects.sizes(self.file_uri(name))

    @override
    def folders(self) -> list[str]:
        return s3_objects.folders(self.uri)

    @override
    def exists(self) -> bool:
        return bool(s3_objects.list_objects(self.uri, limit=1))

    @override
    def has_file(self, name: str) -> bool:
        return s3_objects.head(self.file_uri(name)) is not None

    @override
    def num_bytes(self) -> int:
        return sum(info.bytes for info in s3_objects.list_objects(self.uri).values())

    @override
    def local_path(self, *names: str) -> Path:
        return cached_folder(self.uri, names)

    @override
    def delete(self, *names: str) -> None:
        s3_objects.delete(self.uri, names)

    @override
    def delete_all(self) -> None:
        s3_objects.delete(self.uri, s3_objects.list_objects(self.uri))

    @override
    @contextmanager
    def lock(self, name: str) -> Iterator[Callable[[], None]]:
        lock = S3Lock(self.file_uri(name))
        lock.acquire()
        try:
            yield lock.check
        finally:
            lock.release()

    @override
    def remove_stale(self) -> None:
        """Do nothing: an incomplete upload is not visible in a bucket."""
