"""Files that were cut off are refused with what they promise; whole ones, and those that promise nothing, are read."""

import subprocess
from pathlib import Path

import numpy as np
import pytest
import soundfile

from cyclesep.audio import audio_io
from cyclesep.errors import AudioError
from cyclesep.inference.separate import separate_files
from tests.support.fake_separator import config_for, identity

RATE = 22050
SECONDS = 3


def written(path: Path, *, seconds: float = SECONDS, **options: str) -> Path:
    """Noise that grows, so that a variable bit rate varies."""
    time = np.arange(round(seconds * RATE)) / (seconds * RATE)
    noise = np.random.default_rng(0).uniform(-1, 1, len(time)) * 10 ** (4 * time - 4)
    soundfile.write(path, noise, RATE, **options)
    return path


def cut(path: Path, share: float = 0.5) -> Path:
    content = path.read_bytes()
    path.write_bytes(content[: round(share * len(content))])
    return path


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("x.wav", {}),
        ("x.wav", {"format": "RF64", "subtype": "FLOAT"}),
        ("x.aiff", {}),
        ("x.mp3", {"bitrate_mode": "CONSTANT"}),
    ],
)
def test_half_a_file_is_refused_with_the_length_that_it_promises(
    tmp_path: Path, name: str, options: dict[str, str]
) -> None:
    path = written(tmp_path / name, **options)
    assert audio_io.read(path).num_samples == SECONDS * RATE
    cut(path)
    told = r"is cut off: its header promises 3\.[01] s and 1\.[45] s are there; copy it again"
    with pytest.raises(AudioError, match=told):
        audio_io.read(path)
    (failure,) = separate_files(config_for(tmp_path, path), identity(sample_rate=RATE)).failed
    assert "is cut off" in failure.reason
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("share", [0.1, 0.5, 0.95])
def test_an_ogg_without_its_last_page_is_refused(tmp_path: Path, share: float) -> None:
    path = written(tmp_path / "x.ogg", seconds=10)
    assert audio_io.read(path).num_samples == 10 * RATE
    with pytest.raises(AudioError, match="is cut off: the page that ends an Ogg stream is missing"):
        audio_io.read(cut(path, share))
    assert "is cut off" in separate_files(config_for(tmp_path, path), identity(sample_rate=RATE)).failed[0].reason


@pytest.mark.parametrize("size", [0x7FFFF000, 0xFFFFFFFF])
def test_a_wav_that_was_written_into_a_pipe_promises_nothing(tmp_path: Path, size: int) -> None:
    path = written(tmp_path / "x.wav")
    content = path.read_bytes()
    at = content.index(b"data") + 4
    path.write_bytes(content[:at] + size.to_bytes(4, "little") + content[at + 4 :])
    assert audio_io.read(path).num_samples == SECONDS * RATE
    (done,) = separate_files(config_for(tmp_path, path), identity(sample_rate=RATE)).separated
    assert done.seconds == SECONDS


def test_a_wav_that_counts_its_own_header_as_audio_is_read(tmp_path: Path) -> None:
    path = written(tmp_path / "x.wav")
    content = path.read_bytes()
    at = content.index(b"data") + 4
    path.write_bytes(content[:at] + len(content).to_bytes(4, "little") + content[at + 4 :])
    assert audio_io.read(path).num_samples == SECONDS * RATE


def test_an_mp3_that_promises_nothing_is_read_to_its_end(tmp_path: Path) -> None:
    source = written(tmp_path / "x.wav", seconds=10)
    path = tmp_path / "x.mp3"
    options = ["-q:a", "4", "-write_xing", "0"]
    subprocess.run(["ffmpeg", "-v", "error", "-i", str(source), *options, str(path)], check=True)
    # libsndfile guesses the length from the first frames, and stops there.
    assert abs(soundfile.info(path).duration - 10) > 1
    assert audio_io.read(path).seconds == pytest.approx(10, abs=0.1)
    (done,) = separate_files(config_for(tmp_path, path), identity(sample_rate=RATE)).separated
    assert done.seconds == pytest.approx(10, abs=0.1)
    assert audio_io.read(cut(path)).seconds < 10


def test_rubbish_within_an_mp3_is_passed_over_in_silence(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = written(tmp_path / "x.mp3")
    content = path.read_bytes()
    half = len(content) // 2
    rubbish = np.random.default_rng(0).bytes(3000)
    path.write_bytes(content[:half] + rubbish + content[half:] + b"TAG" + rubbish)
    assert audio_io.read(path).seconds == pytest.approx(SECONDS, abs=0.3)
    path.write_bytes(content[:half])
    with pytest.raises(AudioError, match="is cut off"):
        audio_io.read(path)
    assert capfd.readouterr().err == ""
