"""Truncated files are errors with the declared length; complete files and those without a declared length are read."""

import subprocess
from pathlib import Path

import numpy as np
import pytest
import soundfile

from cyclesep.audio.audio_reader import read
from cyclesep.errors import AudioError
from cyclesep.inference.separate import separate_files
from tests.support.fake_separator import config_for, identity

RATE = 22050
SECONDS = 3


def write_noise(path: Path, *, seconds: float = SECONDS, **options: str) -> Path:
    """Write noise with rising level, so that a variable bit rate varies."""
    time = np.arange(round(seconds * RATE)) / (seconds * RATE)
    noise = np.random.default_rng(0).uniform(-1, 1, len(time)) * 10 ** (4 * time - 4)
    soundfile.write(path, noise, RATE, **options)
    return path


def truncate(path: Path, fraction: float = 0.5) -> Path:
    content = path.read_bytes()
    path.write_bytes(content[: round(fraction * len(content))])
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
def test_error_for_a_truncated_file_has_declared_and_actual_length(
    tmp_path: Path, name: str, options: dict[str, str]
) -> None:
    path = write_noise(tmp_path / name, **options)
    assert read(path).num_samples == SECONDS * RATE
    truncate(path)
    message = r"truncated: its header declares 3\.[01] s, the file contains 1\.[45] s; copy it again"
    with pytest.raises(AudioError, match=message):
        read(path)
    (failure,) = separate_files(config_for(tmp_path, path), identity(sample_rate=RATE)).failed
    assert "truncated" in failure.reason
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("fraction", [0.1, 0.5, 0.95])
def test_ogg_without_its_last_page_is_an_error(tmp_path: Path, fraction: float) -> None:
    path = write_noise(tmp_path / "x.ogg", seconds=10)
    assert read(path).num_samples == 10 * RATE
    with pytest.raises(AudioError, match="truncated: the last page of the Ogg stream is missing"):
        read(truncate(path, fraction))
    assert "truncated" in separate_files(config_for(tmp_path, path), identity(sample_rate=RATE)).failed[0].reason


@pytest.mark.parametrize("size", [0x7FFFF000, 0xFFFFFFFF])
def test_wav_written_to_a_pipe_has_no_declared_length(tmp_path: Path, size: int) -> None:
    path = write_noise(tmp_path / "x.wav")
    content = path.read_bytes()
    position = content.index(b"data") + 4
    path.write_bytes(content[:position] + size.to_bytes(4, "little") + content[position + 4 :])
    assert read(path).num_samples == SECONDS * RATE
    (done,) = separate_files(config_for(tmp_path, path), identity(sample_rate=RATE)).separated
    assert done.seconds == SECONDS


def test_wav_that_counts_its_header_as_audio_is_read(tmp_path: Path) -> None:
    path = write_noise(tmp_path / "x.wav")
    content = path.read_bytes()
    position = content.index(b"data") + 4
    path.write_bytes(content[:position] + len(content).to_bytes(4, "little") + content[position + 4 :])
    assert read(path).num_samples == SECONDS * RATE


def test_mp3_without_declared_length_is_read_completely(tmp_path: Path) -> None:
    source = write_noise(tmp_path / "x.wav", seconds=10)
    path = tmp_path / "x.mp3"
    options = ["-q:a", "4", "-write_xing", "0"]
    subprocess.run(["ffmpeg", "-v", "error", "-i", str(source), *options, str(path)], check=True)
    # libsndfile estimates the length from the first frames and stops there.
    assert abs(soundfile.info(path).duration - 10) > 1
    assert read(path).seconds == pytest.approx(10, abs=0.1)
    (done,) = separate_files(config_for(tmp_path, path), identity(sample_rate=RATE)).separated
    assert done.seconds == pytest.approx(10, abs=0.1)
    assert read(truncate(path)).seconds < 10


def test_garbage_within_an_mp3_is_skipped_silently(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = write_noise(tmp_path / "x.mp3")
    content = path.read_bytes()
    half = len(content) // 2
    garbage = np.random.default_rng(0).bytes(3000)
    path.write_bytes(content[:half] + garbage + content[half:] + b"TAG" + garbage)
    assert read(path).seconds == pytest.approx(SECONDS, abs=0.3)
    path.write_bytes(content[:half])
    with pytest.raises(AudioError, match="truncated"):
        read(path)
    assert capfd.readouterr().err == ""
