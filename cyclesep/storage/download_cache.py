"""A cache of downloaded S3 files, for readers that need a local path; shared by all processes of this machine.

    CYCLESEP_CACHE/copies/KEY/name      a complete, verified file
    CYCLESEP_CACHE/copies/KEY/.lock     exists while a process downloads

KEY is a hash of the prefix and of the ETags of all objects in it, so a rewritten object leads to a new folder. A
folder's modification time is its last use. Folders unused for an hour are deleted, except for the most recent ones.
"""

import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from cyclesep.errors import StorageError
from cyclesep.storage import s3_objects
from cyclesep.storage.s3_transfers import download
from cyclesep.storage.uri import absolute_uri, join_uri

FOLDER_VARIABLE = "CYCLESEP_CACHE"
NUM_KEPT = 8
KEPT_SECONDS = 3600.0

_LOCK = ".lock"


def cache_folder() -> Path:
    """Return the folder in which this machine caches downloads."""
    given = os.environ.get(FOLDER_VARIABLE)
    return Path(given).expanduser().absolute() if given else _default_folder()


@contextmanager
def locked(path: Path, *, timeout: float = -1) -> Iterator[None]:
    """Hold the lock file `path` of the cache for the length of the block, and delete it afterwards.

    The operating system releases it when the process ends. Raises filelock.Timeout if another process or thread holds
    it for `timeout` seconds (-1: waits forever), StorageError if the cache cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        lock = FileLock(path, poll_interval=0.02).acquire(timeout=timeout)
    except Timeout:
        raise
    except OSError as problem:
        raise unusable(path.parent, problem) from problem
    with lock:
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def unusable(folder: Path, problem: OSError) -> StorageError:
    """Return the error for a cache that cannot be written."""
    return StorageError(
        f"{folder}: downloads from S3 cannot be cached there ({problem.strerror}); set {FOLDER_VARIABLE} to a "
        "writable folder"
    )


def cached_folder(uri: str, names: Iterable[str]) -> Path:
    """Return a local folder with those of the files `names` that exist directly below `uri`, downloading as needed.

    Safe for concurrent processes. Raises StorageError if a download fails or is damaged, or if the cache cannot be
    written.
    """
    uri = absolute_uri(uri)
    objects = s3_objects.list_objects(uri, deep=False)
    state = [uri, *(f"{name} {info.etag}" for name, info in sorted(objects.items()))]
    copies = cache_folder() / "copies"
    folder = copies / hashlib.sha256("\n".join(state).encode()).hexdigest()[:32]
    with locked(folder / _LOCK):
        os.utime(folder)
        for name in names:
            file = folder / name
            if name in objects and not (file.is_file() and file.stat().st_size == objects[name].bytes):
                download(join_uri(uri, name), file)
    _remove_unused(copies)
    return folder


def _remove_unused(copies: Path) -> None:
    """Delete folders that were not used for a while; other processes may do the same."""
    used: list[tuple[float, Path]] = []
    for folder in copies.iterdir():
        with suppress(OSError):
            used.append((folder.stat().st_mtime, folder))
    for last, folder in sorted(used, reverse=True)[NUM_KEPT:]:
        if time.time() - last > KEPT_SECONDS:
            shutil.rmtree(folder, ignore_errors=True)


def _default_folder() -> Path:
    caches = Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser())
    nearest = next(folder for folder in (caches, *caches.absolute().parents) if folder.exists())
    if os.access(nearest, os.W_OK):
        return caches / "cyclesep" / "shards"
    return Path(tempfile.gettempdir()) / f"cyclesep-{os.getuid()}" / "shards"
