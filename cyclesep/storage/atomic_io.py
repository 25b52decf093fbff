"""Files that appear whole or not at all."""

import errno
import fcntl
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from cyclesep.errors import StorageError

_REMEDIES = (
    ({errno.ENOSPC, errno.EDQUOT}, "free space or choose another place"),
    ({errno.EEXIST, errno.ENOTDIR}, "a file is where a folder should be; choose another place"),
    ({errno.EISDIR}, "a folder has this name; choose another name"),
    ({errno.ENAMETOOLONG}, "a name may have 255 bytes; choose a shorter one"),
    ({errno.EACCES, errno.EPERM}, "you may not write there; choose another place or change its permissions"),
    ({errno.EROFS, errno.ENOENT}, "no files can be made there; choose another place"),
)
# Of the name of a partial file, so that one of 255 bytes, as long as there may be, has room for the rest of it.
_SHOWN_CHARACTERS = 40


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary path beside `path`; rename it onto `path` when the block ends well, else delete it.

    Folders above are made, and go again with a block that fails. Raises StorageError when the place is full, read-only
    or otherwise refuses.
    """
    partial = path.with_name(f".{path.name[:_SHOWN_CHARACTERS]}.{uuid.uuid4().hex[:8]}.partial")
    made: list[Path] = []
    try:
        # Also raises for a name that is too long, before the work is done.
        path.exists()
        made = [folder for folder in path.parents if not folder.exists()]
        path.parent.mkdir(parents=True, exist_ok=True)
        yield partial
        partial.replace(path)
        made = []
    except OSError as problem:
        raise StorageError(
            f"{path}: cannot be written ({problem.strerror or problem}); {_remedy(problem)}"
        ) from problem
    finally:
        with suppress(OSError):
            partial.unlink()
        with suppress(OSError):
            for folder in made:
                # Only an empty one goes.
                folder.rmdir()


def _remedy(problem: OSError) -> str:
    return next((told for numbers, told in _REMEDIES if problem.errno in numbers), "choose another place")


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically."""
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8")


def locked(path: Path, *, wait: bool) -> IO[str] | None:
    """A lock file, held and empty; None if somebody else holds it and `wait` is false.

    The system gives it back however this process ends; whoever gives it back removes the file first.
    """
    while True:
        file = path.open("a")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            file.close()
            return None
        # The one who held it has removed it: what is locked now is a file without a name.
        if os.fstat(file.fileno()).st_nlink:
            file.truncate(0)
            return file
        file.close()


def exists(path: Path) -> bool:
    """Whether there is a file or folder; False, where Path.exists raises, for a name longer than any may be."""
    try:
        return path.exists()
    except OSError:
        return False


def as_name(text: str) -> str:
    """`text` as the name of one file or folder: a slash becomes _, as museval has it, and what leads elsewhere too."""
    name = text.replace("/", "_").replace("\0", "_")
    return name if name.strip(".") else "_" * max(1, len(name))


def is_name(text: str) -> bool:
    """Whether `text` is the name of one file or folder, which leads nowhere else."""
    return text == as_name(text)


def shown(path: Path) -> str:
    """A path as a person types it here: relative to the working directory if it lies below."""
    path = path.absolute()
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)
