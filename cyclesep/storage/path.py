"""A folder on this machine or in S3 behind one set of verbs; files appear whole or not at all."""

import shutil
import socket
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from cyclesep import storage
from cyclesep.errors import StorageError
from cyclesep.storage import atomic_io

# What a killed process leaves is hidden and harmless; it goes when nobody can still be writing it.
_ABANDONED_SECONDS = 3600.0
# What processes of a job that was killed may take to follow it; and a server of NFS to forget a machine that was lost.
_DYING_SECONDS, _LEASE_SECONDS = 5.0, 120.0


@dataclass(frozen=True)
class StoragePath:
    """A place and what may be done there; `name` is always a path below it with forward slashes."""

    place: str
    """Absolute path, or s3://bucket/prefix."""

    @classmethod
    def of(cls, place: Path | str) -> "StoragePath":
        """The folder that `place` means to this process; nothing is made. Raises StorageError for no location."""
        return cls(storage.absolute(place))

    @property
    def is_remote(self) -> bool:
        return storage.is_remote(self.place)

    @property
    def name(self) -> str:
        """The last part of its place."""
        return self.place.rstrip("/").rpartition("/")[2]

    @property
    def path(self) -> Path:
        """The folder as a path of this machine; raises StorageError if it lies in S3."""
        if self.is_remote:
            raise StorageError(f"{self.place}: lies in S3; copy it to a folder of this machine first")
        return Path(self.place)

    def below(self, *names: str) -> "StoragePath":
        """The folder of that name below this one, made or not."""
        return StoragePath(storage.join(self.place, *names))

    def path_of(self, name: str) -> str:
        """Where a file lies, for messages and for readers that know both kinds."""
        return storage.join(self.place, name)

    @contextmanager
    def replacing(self, name: str) -> Iterator[Path]:
        """Give a local path to be written; when the block ends well it becomes the file `name`.

        Raises StorageError when the place is full, read-only or cannot be reached.
        """
        if not self.is_remote:
            with atomic_io.replacing(Path(self.path_of(name))) as partial:
                yield partial
            return
        with tempfile.TemporaryDirectory(prefix="cyclesep-upload-") as scratch:
            path = Path(scratch) / Path(name).name
            yield path
            storage.upload([storage.Upload.of(path, self.path_of(name))])

    @contextmanager
    def reading(self, name: str) -> Iterator[Path]:
        """Give a local path to read `name` from, for the length of the block.

        Raises ObjectNotFound if there is no such file, StorageError if it cannot be fetched.
        """
        if not self.is_remote:
            path = Path(self.path_of(name))
            if not path.is_file():
                raise storage.ObjectNotFound(f"{path}: there is no such file; check the folder")
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
            atomic_io.write_text(Path(self.path_of(name)), text)

    def read_text(self, name: str) -> str:
        """A small file as UTF-8. Raises ObjectNotFound if it is not there, StorageError if it is no text."""
        if self.is_remote:
            return storage.read_text(self.path_of(name))
        path = Path(self.path_of(name))
        try:
            return path.read_text(encoding="utf-8")
        except FileNotFoundError as problem:
            raise storage.ObjectNotFound(f"{path}: there is no such file; check the folder") from problem
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

    def folders(self) -> list[str]:
        """Names of the folders directly in this one, sorted; empty if there is no such folder."""
        if self.is_remote:
            return storage.folders(self.place)
        with suppress(FileNotFoundError, NotADirectoryError):
            return sorted(path.name for path in Path(self.place).iterdir() if path.is_dir())
        return []

    def exists(self) -> bool:
        """Whether it is there; in S3, whether anything is below it."""
        return bool(storage.listed(self.place, limit=1)) if self.is_remote else Path(self.place).exists()

    def holds(self, name: str) -> bool:
        """Whether there is a file `name`."""
        return storage.look(self.path_of(name)) is not None if self.is_remote else Path(self.path_of(name)).is_file()

    def num_bytes(self) -> int:
        """Of all files in it, however deep."""
        if self.is_remote:
            return sum(stored.bytes for stored in storage.listed(self.place).values())
        return sum(path.stat().st_size for path in Path(self.place).rglob("*") if path.is_file())

    def local_path(self, *names: str) -> Path:
        """A folder of this machine that holds those of the files `names` that are here: this one, or a kept copy.

        The copy is to be read only, and stays for an hour at least. Raises StorageError if they cannot be fetched.
        """
        return storage.copied(self.place, names) if self.is_remote else Path(self.place)

    def delete(self, name: str) -> None:
        """Delete a file; one that is not there does not matter."""
        if self.is_remote:
            storage.delete(self.place, [name])
        else:
            Path(self.path_of(name)).unlink(missing_ok=True)

    def delete_all(self) -> None:
        """Delete the folder and whatever is in it; one that is not there does not matter."""
        if self.is_remote:
            storage.delete(self.place, storage.listed(self.place))
        else:
            shutil.rmtree(self.place, ignore_errors=True)

    def copy_files(self, source: "StoragePath", *, last: str) -> None:
        """Copy the files directly in `source` into this folder, `last` after all others: with it the copy is whole."""
        for name in sorted(source.sizes(""), key=lambda name: name == last):
            with source.reading(name) as here, self.replacing(name) as there:
                shutil.copyfile(here, there)

    @contextmanager
    def held(self, name: str) -> Iterator[None]:
        """Keep other processes that ask for the same out of the block, of any machine if the folder lies in S3.

        The lock is the file `name`. One that its owner left when it was killed is waited for until it counts as
        abandoned: in S3 90 s at most, on a shared disk 120 s if it was of another machine. Raises LockHeldError if
        somebody holds it, StorageError if it cannot be written.
        """
        if not self.is_remote:
            with _held_here(self.path / name):
                yield
            return
        lock = storage.StorageLock(self.path_of(name))
        lock.acquire(wait_for_the_dead=True)
        try:
            yield
        finally:
            lock.release()

    def sweep(self) -> None:
        """Remove hidden files that were being written an hour ago or longer, by processes that were killed."""
        if self.is_remote:
            return
        for path in Path(self.place).rglob(".*.partial"):
            with suppress(OSError):
                if time.time() - path.stat().st_mtime > _ABANDONED_SECONDS:
                    path.unlink()


def _text_of(path: Path) -> str:
    """What a file holds; nothing if it has just been removed."""
    try:
        return path.read_text()
    except FileNotFoundError:
        return ""


@contextmanager
def _held_here(path: Path) -> Iterator[None]:
    began = time.monotonic()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        while (lock := atomic_io.locked(path, wait=False)) is None:
            holder = _text_of(path)
            is_here = not holder or holder.endswith(f" on {socket.gethostname()}")
            if time.monotonic() - began > (_DYING_SECONDS if is_here else _LEASE_SECONDS):
                raise storage.LockHeldError(
                    f"{path}: held by {holder or 'another process'}; wait for it, or delete the file if that one's "
                    "machine is gone"
                )
            time.sleep(0.2)
    except OSError as problem:
        raise StorageError(
            f"{path}: cannot be written or locked ({problem.strerror or problem}); choose another place"
        ) from problem
    with lock:
        lock.write(storage.this_process())
        lock.flush()
        try:
            yield
        finally:
            path.unlink(missing_ok=True)
