"""Which files a person means: named ones, folders that hold audio, and patterns."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from cyclesep.audio.audio_io import AUDIO_SUFFIXES
from cyclesep.errors import ConfigError
from cyclesep.storage.atomic_io import exists


def find_inputs(inputs: Sequence[str], *, output: Path | None = None) -> dict[str, Path]:
    """Audio files by track name: named ones, and those found in folders and by patterns.

    Names are unique: the path below the folder without its suffix, with the suffix where two files differ in it only.
    What an earlier run has written into an `output` below a folder is passed over. Raises ConfigError if there is none.
    """
    found: dict[str, Path] = {}
    for text in inputs:
        for root, path in _matches(text, output):
            if path not in found.values():
                found[_unused(track_name(path.relative_to(root)), path, found)] = path
    if not found:
        raise ConfigError(
            f"inputs: {', '.join(inputs)} holds no audio files; give some, or folders of them "
            f"({' '.join(sorted(AUDIO_SUFFIXES))})"
        )
    return found


def track_name(path: Path) -> str:
    """A path without its suffix, or without the `.stem.mp4` of a MUSDB18 track."""
    name = path.with_suffix("")
    return str(name.with_suffix("") if name.suffix == ".stem" else name)


def _matches(text: str, output: Path | None) -> Iterator[tuple[Path, Path]]:
    """(folder that names are relative to, file) for a file, for each file in a folder, or for a glob pattern's."""
    path = Path(text)
    there = exists(path)
    if there and path.is_dir():
        below = output is not None and path.resolve() in output.resolve().parents
        for file in sorted(path.rglob("*")):
            if _is_audio(file) and not (below and output is not None and output.resolve() in file.resolve().parents):
                yield path, file
    elif any(sign in text for sign in "*?[") and not there:
        matched = sorted(Path(path.anchor).glob(str(path.relative_to(path.anchor))))
        yield from ((file.parent, file) for file in matched if _is_audio(file))
    else:
        # A file that was named is tried whatever its suffix, and told about if it is missing.
        yield path.parent, path


def _is_audio(path: Path) -> bool:
    return path.is_file() and path.suffix.lower() in AUDIO_SUFFIXES and not path.name.startswith(".")


def _unused(name: str, path: Path, taken: Mapping[str, Path]) -> str:
    candidates = itertools.chain([name, name + path.suffix], (f"{name}-{number}" for number in itertools.count(2)))
    return next(candidate for candidate in candidates if candidate not in taken)
