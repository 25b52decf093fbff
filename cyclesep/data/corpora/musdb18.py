"""MUSDB18 (.stem.mp4) and MUSDB18-HQ (wav): musdb defines the layout and the splits; the audio is read without it.

musdb reads wavs as 16-bit integers, which clips float files, and starts two processes per stem. Here libsndfile reads
wavs, and FFmpeg's libraries decode all streams of a .stem.mp4 in one pass within this process.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import musdb
import yaml

from cyclesep.audio import audio_io
from cyclesep.audio.audio_io import Waveform
from cyclesep.audio.ffmpeg import DecodedStream, decode
from cyclesep.data.corpora.stem_folders import FileTrack, fingerprint_files
from cyclesep.errors import AudioError, CorpusError
from cyclesep.storage.atomic_io import is_name

# Streams of a .stem.mp4 are identified by their order; their titles are unreliable.
STREAMS = ("mixture", "drums", "bass", "other", "vocals")
# Order in which the stems are stored; the same for MUSDB18 and MUSDB18-HQ.
STEMS = ("mixture", "vocals", "drums", "bass", "other")
SUFFIX = ".stem.mp4"

# A decoded stream that is shorter than its declared length by more than this is truncated; encoder padding is smaller.
_TRUNCATED_SECONDS = 0.5


@dataclass(frozen=True, kw_only=True)
class StemMp4Track:
    """One .stem.mp4 file with a stereo stream per stem, the mixture first."""

    track_id: str
    split: str
    path: Path
    streams: tuple[str, ...] = STREAMS

    def read(self) -> dict[str, Waveform]:
        """Decode all streams in one pass to float32. Raises AudioError if the file is damaged or truncated."""
        decoded = dict(zip(self.streams, read_streams(self.path, len(self.streams)), strict=True))
        return {name: decoded[name] for name in sorted(decoded, key=_stem_order)}

    def fingerprint(self) -> str:
        """Return a hash of the file's name, size and modification time."""
        return fingerprint_files([(",".join(self.streams), self.path)])


def find_tracks(path: Path, *, default_split: str) -> list[StemMp4Track] | list[FileTrack]:
    """Return the tracks of a MUSDB18 or MUSDB18-HQ root, of one .stem.mp4, or of a folder of .stem.mp4 files.

    The validation tracks of a root are those in `root`/setup.yaml, or else musdb's own. Files outside a root belong to
    `default_split`. Raises CorpusError for any other path.
    """
    if path.is_file() and path.name.endswith(SUFFIX):
        return [_flat_track(path, default_split)]
    if not path.is_dir():
        raise CorpusError(
            f"{path}: is neither a {SUFFIX} file nor a folder; set the MUSDB18 folder or one of its files"
        )
    subsets = [subset for subset in ("train", "test") if (path / subset).is_dir()]
    flat = sorted(path.glob(f"*{SUFFIX}"))
    if not subsets and not flat:
        raise CorpusError(f"{path}: no train/ or test/ folder and no {SUFFIX} files found; set the MUSDB18 root folder")
    if not subsets:
        return [_flat_track(file, default_split) for file in flat]
    is_wav = not any(next((path / subset).glob(f"*{SUFFIX}"), None) for subset in subsets)
    tracks = _hq_tracks(path, subsets) if is_wav else _stem_mp4_tracks(path, subsets)
    if not tracks:
        raise CorpusError(
            f"{path}: no {SUFFIX} files or track folders in {' and '.join(subsets)}; set the MUSDB18 root folder"
        )
    return tracks


def read_streams(path: Path, num_streams: int) -> list[Waveform]:
    """Decode the audio streams of a file in order; each keeps its own rate, channels and length.

    Raises AudioError if the number of streams is wrong or the file is truncated or cannot be decoded.
    """
    streams = decode(path)
    if len(streams) != num_streams:
        raise AudioError(
            f"{path}: has {len(streams)} audio streams, expected {num_streams}; copy or export the file again"
        )
    return [_checked_waveform(stream, name=f"{path}, stream {number}") for number, stream in enumerate(streams)]


def _checked_waveform(stream: DecodedStream, *, name: str) -> Waveform:
    waveform = Waveform(samples=stream.samples, sample_rate=stream.sample_rate)
    if waveform.seconds < stream.declared_seconds - _TRUNCATED_SECONDS:
        raise AudioError(
            f"{name}: truncated at {waveform.seconds:.2f} s of {stream.declared_seconds:.2f} s; copy the file again"
        )
    return audio_io.check_samples(waveform, name=name)


def _stem_mp4_tracks(root: Path, subsets: Sequence[str]) -> list[StemMp4Track]:
    setup = _read_setup(root)
    tracks = []
    for subset in subsets:
        for path in sorted((root / subset).glob(f"[!.]*{SUFFIX}")):
            name = path.name.removesuffix(SUFFIX)
            tracks.append(
                StemMp4Track(track_id=name, split=setup.split(subset, name), path=path, streams=setup.streams)
            )
    return tracks


def _hq_tracks(root: Path, subsets: Sequence[str]) -> list[FileTrack]:
    setup = _read_setup(root)
    tracks = []
    for subset in subsets:
        for folder in sorted(path for path in (root / subset).glob("[!.]*") if path.is_dir()):
            files = tuple((stem, folder / name) for stem, name in setup.files.items())
            split = setup.split(subset, folder.name)
            tracks.append(FileTrack(track_id=folder.name, split=split, folder=folder, files=files))
    return tracks


@dataclass(frozen=True, kw_only=True)
class _MusdbSetup:
    """Stream order, file names and validation tracks from musdb's default setup or from `root`/setup.yaml."""

    streams: tuple[str, ...]
    files: dict[str, str]
    validation_tracks: frozenset[str]

    def split(self, subset: str, name: str) -> str:
        return "valid" if subset == "train" and name in self.validation_tracks else subset


def _read_setup(root: Path) -> _MusdbSetup:
    setup_file = "setup.yaml" if (root / "setup.yaml").is_file() else None
    try:
        # subsets=[] skips indexing, in which musdb probes every stem of every file and fails at the first damaged one.
        setup = musdb.DB(root=str(root), setup_file=setup_file, subsets=[]).setup
        ids = setup["stem_ids"]
        invalid = next((name for name in (*ids, *setup["sources"].values()) if not is_name(str(name))), None)
        if invalid is not None:
            raise CorpusError(f"{root / 'setup.yaml'}: invalid stem or file name {invalid!r}; correct it")
        return _MusdbSetup(
            streams=tuple(sorted(ids, key=ids.__getitem__)),
            files={"mixture": setup["mixture"], **setup["sources"]},
            validation_tracks=frozenset(setup["validation_tracks"]),
        )
    except (KeyError, TypeError, AttributeError, yaml.YAMLError) as problem:
        reason = " ".join(str(problem).split())
        raise CorpusError(f"{root / 'setup.yaml'}: not a valid musdb setup ({reason}); fix or remove it") from problem


def _stem_order(stem: str) -> int:
    return STEMS.index(stem) if stem in STEMS else len(STEMS)


def _flat_track(path: Path, split: str) -> StemMp4Track:
    return StemMp4Track(track_id=path.name.removesuffix(SUFFIX), split=split, path=path)
