"""A folder on this machine or in S3 behind one set of verbs; files appear whole or not at all."""

import hashlib
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from cyclesep import files, storage
from cyclesep.errors import StorageError

# What a killed process leaves is hidden and harmless; it goes when nobody can still be writing it.
_ABANDONED_SECONDS = 3600.0


@dataclass(frozen=True)
class Folder:
    """A place and what may be done there; `name` is always a path below it with forward slashes."""

    place: str
    """Absolute path, or s3://bucket/prefix."""

    @classmethod
    def of(cls, place: Path | str) -> "Folder":
        """The folder that `place` means to this process; nothing is made. Raises StorageError for no location."""
        return cls(storage.absolute(place))

    @property
    def is_remote(self) -> bool:
        return storage.is_remote(self.place)

    def path_of(self, name: str) -> str:
        """Where a file lies, for messages and for readers that know both kinds."""
        return storage.join(self.place, name)

    @contextmanager
    def replacing(self, name: str) -> Iterator[Path]:
        """Give a local path to be written; when the block ends well it becomes the file `name`.

        Raises StorageError when the place is full, read-only or cannot be reached.
        """
        if not self.is_remote:
            with files.replacing(Path(self.path_of(name))) as partial:
                yield partial
            return
        with tempfile.TemporaryDirectory(prefix="cyclesep-upload-") as scratch:
            path = Path(scratch) / Path(name).name
            yield path
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            storage.upload([storage.Upload(path=path, uri=self.path_of(name), sha256=digest)])

    @contextmanager
    def reading(self, name: str) -> Iterator[Path]:
        """Give a local path to read `name` from, for the length of the block.

        Raises StorageError if there is no such file or it cannot be fetched.
        """
        if not self.is_remote:
            path = Path(self.path_of(name))
            if not path.is_file():
                raise StorageError(f"{path}: there is no such file; check the folder")
            yield path
            return
        with tempfile.TemporaryDirectory(prefix="cyclesep-download-") as scratch:
            path = Path(scratch) / Path(name).name
            storage.download(self.path_of(name), path)
            yield path

    def write_text(self, name: str, text: str) -> None:
        """Write a small file."""
        if self.is_remote:
            storage.write_text(self.path_of(name), text)
        else:
            files.write_text(Path(self.path_of(name)), text)

    def read_text(self, name: str) -> str:
        """A small file as UTF-8. Raises StorageError if it is not there or is no text."""
        if self.is_remote:
            return storage.read_text(self.path_of(name))
        path = Path(self.path_of(name))
        try:
            return path.read_text(encoding="utf-8")
        except FileNotFoundError as problem:
            raise StorageError(f"{path}: there is no such file; check the folder") from problem
        except (OSError, UnicodeDecodeError) as problem:
            raise StorageError(f"{path}: cannot be read ({problem}); write it again") from problem

    def sizes(self, name: str) -> dict[str, int]:
        """The bytes of each file directly in the folder `name` below this one; empty if there is no such folder."""
        if self.is_remote:
            return storage.sizes(self.path_of(name))
        found = {}
        with suppress(FileNotFoundError, NotADirectoryError):
            for path in Path(self.path_of(name)).iterdir():
                # Somebody else may be tidying up.
                with suppress(FileNotFoundError):
                    if path.is_file():
                        found[path.name] = path.stat().st_size
        return found

    def delete(self, name: str) -> None:
        """Delete a file; one that is not there does not matter."""
        if self.is_remote:
            storage.delete(self.place, [name])
        else:
            Path(self.path_of(name)).unlink(missing_ok=True)

    def sweep(self) -> None:
        """Remove hidden files that were being written an hour ago or longer, by processes that were killed."""
        if self.is_remote:
            return
        for path in Path(self.place).rglob(".*.partial"):
            with suppress(OSError):
                if time.time() - path.stat().st_mtime > _ABANDONED_SECONDS:
                    path.unlink()
