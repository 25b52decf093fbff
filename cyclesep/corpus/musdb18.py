"""MUSDB18 (.stem.mp4) and MUSDB18-HQ (wav): musdb gives the layout and the splits, the audio is read without it.

musdb reads wavs as 16-bit and so clips float files, and starts two processes per stem; here wavs go through libsndfile
and all streams of a .stem.mp4 through one ffmpeg.
"""

import json
import os
import subprocess
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import musdb
import numpy as np
import yaml

from cyclesep import audio
from cyclesep.audio import Waveform
from cyclesep.corpus.stem_folders import FileTrack, fingerprint_files
from cyclesep.errors import AudioError, CorpusError

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


def find_tracks(path: Path, *, flat_split: str) -> list[StemMp4Track] | list[FileTrack]:
    """The tracks of a MUSDB18 or MUSDB18-HQ root, of one .stem.mp4, or of a folder of them, which are `flat_split`.

    In a root the validation tracks are those that musdb names, or that `root`/setup.yaml does. Raises CorpusError for
    anything else.
    """
    if path.is_file() and path.name.endswith(SUFFIX):
        return [_flat_track(path, flat_split)]
    if not path.is_dir():
        raise CorpusError(f"{path}: is no {SUFFIX} file and no folder; give MUSDB18's folder or one of its files")
    subsets = [subset for subset in ("train", "test") if (path / subset).is_dir()]
    flat = sorted(path.glob(f"*{SUFFIX}"))
    if not subsets and not flat:
        raise CorpusError(f"{path}: holds neither train/ and test/ nor {SUFFIX} files; give MUSDB18's own folder")
    if not subsets:
        return [_flat_track(file, flat_split) for file in flat]
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
    formats = _probe(path)
    if len(formats) != num_streams:
        raise AudioError(f"{path}: has {len(formats)} audio streams, not {num_streams}; fetch or export the file again")
    contents = _decode(path, num_streams)
    waveforms = []
    for number, stream in enumerate(formats):
        # Taken out of the list, so that a song is not held twice.
        decoded = np.frombuffer(contents.pop(0), dtype="<f4").reshape(-1, int(stream["channels"]))
        samples = np.ascontiguousarray(decoded.T, dtype=np.float32)
        waveform = Waveform(samples=samples, sample_rate=int(stream["sample_rate"]))
        declared = float(stream.get("duration", 0.0))
        if waveform.seconds < declared - _TRUNCATED_SECONDS:
            raise AudioError(
                f"{path}: stream {number} ends at {waveform.seconds:.2f} s of {declared:.2f} s; fetch the file again"
            )
        waveforms.append(audio.checked(waveform, name=f"{path}, stream {number}"))
    return waveforms


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


def _probe(path: Path) -> list[dict[str, Any]]:
    """Rate, channels and declared duration of each audio stream."""
    entries = "stream=sample_rate,channels,duration"
    command = [
        "ffprobe",
        "-v",
        "error",
        "-select_streams",
        "a",
        "-show_entries",
        entries,
        "-of",
        "json",
        f"file:{path}",
    ]
    try:
        probe = subprocess.run(command, capture_output=True, stdin=subprocess.DEVNULL, check=False)
    except FileNotFoundError as problem:
        raise AudioError(f"{path}: cannot be read without ffmpeg and ffprobe; install ffmpeg") from problem
    if probe.returncode != 0:
        raise AudioError(f"{path}: ffprobe cannot read it ({_last_line(probe.stderr)}); fetch or export the file again")
    streams: list[dict[str, Any]] = json.loads(probe.stdout).get("streams", [])
    return streams


def _decode(path: Path, num_streams: int) -> list[bytes]:
    """Little-endian float32 of each audio stream, interleaved channels: one ffmpeg, one pipe per stream."""
    command = ["ffmpeg", "-v", "error", "-nostdin", "-xerror", "-i", f"file:{path}"]
    with ExitStack() as stack:
        pipes = [os.pipe() for _ in range(num_streams)]
        readers = [stack.enter_context(os.fdopen(read_end, "rb")) for read_end, _ in pipes]
        writers = [stack.enter_context(os.fdopen(write_end, "wb")) for _, write_end in pipes]
        for number, writer in enumerate(writers):
            command += ["-map", f"0:a:{number}", "-f", "f32le", f"pipe:{writer.fileno()}"]
        process = stack.enter_context(
            subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                pass_fds=[writer.fileno() for writer in writers],
            )
        )
        for writer in writers:
            writer.close()
        # All at once: ffmpeg stops at the first full pipe.
        with ThreadPoolExecutor(num_streams + 1) as pool:
            told = pool.submit(process.stderr.read) if process.stderr else None
            contents = list(pool.map(lambda reader: reader.read(), readers))
        if process.wait() != 0:
            reason = _last_line(told.result()) if told else ""
            raise AudioError(f"{path}: ffmpeg cannot decode it ({reason}); fetch or export the file again")
    return contents


def _last_line(told: bytes) -> str:
    lines = told.decode(errors="replace").strip().splitlines()
    return lines[-1] if lines else "no reason given"
