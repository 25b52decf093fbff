"""Write synthetic tracks as MUSDB18-HQ folders of wavs or as MUSDB18 .stem.mp4 files."""

import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from cyclesep.audio.audio_io import Waveform, to_pcm16, write_wav
from cyclesep.data.corpora.composer.signals import SAMPLE_RATE
from cyclesep.data.corpora.composer.track import SyntheticTrack
from cyclesep.errors import StorageError
from cyclesep.storage.atomic_io import replacing, write_text

SETUP_FILE = "setup.yaml"
STEMS = ("vocals", "drums", "bass", "other")
# Stream order of a .stem.mp4, as musdb and stempeg expect it.
STREAMS = ("mixture", "drums", "bass", "other", "vocals")


def write_musdb_hq(tracks: Iterable[SyntheticTrack], root: Path) -> None:
    """Write `root/{train,test}/<name>/{mixture,vocals,drums,bass,other}.wav`, 16-bit, and `root/setup.yaml`.

    Validation tracks are in train and listed in setup.yaml, which is written last. Read the folder with
    `musdb.DB(root, is_wav=True, setup_file="setup.yaml")`. Raises StorageError if a file cannot be written.
    """
    written = []
    for track in tracks:
        for name, waveform in track.read().items():
            write_wav(_subset_folder(root, track) / track.track_id / f"{name}.wav", waveform, subtype="PCM_16")
        written.append(track)
    _write_setup(written, root)


def write_stem_mp4(tracks: Iterable[SyntheticTrack], root: Path) -> None:
    """Write `root/{train,test}/<name>.stem.mp4`, five stereo streams in ALAC (lossless), and `root/setup.yaml`.

    Read the folder with `musdb.DB(root, setup_file="setup.yaml")`. Raises StorageError if ffmpeg is missing or fails,
    or if a file cannot be written.
    """
    written = []
    for track in tracks:
        _encode(track.read(), _subset_folder(root, track) / f"{track.track_id}.stem.mp4")
        written.append(track)
    _write_setup(written, root)


def _subset_folder(root: Path, track: SyntheticTrack) -> Path:
    return Path(root) / ("test" if track.split == "test" else "train")


def _encode(stems: Mapping[str, Waveform], path: Path) -> None:
    """Pipe ten channels to ffmpeg, which encodes them as five stereo streams."""
    channels = np.concatenate([to_pcm16(stems[name].samples) for name in STREAMS])
    command = ["ffmpeg", "-v", "error", "-y", "-f", "s16le", "-ar", str(SAMPLE_RATE), "-ac", str(len(channels))]
    command += ["-i", "pipe:0", "-filter_complex", _stereo_pairs()]
    for number, name in enumerate(STREAMS):
        command += ["-map", f"[stream{number}]", f"-metadata:s:a:{number}", f"title={name}"]
    command += ["-c:a", "alac", "-sample_fmt", "s16p", "-bitexact", "-f", "mp4"]
    with replacing(path) as partial:
        try:
            encoded = subprocess.run(
                [*command, str(partial)], input=channels.T.astype("<i2").tobytes(), capture_output=True, check=False
            )
        except FileNotFoundError as problem:
            raise StorageError(f"{path}: ffmpeg is not installed; install it, or write wavs instead") from problem
        if encoded.returncode != 0:
            reason = encoded.stderr.decode(errors="replace").strip() or "no error message"
            raise StorageError(f"{path}: ffmpeg cannot encode it ({reason}); use an ffmpeg build with ALAC")


def _stereo_pairs() -> str:
    """Return the ffmpeg filter that splits the input channels into stereo streams."""
    pairs = [
        f"[copy{number}]pan=stereo|c0=c{2 * number}|c1=c{2 * number + 1}[stream{number}]"
        for number in range(len(STREAMS))
    ]
    copies = "".join(f"[copy{number}]" for number in range(len(STREAMS)))
    return ";".join([f"[0:a]asplit={len(STREAMS)}{copies}", *pairs])


def _write_setup(tracks: Iterable[SyntheticTrack], root: Path) -> None:
    """Write the setup of musdb, whose default validation split contains only tracks of MUSDB18."""
    accompaniment = [stem for stem in STEMS if stem != "vocals"]
    setup: dict[str, Any] = {
        "sample_rate": float(SAMPLE_RATE),
        "sources": {stem: f"{stem}.wav" for stem in STEMS},
        "mixture": "mixture.wav",
        "stem_ids": {name: number for number, name in enumerate(STREAMS)},
        "targets": {
            **{stem: {stem: 1} for stem in STEMS},
            "accompaniment": dict.fromkeys(accompaniment, 1),
            "linear_mixture": dict.fromkeys(STEMS, 1),
        },
        "validation_tracks": [track.track_id for track in tracks if track.split == "valid"],
    }
    write_text(Path(root) / SETUP_FILE, yaml.safe_dump(setup, sort_keys=False, allow_unicode=True))
