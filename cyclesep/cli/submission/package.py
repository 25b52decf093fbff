"""The zip file that travels with a job: the code of this checkout and the job's YAML files, and nothing else."""

import subprocess
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from cyclesep.errors import ConfigError

# Of the body of one request to a Ray head, which is the whole zip file.
MAX_BYTES = 100 * 2**20
# What a zip file may hold of one file beside its content: header, directory entry, twice the name.
_ENTRY_BYTES = 1024

# Folders that no job needs, directly below the checkout ...
_TOP_FOLDERS = {"data", "runs", "docs", "tests", "build", "dist", ".ci", ".github"}
# ... and at any depth.
_FOLDERS = {".git", ".venv", "venv", "__pycache__", ".mypy_cache", ".ruff_cache", ".pytest_cache", ".hypothesis"}
_SUFFIXES = {".pyc", ".partial", ".log"}
# Names by which people keep secrets beside their code; they stay here even where git would take them.
_SECRETS = (".env", ".env.*", "*.env", "*.pem", "*.key", "*.p12", "id_rsa*", "id_ed25519*", ".netrc", ".aws",
            "credentials", "credentials.*", "auth_token", "secret.*", "secrets", "secrets.*")  # fmt: skip

# All entries bear it, so that the same files give the same zip, which Ray then keeps and does not ask for again.
_ENTRY_TIME = (1980, 1, 1, 0, 0, 0)
_NUM_NAMED = 5


@dataclass(frozen=True, kw_only=True)
class Package:
    """Files by their names in the zip file."""

    files: Mapping[str, Path]
    num_bytes: int
    """Of the files as they are, which is what the limit is held against: music does not become smaller."""

    def write(self, path: Path) -> None:
        """Write the zip file; the same files give the same bytes."""
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, file in sorted(self.files.items()):
                entry = zipfile.ZipInfo(name, _ENTRY_TIME)
                entry.compress_type = zipfile.ZIP_DEFLATED
                entry.external_attr = (file.stat().st_mode & 0o777 | 0o600) << 16
                archive.writestr(entry, file.read_bytes())


def collect(root: Path, configs: Mapping[str, Path] | None = None) -> Package:
    """The files below `root` that a job may need, and `configs`, by their names in the zip, from wherever they lie.

    In a git checkout these are the files that git knows or would add. Raises ConfigError if they are more than a Ray
    head takes.
    """
    files = {name: root / name for name in _listed(root) if _travels(name) and (root / name).is_file()}
    files |= configs or {}
    sizes = {name: file.stat().st_size for name, file in files.items()}
    num_bytes = sum(sizes.values())
    if num_bytes + _ENTRY_BYTES * len(files) > MAX_BYTES:
        largest = sorted(sizes, key=sizes.__getitem__, reverse=True)[:_NUM_NAMED]
        told = ", ".join(f"{name} ({_mib(sizes[name])})" for name in largest if sizes[name] >= num_bytes / 100)
        raise ConfigError(
            f"{root}: {_mib(num_bytes)} would travel with the job and Ray takes {_mib(MAX_BYTES)}; "
            f"the largest: {told}; name them in .gitignore, or keep music and checkpoints in data/ and runs/"
        )
    return Package(files=files, num_bytes=num_bytes)


def _listed(root: Path) -> list[str]:
    """Names below `root`, with forward slashes: what git lists, or all where there is no git."""
    command = ["git", "-C", str(root), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        done = subprocess.run(command, capture_output=True, check=False)
    except OSError:
        done = None
    if done is not None and done.returncode == 0:
        return [name for name in done.stdout.decode(errors="surrogateescape").split("\0") if name]
    return [path.relative_to(root).as_posix() for path in _walked(root)]


def _walked(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.iterdir()):
        if path.is_dir() and not path.is_symlink() and path.name not in _FOLDERS:
            yield from _walked(path)
        elif path.is_file():
            yield path


def _travels(name: str) -> bool:
    *folders, file = name.split("/")
    return not (
        (folders and folders[0] in _TOP_FOLDERS)
        or any(folder in _FOLDERS or folder.endswith(".egg-info") for folder in folders)
        or Path(file).suffix in _SUFFIXES
        or any(fnmatch(part.lower(), pattern) for part in (*folders, file) for pattern in _SECRETS)
    )


def _mib(num_bytes: int) -> str:
    return f"{num_bytes / 2**20:.1f} MiB"
