"""Corpora in which each track is a folder with one audio file per stem."""

import hashlib
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from cyclesep.audio import audio_io, audio_reader
from cyclesep.audio.audio_io import Waveform
from cyclesep.audio.stem_names import MIXTURE
from cyclesep.errors import CorpusError

SPLITS = ("train", "valid", "test")


@dataclass(frozen=True, kw_only=True)
class FileTrack:
    """A track with one audio file per stem."""

    track_id: str
    split: str
    folder: Path
    files: tuple[tuple[str, Path], ...]
    """Pairs (stem name, file), in the order in which the stems are stored."""

    def read(self) -> dict[str, Waveform]:
        """Read all files. Raises CorpusError for missing files and duplicate stems, AudioError for damaged files."""
        if not self.files:
            raise CorpusError(f"{self.folder}: no audio files found; put the track's stems there or remove the folder")
        missing = [file.name for _, file in self.files if not file.is_file()]
        if missing:
            raise CorpusError(f"{self.folder}: {', '.join(missing)} not found; complete the track or remove its folder")
        name, count = Counter(name for name, _ in self.files).most_common(1)[0]
        if count > 1:
            raise CorpusError(f"{self.folder}: {count} files for the stem {name!r}; keep one of them")
        return {name: audio_reader.read(file) for name, file in self.files}

    def fingerprint(self) -> str:
        """Return a hash of stem names, file names, sizes and modification times."""
        return fingerprint_files(self.files)


def find_tracks(root: Path, *, valid_fraction: float, test_fraction: float) -> list[FileTrack]:
    """Return the track folders in `root`, or in `root`/{train,valid,test} if these folders exist.

    Each audio file in a track folder is a stem with the file's name; "mixture" or "mix" is the mixture. Without split
    folders, `split_by_name` assigns the splits. Raises CorpusError if `root` is not a folder, has no track folders, or
    has both track folders and split folders.
    """
    if not root.is_dir():
        raise CorpusError(f"{root}: is not a folder; set the folder that contains one folder per track")
    folders = _visible_folders(root)
    by_split = [folder for folder in folders if folder.name in SPLITS]
    if by_split and len(by_split) < len(folders):
        stray = next(folder.name for folder in folders if folder.name not in SPLITS)
        raise CorpusError(f"{root}: {stray!r} is next to {by_split[0].name!r}; move it into train, valid or test")
    if by_split:
        tracks = [_track(folder, split.name) for split in by_split for folder in _visible_folders(split)]
    else:
        tracks = [_track(folder, split_by_name(folder.name, valid_fraction, test_fraction)) for folder in folders]
    if not tracks:
        raise CorpusError(f"{root}: no track folders found; put the stems of each track into its own folder")
    return tracks


def split_by_name(name: str, valid_fraction: float, test_fraction: float) -> str:
    """Return the split of a track from a hash of its name: independent of the other tracks and of the machine."""
    position = int.from_bytes(hashlib.sha256(name.encode(errors="surrogatepass")).digest()[:8], "big") / 2**64
    if position < test_fraction:
        return "test"
    return "valid" if position < test_fraction + valid_fraction else "train"


def fingerprint_files(files: Iterable[tuple[str, Path]]) -> str:
    """Return a hash of the names, sizes and modification times of (stem name, file) pairs; files may be missing."""
    described = []
    for name, file in files:
        state = file.stat() if file.is_file() else None
        described.append((name, file.name, state and (state.st_size, state.st_mtime_ns)))
    return hashlib.sha256(repr(described).encode(errors="surrogatepass")).hexdigest()


def is_audio(file: Path) -> bool:
    """Return whether a file has the suffix of an audio format and is not hidden."""
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
