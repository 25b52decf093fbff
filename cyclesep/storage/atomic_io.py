"""Atomic writes and file names on this machine."""

import errno
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from cyclesep.errors import StorageError

_REMEDIES = (
    ({errno.ENOSPC, errno.EDQUOT}, "free space or choose another location"),
    ({errno.EEXIST, errno.ENOTDIR}, "a parent folder is a file; choose another location"),
    ({errno.EISDIR}, "a folder has this name; choose another name"),
    ({errno.ENAMETOOLONG}, "a name may have at most 255 bytes; choose a shorter one"),
    ({errno.EACCES, errno.EPERM}, "permission denied; choose another location or change its permissions"),
    ({errno.EROFS, errno.ENOENT}, "files cannot be created there; choose another location"),
)
# Characters of the name that a partial file repeats, so that its own name stays below the limit of 255 bytes.
_PARTIAL_NAME_CHARACTERS = 40


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path in the same folder; rename it to `path` after a block without an exception.

    Creates parent folders. If the block raises, deletes the temporary file and the folders it created. Raises
    StorageError for an OSError, such as a full or read-only disk.
    """
    partial = path.with_name(f".{path.name[:_PARTIAL_NAME_CHARACTERS]}.{uuid.uuid4().hex[:8]}.partial")
    created: list[Path] = []
    try:
        # Raises for a name that is too long before the caller does its work.
        path.exists()
        created = [folder for folder in path.parents if not folder.exists()]
        path.parent.mkdir(parents=True, exist_ok=True)
        yield partial
        partial.replace(path)
        created = []
    except OSError as error:
        raise StorageError(f"{path}: cannot be written ({error.strerror or error}); {_remedy(error)}") from error
    finally:
        with suppress(OSError):
            partial.unlink()
        with suppress(OSError):
            for folder in created:
                # Raises unless the folder is empty.
                folder.rmdir()


def _remedy(error: OSError) -> str:
    return next((text for numbers, text in _REMEDIES if error.errno in numbers), "choose another location")


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 text file atomically."""
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8")


def exists(path: Path) -> bool:
    """Return whether a file or folder exists; False for a name that is too long, where Path.exists raises."""
    try:
        return path.exists()
    except OSError:
        return False


def as_name(text: str) -> str:
    """Return `text` as a single file name: slashes and null bytes become _, as in museval, and so do "." and ".."."""
    name = text.replace("/", "_").replace("\0", "_")
    return name if name.strip(".") else "_" * max(1, len(name))


def is_name(text: str) -> bool:
    """Return whether `text` is a single file name that does not lead to another folder."""
    return text == as_name(text)
