"""Decoding with FFmpeg: sample formats, damaged files, files without audio."""

import subprocess
from pathlib import Path

import numpy as np
import pytest
import soundfile

from cyclesep.audio.ffmpeg import NotAudioError, decode
from cyclesep.errors import AudioError

RATE = 22050


@pytest.fixture
def wav(tmp_path: Path) -> Path:
    """Half a second of stereo noise, 24 bits."""
    samples = np.random.default_rng(0).uniform(-1, 1, (RATE // 2, 2))
    soundfile.write(tmp_path / "noise.wav", samples, RATE, subtype="PCM_24")
    return tmp_path / "noise.wav"


def convert(wav: Path, name: str, *options: str) -> Path:
    path = wav.with_name(name)
    subprocess.run(["ffmpeg", "-v", "error", "-y", "-i", str(wav), *options, str(path)], check=True)
    return path


@pytest.mark.parametrize(
    ("name", "options", "bits"),
    [
        ("a.m4a", ("-c:a", "alac", "-sample_fmt", "s16p"), 16),
        ("b.m4a", ("-c:a", "alac", "-sample_fmt", "s32p"), 24),
        ("c.mkv", ("-c:a", "pcm_s16le"), 16),
        ("d.mkv", ("-c:a", "flac", "-sample_fmt", "s32"), 24),
        ("e.mkv", ("-c:a", "pcm_f32le"), 24),
        ("f.mkv", ("-c:a", "pcm_u8"), 8),
    ],
)
def test_lossless_formats_are_decoded_exactly(wav: Path, name: str, options: tuple[str, ...], bits: int):
    (stream,) = decode(convert(wav, name, *options))
    expected = soundfile.read(wav, dtype="float64")[0].T
    assert (stream.sample_rate, stream.samples.dtype, stream.samples.shape) == (RATE, np.float32, expected.shape)
    # ffmpeg does not dither; it rounds or truncates.
    np.testing.assert_allclose(stream.samples, expected, rtol=0, atol=2.0 ** (1 - bits))


def test_first_stream_or_all_streams_with_different_rates(wav: Path) -> None:
    options = ("-i", str(wav), "-map", "0", "-map", "1", "-c:a", "alac", "-ar:a:1", "8000", "-ac:a:1", "1")
    path = convert(wav, "two.m4a", *options)
    assert [(stream.sample_rate, len(stream.samples)) for stream in decode(path)] == [(RATE, 2), (8000, 1)]
    first, *_ = decode(path)
    assert first.sample_rate == RATE
    assert first.declared_seconds == pytest.approx(0.5, abs=1e-3)


def test_colon_and_percent_sign_in_a_file_name_are_literal(wav: Path) -> None:
    path = convert(wav, "x.m4a", "-c:a", "alac")
    odd = path.rename(path.with_name("http:%d song.m4a"))
    assert decode(odd)[0].samples.shape == (2, RATE // 2)


def test_damage_within_a_file_is_an_error_of_one_line(wav: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = convert(wav, "x.m4a", "-c:a", "aac", "-b:a", "128k")
    content = bytearray(path.read_bytes())
    content[2000:5000] = np.random.default_rng(0).bytes(3000)
    path.write_bytes(content)
    with pytest.raises(AudioError, match=r"x\.m4a: ffmpeg cannot decode it") as raised:
        decode(path)
    assert "\n" not in str(raised.value)
    assert capfd.readouterr().err == ""


def test_files_without_audio_raise_not_audio_error(tmp_path: Path) -> None:
    (tmp_path / "text.m4a").write_text("no music")
    video = tmp_path / "video.mp4"
    source = ["-f", "lavfi", "-i", "color=duration=0.2:size=16x16"]
    subprocess.run(["ffmpeg", "-v", "error", *source, str(video)], check=True)
    for path, message in ((tmp_path / "text.m4a", "cannot read it"), (video, "finds no audio")):
        with pytest.raises(NotAudioError, match=message):
            decode(path)
