"""MUSDB18 (.stem.mp4) and MUSDB18-HQ (wav): musdb gives the layout and the splits, the audio is read without it.

musdb reads wavs as 16-bit and so clips float files, and starts two processes per stem; here wavs go through libsndfile
and all streams of a .stem.mp4 through FFmpeg's libraries in one pass, in this process.
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

# The streams of a .stem.mp4 go by order; their titles are not to be relied on.
STREAMS = ("mixture", "drums", "bass", "other", "vocals")
# The order in which MUSDB18 names its stems, and in which they are kept, as those of MUSDB18-HQ are.
STEMS = ("mixture", "vocals", "drums", "bass", "other")
SUFFIX = ".stem.mp4"

# A decoded stream that is this much shorter than its container says was cut off; encoders differ by less.
_TRUNCATED_SECONDS = 0.5


@dataclass(frozen=True, kw_only=True)
class StemMp4Track:
    """One .stem.mp4: a stereo stream per stem, the mixture first."""

    track_id: str
    split: str
    path: Path
    streams: tuple[str, ...] = STREAMS

    def read(self) -> dict[str, Waveform]:
        """Decode all streams at once to float32; raises AudioError for a file that is damaged or cut off."""
        decoded = dict(zip(self.streams, read_streams(self.path, len(self.streams)), strict=True))
        return {name: decoded[name] for name in sorted(decoded, key=_rank)}

    def fingerprint(self) -> str:
        """A hash of the file's name, size and time of change."""
        return fingerprint_files([(",".join(self.streams), self.path)])


def find_tracks(path: Path, *, default_split: str) -> list[StemMp4Track] | list[FileTrack]:
    """The tracks of a MUSDB18 or MUSDB18-HQ root, of one .stem.mp4, or of a folder of them, which are `default_split`.

    In a root the validation tracks are those that musdb names, or that `root`/setup.yaml does. Raises CorpusError for
    anything else.
    """
    if path.is_file() and path.name.endswith(SUFFIX):
        return [_flat_track(path, default_split)]
    if not path.is_dir():
        raise CorpusError(f"{path}: is no {SUFFIX} file and no folder; give MUSDB18's folder or one of its files")
    subsets = [subset for subset in ("train", "test") if (path / subset).is_dir()]
    flat = sorted(path.glob(f"*{SUFFIX}"))
    if not subsets and not flat:
        raise CorpusError(f"{path}: holds neither train/ and test/ nor {SUFFIX} files; give MUSDB18's own folder")
    if not subsets:
        return [_flat_track(file, default_split) for file in flat]
    is_wav = not any(next((path / subset).glob(f"*{SUFFIX}"), None) for subset in subsets)
    tracks = _hq_tracks(path, subsets) if is_wav else _stem_mp4_tracks(path, subsets)
    if not tracks:
        raise CorpusError(
            f"{path}: {' and '.join(subsets)} hold no {SUFFIX} files and no track folders; give MUSDB18's own folder"
        )
    return tracks


def read_streams(path: Path, num_streams: int) -> list[Waveform]:
    """Decode the audio streams of a file in their order; each keeps its own rate, channels and length.

    Raises AudioError if the file has another number of streams, cannot be decoded or is cut off.
    """
    streams = decode(path)
    if len(streams) != num_streams:
        raise AudioError(f"{path}: has {len(streams)} audio streams, not {num_streams}; fetch or export the file again")
    return [_complete(stream, name=f"{path}, stream {number}") for number, stream in enumerate(streams)]


def _complete(stream: DecodedStream, *, name: str) -> Waveform:
    waveform = Waveform(samples=stream.samples, sample_rate=stream.sample_rate)
    if waveform.seconds < stream.declared_seconds - _TRUNCATED_SECONDS:
        raise AudioError(
            f"{name}: ends at {waveform.seconds:.2f} s of {stream.declared_seconds:.2f} s; fetch the file again"
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
class _Setup:
    """What musdb knows about the corpus: its own setup, or that of `root`/setup.yaml."""

    streams: tuple[str, ...]
    files: dict[str, str]
    validation_tracks: frozenset[str]

    def split(self, subset: str, name: str) -> str:
        return "valid" if subset == "train" and name in self.validation_tracks else subset


def _read_setup(root: Path) -> _Setup:
    setup_file = "setup.yaml" if (root / "setup.yaml").is_file() else None
    try:
        # No subsets: to index tracks musdb probes every stem of every file, and gives up at the first damaged one.
        setup = musdb.DB(root=str(root), setup_file=setup_file, subsets=[]).setup
        ids = setup["stem_ids"]
        strange = next((name for name in (*ids, *setup["sources"].values()) if not is_name(str(name))), None)
        if strange is not None:
            raise CorpusError(f"{root / 'setup.yaml'}: {strange!r} is no name of a stem or of its file; correct it")
        return _Setup(
            streams=tuple(sorted(ids, key=ids.__getitem__)),
            files={"mixture": setup["mixture"], **setup["sources"]},
            validation_tracks=frozenset(setup["validation_tracks"]),
        )
    except (KeyError, TypeError, AttributeError, yaml.YAMLError) as problem:
        told = " ".join(str(problem).split())
        raise CorpusError(f"{root / 'setup.yaml'}: is no setup of musdb ({told}); repair or remove it") from problem


def _rank(stem: str) -> int:
    return STEMS.index(stem) if stem in STEMS else len(STEMS)


def _flat_track(path: Path, split: str) -> StemMp4Track:
    return StemMp4Track(track_id=path.name.removesuffix(SUFFIX), split=split, path=path)
