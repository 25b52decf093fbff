"""A folder of track folders, each with one audio file per stem."""

import hashlib
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from cyclesep.audio import audio_io
from cyclesep.audio.audio_io import Waveform
from cyclesep.audio.stem_names import MIXTURE
from cyclesep.errors import CorpusError

SPLITS = ("train", "valid", "test")


@dataclass(frozen=True, kw_only=True)
class FileTrack:
    """A track whose stems are audio files."""

    track_id: str
    split: str
    folder: Path
    files: tuple[tuple[str, Path], ...]
    """(stem name, file) in the order in which the stems are kept."""

    def read(self) -> dict[str, Waveform]:
        """Read all files; raises CorpusError if one is missing or two claim one stem, AudioError for a damaged one."""
        if not self.files:
            raise CorpusError(f"{self.folder}: holds no audio files; put the track's stems there or remove the folder")
        missing = [file.name for _, file in self.files if not file.is_file()]
        if missing:
            raise CorpusError(f"{self.folder}: {', '.join(missing)} not found; complete the track or remove its folder")
        name, count = Counter(name for name, _ in self.files).most_common(1)[0]
        if count > 1:
            raise CorpusError(f"{self.folder}: {count} files hold the stem {name!r}; keep one of them")
        return {name: audio_io.read(file) for name, file in self.files}

    def fingerprint(self) -> str:
        """A hash of stem names, file names, sizes and times of change."""
        return fingerprint_files(self.files)


def find_tracks(root: Path, *, valid_fraction: float, test_fraction: float) -> list[FileTrack]:
    """Track folders in `root`, or in `root`/train, valid and test where there are such folders.

    Each audio file of a track folder is a stem of the file's name; "mixture" or "mix" is the mixture. Without split
    folders the split follows from the name of the track, see `split_by_name`. Raises CorpusError for a root that is
    not a folder, holds no track folders, or has track folders beside split folders.
    """
    if not root.is_dir():
        raise CorpusError(f"{root}: is not a folder; give the folder that holds one folder per track")
    folders = _visible_folders(root)
    by_split = [folder for folder in folders if folder.name in SPLITS]
    if by_split and len(by_split) < len(folders):
        stray = next(folder.name for folder in folders if folder.name not in SPLITS)
        raise CorpusError(f"{root}: {stray!r} lies beside {by_split[0].name!r}; move it into train, valid or test")
    if by_split:
        tracks = [_track(folder, split.name) for split in by_split for folder in _visible_folders(split)]
    else:
        tracks = [_track(folder, split_by_name(folder.name, valid_fraction, test_fraction)) for folder in folders]
    if not tracks:
        raise CorpusError(f"{root}: holds no track folders; put the stems of each track into a folder of its own")
    return tracks


def split_by_name(name: str, valid_fraction: float, test_fraction: float) -> str:
    """The split of a track from a hash of its name alone: it stays when tracks are added, and on every machine."""
    position = int.from_bytes(hashlib.sha256(name.encode(errors="surrogatepass")).digest()[:8], "big") / 2**64
    if position < test_fraction:
        return "test"
    return "valid" if position < test_fraction + valid_fraction else "train"


def fingerprint_files(files: Iterable[tuple[str, Path]]) -> str:
    """A hash of names, sizes and times of change of (stem name, file); a missing file counts as such."""
    described = []
    for name, file in files:
        state = file.stat() if file.is_file() else None
        described.append((name, file.name, state and (state.st_size, state.st_mtime_ns)))
    return hashlib.sha256(repr(described).encode(errors="surrogatepass")).hexdigest()


def is_audio(file: Path) -> bool:
    """Whether a file's name says that it holds audio; hidden files never do."""
    return file.suffix.lower() in audio_io.AUDIO_SUFFIXES and not file.name.startswith(".") and file.is_file()


def _track(folder: Path, split: str) -> FileTrack:
    files = sorted(file for file in folder.iterdir() if is_audio(file))
    return FileTrack(
        track_id=folder.name, split=split, folder=folder, files=tuple((_stem_name(file), file) for file in files)
    )


def _stem_name(file: Path) -> str:
    return MIXTURE if file.stem.lower() in ("mixture", "mix") else file.stem


def _visible_folders(root: Path) -> list[Path]:
    return sorted(folder for folder in root.iterdir() if folder.is_dir() and not folder.name.startswith((".", "__")))
