"""Files of a bucket on this machine's disk, for readers that need a path: fetched once, shared by all processes.

    CYCLESEP_CACHE/copies/KEY/name      a whole file, checked when it came
    CYCLESEP_CACHE/copies/KEY/.lock     held by the one process that fetches

KEY is made of the place and of the ETags of all that lies there: what was written anew is another folder. A folder's
time of change is its last use; what nobody used for an hour goes, but for the latest few.
"""

import fcntl
import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from cyclesep.errors import StorageError
from cyclesep.storage import s3_objects
from cyclesep.storage.s3_transfers import download
from cyclesep.storage.uri import absolute_uri, join_uri

FOLDER_VARIABLE = "CYCLESEP_CACHE"
NUM_KEPT = 8
KEPT_SECONDS = 3600.0

_LOCK = ".lock"


def cache_folder() -> Path:
    """Where this machine keeps what it has fetched."""
    told = os.environ.get(FOLDER_VARIABLE)
    return Path(told).expanduser().absolute() if told else _default_folder()


def cached_folder(uri: str, names: Iterable[str]) -> Path:
    """A folder of this machine with those of the files `names` that lie directly below `uri` now.

    Safe for several processes at once. Raises StorageError where they cannot be fetched, arrive damaged, or where the
    cache cannot be written.
    """
    uri = absolute_uri(uri)
    there = s3_objects.list_objects(uri, deep=False)
    told = [uri, *(f"{name} {stored.etag}" for name, stored in sorted(there.items()))]
    copies = cache_folder() / "copies"
    folder = copies / hashlib.sha256("\n".join(told).encode()).hexdigest()[:32]
    with _sole(folder):
        for name in names:
            file = folder / name
            if name in there and not (file.is_file() and file.stat().st_size == there[name].bytes):
                download(join_uri(uri, name), file)
    _sweep(copies)
    return folder


@contextmanager
def _sole(folder: Path) -> Iterator[None]:
    """Be the one process that writes there."""
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        lock = (folder / _LOCK).open("a")
        fcntl.flock(lock, fcntl.LOCK_EX)
        os.utime(folder)
    except OSError as problem:
        raise StorageError(
            f"{folder.parent}: copies from S3 cannot be kept there ({problem.strerror}); set {FOLDER_VARIABLE} to a "
            "folder that can be written"
        ) from problem
    with lock:
        yield


def _sweep(copies: Path) -> None:
    """Remove what was not used for long; others may be at it as well."""
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
