"""Ingest prints each message that docs/own-stems.md explains, for a folder with the problem it describes."""

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from cyclesep.data.config import IngestConfig
from cyclesep.data.corpora.config import CorpusConfig
from cyclesep.data.corpora.corpus import find_tracks
from cyclesep.data.ingest import FailedTrack, ingest_track
from cyclesep.data.shards.ingest_store import IngestOutput
from cyclesep.errors import CyclesepError
from tests.support.paths import CHECKOUT

PAGE = CHECKOUT / "docs" / "own-stems.md"
RATE = 8000
SECOND = np.sin(np.arange(RATE) / 10)[:, None] * 0.25


def write(*files: Path, samples: np.ndarray = SECOND, subtype: str = "PCM_16") -> None:
    for file in files:
        file.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(file, samples, RATE, subtype=subtype)


def damaged(root: Path) -> None:
    write(root / "a" / "bass.wav")
    (root / "a" / "vocals.wav").write_bytes(b"an error page, saved under the name of the file")


def ended_early(root: Path) -> None:
    write(root / "a" / "bass.wav", samples=np.tile(SECOND, (3, 1)))
    write(root / "a" / "vocals.wav")


def silent_stem(root: Path) -> None:
    write(root / "a" / "bass.wav")
    write(root / "a" / "vocals.wav", samples=0 * SECOND)


def not_a_number(root: Path) -> None:
    stereo = np.repeat(SECOND, 2, axis=1)
    stereo[RATE // 2] = np.nan
    write(root / "a" / "vocals.wav", samples=stereo, subtype="FLOAT")


def louder_mixture(root: Path) -> None:
    write(root / "a" / "vocals.wav")
    write(root / "a" / "mixture.wav", samples=2 * SECOND)


def at_another_rate(root: Path) -> None:
    write(root / "a" / "vocals.wav")
    IngestOutput(str(root.with_name("shards"))).create_or_resume({"sample_rate": 44100})


MAKE: dict[str, Callable[[Path], None]] = {
    "not found; check corpus.path": lambda root: root.rmdir(),
    "no track folders found": lambda root: write(root / "vocals.wav"),
    "'b' is next to 'train'": lambda root: write(root / "train" / "a" / "vocals.wav", root / "b" / "vocals.wav"),
    "no audio files found": lambda root: write(root / "a" / "stems" / "vocals.wav"),
    "2 files for the stem": lambda root: write(root / "a" / "vocals.wav", root / "a" / "vocals.flac"),
    "neither libsndfile nor FFmpeg": damaged,
    "2 samples are NaN": not_a_number,
    "cannot convert 6 channels": lambda root: write(root / "a" / "vocals.wav", samples=np.repeat(SECOND, 6, axis=1)),
    "lasts 0.0500 s": lambda root: write(root / "a" / "vocals.wav", samples=SECOND[: RATE // 20]),
    "completely silent; exclude it": lambda root: write(root / "a" / "vocals.wav", samples=0 * SECOND),
    "vocals: completely silent": silent_stem,
    "vocals: padded": ended_early,
    "vocals: 7999 clipped": lambda root: write(root / "a" / "vocals.wav", samples=np.sign(SECOND)),
    "the mixture is not the sum": louder_mixture,
    "was ingested with": at_another_rate,
}


def explained() -> list[str]:
    """The first column of the page's table of messages."""
    section = PAGE.read_text(encoding="utf-8").partition("## Check what was read")[2].partition("\n## ")[0]
    return re.findall(r"^\| (?:warning )?`([^`]+)` \|", section, re.MULTILINE)


def ingest_messages(root: Path) -> str:
    """All messages of an ingest of the folder, track by track, without a cluster."""
    config = IngestConfig(
        corpus=CorpusConfig(kind="stems", path=str(root)), output=str(root.with_name("shards")), sample_rate=16000
    )
    output = IngestOutput(config.output)
    try:
        tracks = find_tracks(config.corpus)
        output.create_or_resume({"sample_rate": config.sample_rate})
        results = [ingest_track(track, config, output) for track in tracks]
    except CyclesepError as problem:
        return str(problem)
    return "\n".join(each.reason if isinstance(each, FailedTrack) else "; ".join(each.warnings) for each in results)


@pytest.mark.parametrize("message", explained())
def test_ingest_prints_the_messages_on_the_page(message: str, tmp_path: Path) -> None:
    (make,) = (make for beginning, make in MAKE.items() if message.startswith(beginning))
    (tmp_path / "songs").mkdir()
    make(tmp_path / "songs")
    assert message in ingest_messages(tmp_path / "songs")


def test_the_page_explains_every_message_of_the_table() -> None:
    assert len(explained()) == len(MAKE)
