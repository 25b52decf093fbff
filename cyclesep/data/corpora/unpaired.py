"""Recordings of the target in one folder, recordings of anything else in another: no two belong together."""

from collections.abc import Mapping
from itertools import combinations
from pathlib import Path

from cyclesep.data.corpora.stem_folders import FileTrack, is_audio, split_by_name
from cyclesep.errors import CorpusError


def find_tracks(folders: Mapping[str, Path], *, valid_fraction: float, test_fraction: float) -> list[FileTrack]:
    """Each audio file below each folder is a track with one stem, which has the folder's key as its name.

    The split follows from the name of the track. Raises CorpusError for a folder that holds no audio, and for two
    folders of which one holds the other, because then a recording would be on both sides.
    """
    for one, other in combinations((folder.resolve() for folder in folders.values()), 2):
        if one.is_relative_to(other) or other.is_relative_to(one):
            raise CorpusError(f"{one} and {other}: one holds the other; keep the two kinds of recordings apart")
    return [track for stem, folder in folders.items() for track in _tracks(stem, folder, valid_fraction, test_fraction)]


def _tracks(stem: str, folder: Path, valid_fraction: float, test_fraction: float) -> list[FileTrack]:
    files = sorted(file for file in folder.rglob("*") if is_audio(file))
    if not files:
        raise CorpusError(f"{folder}: holds no audio files; give a folder of recordings")
    tracks = []
    for file in files:
        track_id = f"{stem}/{file.relative_to(folder).as_posix()}"
        split = split_by_name(track_id, valid_fraction, test_fraction)
        tracks.append(FileTrack(track_id=track_id, split=split, folder=file.parent, files=((stem, file),)))
    return tracks
