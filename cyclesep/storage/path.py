"""A folder on this machine or in S3, with the same operations for both."""

import shutil
import socket
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout
from typing_extensions import override

from cyclesep.errors import LockHeldError, ObjectNotFound, StorageError
from cyclesep.storage import atomic_io
from cyclesep.storage.uri import absolute_uri, is_remote, join_uri, process_name

# A partial file older than this belongs to a process that was killed.
_STALE_PARTIAL_SECONDS = 3600.0
# How long to wait for a lock whose owner runs on this machine (the processes of a killed job may take seconds to exit),
# and for one whose owner runs on another machine (an NFS server needs time to drop the locks of a lost client).
_LOCAL_OWNER_SECONDS, _REMOTE_OWNER_SECONDS = 5.0, 120.0


@dataclass(frozen=True)
class StoragePath(ABC):
    """A folder, which need not exist; a file's `name` is a path relative to it with forward slashes."""

    uri: str
    """Absolute path, or s3://bucket/prefix."""

    @staticmethod
    def of(location: Path | str) -> "StoragePath":
        """Return the folder at a path or s3:// URI; raise StorageError for an invalid URI. Creates nothing."""
        uri = absolute_uri(location)
        if not is_remote(uri):
            return LocalPath(uri)
        # Imported here because botocore is not needed for local folders.
        from cyclesep.storage.s3_path import S3Path

        return S3Path(uri)

    @property
    def is_remote(self) -> bool:
        return is_remote(self.uri)

    @property
    def name(self) -> str:
        """The last component of the folder's path."""
        return self.uri.rstrip("/").rpartition("/")[2]

    @property
    def path(self) -> Path:
        """The folder as a local path; raises StorageError if it is in S3."""
        if self.is_remote:
            raise StorageError(f"{self.uri}: is in S3; copy it to a local folder first")
        return Path(self.uri)

    def child(self, *names: str) -> "StoragePath":
        """Return a subfolder, which need not exist."""
        return type(self)(join_uri(self.uri, *names))

    def file_uri(self, name: str) -> str:
        """Return the path or URI of a file."""
        return join_uri(self.uri, name)

    def copy_files(self, source: "StoragePath", *, last: str) -> None:
        """Copy the files directly in `source` into this folder, `last` after all others to mark a complete copy."""
        for name in sorted(source.sizes(""), key=lambda name: name == last):
            with source.reading(name) as original, self.replacing(name) as copy:
                shutil.copyfile(original, copy)

    @abstractmethod
    def replacing(self, name: str) -> AbstractContextManager[Path]:
        """Yield a temporary local path; after a block without an exception its content becomes the file `name`.

        Raises StorageError when the folder is full, read-only or unreachable.
        """

    @abstractmethod
    def reading(self, name: str) -> AbstractContextManager[Path]:
        """Yield a local path with the content of `name`, valid within the block.

        Raises ObjectNotFound if the file does not exist, StorageError if it cannot be downloaded.
        """

    @abstractmethod
    def write_text(self, name: str, text: str) -> None:
        """Write a small UTF-8 file atomically."""

    @abstractmethod
    def read_text(self, name: str) -> str:
        """Read a small UTF-8 file; raise ObjectNotFound if it does not exist, StorageError if it cannot be decoded."""

    @abstractmethod
    def sizes(self, name: str) -> dict[str, int]:
        """Return the size in bytes of each file directly in the subfolder `name`; empty if it does not exist."""

    @abstractmethod
    def folders(self) -> list[str]:
        """Return the names of the subfolders, sorted; empty if this folder does not exist."""

    @abstractmethod
    def exists(self) -> bool:
        """Return whether the folder exists; in S3, whether any object is below it."""

    @abstractmethod
    def has_file(self, name: str) -> bool:
        """Return whether the file `name` exists."""

    @abstractmethod
    def num_bytes(self) -> int:
        """Return the total size of all files, subfolders included."""

    @abstractmethod
    def local_path(self, *names: str) -> Path:
        """Return a local folder with those of the files `names` that exist: this one, or a cached download.

        A cached download is read-only and remains for at least an hour. Raises StorageError if the download fails.
        """

    @abstractmethod
    def delete(self, *names: str) -> None:
        """Delete those of the files `names` that exist."""

    @abstractmethod
    def delete_all(self) -> None:
        """Delete the folder with its content, if it exists."""

    @abstractmethod
    def lock(self, name: str) -> AbstractContextManager[Callable[[], None]]:
        """Hold an exclusive lock, the file `name`, for the length of the block; across machines if in S3 or on NFS.

        Waits until the lock of a killed owner counts as abandoned: up to 90 s in S3, 120 s on a shared disk if the
        owner ran on another machine. Yields a function that raises StorageError if the lock was lost. Raises
        LockHeldError if another process holds it, StorageError if it cannot be written.
        """

    @abstractmethod
    def remove_stale(self) -> None:
        """Remove hidden partial files more than an hour old, which killed processes left behind."""


