"""Corpora of unpaired recordings: the target in one folder, unrelated background recordings in another."""

from collections.abc import Mapping
from itertools import combinations
from pathlib import Path

from cyclesep.data.corpora.stem_folders import FileTrack, is_audio, split_by_name
from cyclesep.errors import CorpusError


def find_tracks(folders: Mapping[str, Path], *, valid_fraction: float, test_fraction: float) -> list[FileTrack]:
    """Return one track per audio file in `folders` (stem name to folder, searched recursively).

    Each track has a single stem, named by the key of its folder; `split_by_name` assigns the splits. Raises CorpusError
    if a folder contains no audio, or if one folder contains the other, which would assign a recording to both stems.
    """
    for first, second in combinations((folder.resolve() for folder in folders.values()), 2):
        if first.is_relative_to(second) or second.is_relative_to(first):
            raise CorpusError(f"{first} and {second}: one contains the other; use two separate folders")
    return [track for stem, folder in folders.items() for track in _tracks(stem, folder, valid_fraction, test_fraction)]


def _tracks(stem: str, folder: Path, valid_fraction: float, test_fraction: float) -> list[FileTrack]:
    files = sorted(file for file in folder.rglob("*") if is_audio(file))
    if not files:
        raise CorpusError(f"{folder}: no audio files found; set a folder with recordings")
    tracks = []
    for file in files:
        track_id = f"{stem}/{file.relative_to(folder).as_posix()}"
        split = split_by_name(track_id, valid_fraction, test_fraction)
        tracks.append(FileTrack(track_id=track_id, split=split, folder=file.parent, files=((stem, file),)))
    return tracks
