"""Find input files: named files, audio files in folders, and glob patterns."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from cyclesep.audio.audio_io import AUDIO_SUFFIXES
from cyclesep.errors import ConfigError
from cyclesep.storage.atomic_io import exists


def find_inputs(inputs: Sequence[str], *, output: Path) -> dict[str, Path]:
    """Return audio files by track name: named files, and those found in folders and by patterns.

    A track name is the path relative to the folder without its suffix, or with it if two files differ in the suffix
    only. Skips files in `output` if it is below an input folder. Raises ConfigError if there are no files.
    """
    found: dict[str, Path] = {}
    for text in inputs:
        for root, path in _matches(text, output):
            if path not in found.values():
                found[_unused(track_name(path.relative_to(root)), path, found)] = path
    if not found:
        raise ConfigError(
            f"inputs: no audio files found in {', '.join(inputs)}; give audio files or folders of them "
            f"({' '.join(sorted(AUDIO_SUFFIXES))})"
        )
    return found


def track_name(path: Path) -> str:
    """Return a path without its suffix, or without the `.stem.mp4` of a MUSDB18 track."""
    name = path.with_suffix("")
    return str(name.with_suffix("") if name.suffix == ".stem" else name)


def _matches(text: str, output: Path) -> Iterator[tuple[Path, Path]]:
    """Yield (folder that names are relative to, file) for a file, a folder or a glob pattern."""
    path = Path(text)
    is_present = exists(path)
    if is_present and path.is_dir():
        excluded = output.resolve() if path.resolve() in output.resolve().parents else None
        for file in sorted(path.rglob("*")):
            if _is_audio(file) and excluded not in file.resolve().parents:
                yield path, file
    elif any(character in text for character in "*?[") and not is_present:
        matched = sorted(Path(path.anchor).glob(str(path.relative_to(path.anchor))))
        yield from ((file.parent, file) for file in matched if _is_audio(file))
    else:
        # A named file is tried with any suffix, and reported later if it is missing.
        yield path.parent, path


def _is_audio(path: Path) -> bool:
    return path.is_file() and path.suffix.lower() in AUDIO_SUFFIXES and not path.name.startswith(".")


def _unused(name: str, path: Path, taken: Mapping[str, Path]) -> str:
    candidates = itertools.chain([name, name + path.suffix], (f"{name}-{number}" for number in itertools.count(2)))
    return next(candidate for candidate in candidates if candidate not in taken)