class LocalPath(StoragePath):
    """A folder on this machine."""

    @override
    def replacing(self, name: str) -> AbstractContextManager[Path]:
        return atomic_io.replacing(self.path / name)

    @override
    @contextmanager
    def reading(self, name: str) -> Iterator[Path]:
        path = self.path / name
        if not path.is_file():
            raise _not_found(path)
        yield path

    @override
    def write_text(self, name: str, text: str) -> None:
        atomic_io.write_text(self.path / name, text)

    @override
    def read_text(self, name: str) -> str:
        path = self.path / name
        try:
            return path.read_text(encoding="utf-8")
        except FileNotFoundError as error:
            raise _not_found(path) from error
        except (OSError, UnicodeDecodeError) as error:
            raise StorageError(f"{path}: cannot be read ({error}); write it again") from error

    @override
    def sizes(self, name: str) -> dict[str, int]:
        found = {}
        with suppress(FileNotFoundError, NotADirectoryError):
            for path in (self.path / name).iterdir():
                # Another process may delete files meanwhile.
                with suppress(FileNotFoundError):
                    if path.is_file():
                        found[path.name] = path.stat().st_size
        return found

    @override
    def folders(self) -> list[str]:
        with suppress(FileNotFoundError, NotADirectoryError):
            return sorted(path.name for path in self.path.iterdir() if path.is_dir())
        return []

    @override
    def exists(self) -> bool:
        return self.path.exists()

    @override
    def has_file(self, name: str) -> bool:
        return (self.path / name).is_file()

    @override
    def num_bytes(self) -> int:
        return sum(path.stat().st_size for path in self.path.rglob("*") if path.is_file())

    @override
    def local_path(self, *names: str) -> Path:
        return self.path

    @override
    def delete(self, *names: str) -> None:
        for name in names:
            (self.path / name).unlink(missing_ok=True)

    @override
    def delete_all(self) -> None:
        shutil.rmtree(self.path, ignore_errors=True)

    @override
    @contextmanager
    def lock(self, name: str) -> Iterator[Callable[[], None]]:
        path = self.path / name
        lock = FileLock(path, poll_interval=0.2)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            _acquire(lock, path)
            path.write_text(process_name())
        except OSError as error:
            raise StorageError(
                f"{path.parent}: cannot be written or locked ({error.strerror or error}); choose another folder"
            ) from error
        try:
            yield lambda: None
        finally:
            path.unlink(missing_ok=True)
            lock.release()

    @override
    def remove_stale(self) -> None:
        for path in self.path.rglob(".*.partial"):
            with suppress(OSError):
                if time.time() - path.stat().st_mtime > _STALE_PARTIAL_SECONDS:
                    path.unlink()


def _acquire(lock: FileLock, path: Path) -> None:
    owner = "another process"
    for seconds in (_LOCAL_OWNER_SECONDS, _REMOTE_OWNER_SECONDS):
        with suppress(Timeout):
            lock.acquire(timeout=seconds)
            return
        with suppress(FileNotFoundError):
            owner = path.read_text() or owner
        if owner == "another process" or owner.endswith(f" on {socket.gethostname()}"):
            break
    message = f"{path}: locked by {owner}; wait until it ends, or delete the file if that machine is gone"
    raise LockHeldError(message, owner)


def _not_found(path: Path) -> ObjectNotFound:
    return ObjectNotFound(f"{path}: file not found; check the folder")
