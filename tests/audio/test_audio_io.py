"""Reading and writing audio files, resampling, and PCM16."""

import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from cyclesep.audio import audio_io
from cyclesep.audio.audio_io import Waveform
from cyclesep.audio.audio_reader import read
from cyclesep.errors import AudioError


def sine(hertz: float, seconds: float, sample_rate: int, channels: int = 1) -> Waveform:
    time = np.arange(round(seconds * sample_rate)) / sample_rate
    return Waveform(
        samples=np.tile(0.5 * np.sin(2 * np.pi * hertz * time), (channels, 1)).astype(np.float32),
        sample_rate=sample_rate,
    )


def test_float_wav_round_trip_is_bit_exact(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).normal(0, 2, (3, 1001)).astype(np.float32)
    audio_io.write_wav(tmp_path / "x.wav", Waveform(samples=noise, sample_rate=22050))
    back = read(tmp_path / "x.wav")
    assert back.sample_rate == 22050
    assert np.array_equal(back.samples, noise)


@given(st.lists(st.integers(-32768, 32767), min_size=1, max_size=50))
def test_pcm16_round_trip_is_exact(values: list[int]) -> None:
    pcm = np.array([values], dtype=np.int16)
    assert np.array_equal(audio_io.to_pcm16(audio_io.from_pcm16(pcm)), pcm)


@given(st.floats(0, 1000))
def test_pcm16_gain_prevents_clipping(peak: float) -> None:
    samples = np.array([[peak, -peak, peak / 3]], dtype=np.float32)
    gain = audio_io.pcm16_gain(float(np.abs(samples).max()))
    back = audio_io.from_pcm16(audio_io.to_pcm16(samples, gain=gain), gain=gain)
    assert np.abs(back - samples).max() <= 0.5001 * gain / audio_io.PCM16_SCALE


def test_pcm16_gain_is_one_for_samples_that_fit() -> None:
    assert audio_io.pcm16_gain(32767 / 32768) == 1.0
    assert audio_io.pcm16_gain(1.0) == 2.0


@pytest.mark.parametrize("rates", [(44100, 16000), (16000, 44100), (48000, 44100), (11025, 8000)])
def test_resampling_keeps_tone_and_duration(rates: tuple[int, int]) -> None:
    before, after = rates
    resampled = audio_io.resample(sine(440, 1.0, before, channels=2), after)
    assert resampled.samples.shape == (2, after)
    inner = slice(after // 10, -after // 10)
    assert np.abs(resampled.samples[:, inner] - sine(440, 1.0, after).samples[:, inner]).max() < 1e-3


def test_mono_is_the_mean_and_stereo_a_repetition() -> None:
    stereo = Waveform(samples=np.array([[1.0, 0.0], [0.0, 0.5]], dtype=np.float32), sample_rate=8000)
    mono = audio_io.with_channels(stereo, 1)
    assert mono.samples.tolist() == [[0.5, 0.25]]
    assert audio_io.with_channels(mono, 2).samples.tolist() == [[0.5, 0.25], [0.5, 0.25]]
    with pytest.raises(AudioError, match="2 channels to 6"):
        audio_io.with_channels(stereo, 6)


def test_fit_length_cuts_and_pads() -> None:
    samples = np.arange(6, dtype=np.float32).reshape(2, 3)
    assert audio_io.fit_length(samples, 2).tolist() == [[0, 1], [3, 4]]
    assert audio_io.fit_length(samples, 4).tolist() == [[0, 1, 2, 0], [3, 4, 5, 0]]


def test_formats_unknown_to_libsndfile_are_read_with_ffmpeg(tmp_path: Path) -> None:
    audio_io.write_wav(tmp_path / "x.wav", sine(440, 0.5, 44100, channels=2), subtype="PCM_16")
    command = ["ffmpeg", "-v", "error", "-i", str(tmp_path / "x.wav"), "-c:a", "alac", str(tmp_path / "x.m4a")]
    subprocess.run(command, check=True)
    assert np.array_equal(read(tmp_path / "x.m4a").samples, read(tmp_path / "x.wav").samples)


def test_truncated_m4a_is_an_error_of_one_line(tmp_path: Path) -> None:
    path = tmp_path / "x.m4a"
    command = ["ffmpeg", "-v", "error", "-f", "lavfi", "-i", "sine=d=2", "-c:a", "aac", str(path)]
    subprocess.run(command, check=True)
    (tmp_path / "cut.m4a").write_bytes(path.read_bytes()[:3000])
    with pytest.raises(AudioError, match=r"cut\.m4a") as raised:
        read(tmp_path / "cut.m4a")
    assert "\n" not in str(raised.value)


def test_errors_for_bad_files_have_name_and_remedy(tmp_path: Path) -> None:
    (tmp_path / "text.wav").write_text("not audio")
    soundfile.write(tmp_path / "empty.wav", np.zeros((0, 1)), 8000)
    broken = np.zeros((8000, 1), dtype=np.float32)
    broken[4000:4003] = np.nan
    soundfile.write(tmp_path / "nan.wav", broken, 8000, subtype="FLOAT")
    soundfile.write(tmp_path / "slow.wav", np.zeros((10, 1)), 999)
    os.mkfifo(tmp_path / "pipe.wav")
    (tmp_path / "folder.wav").mkdir()
    for name, message in [
        ("absent.wav", "file not found"),
        ("text.wav", "as audio"),
        ("empty.wav", "no samples"),
        ("slow.wav", "sample rate 999 is not an integer from 1000 to 768000 Hz; export the file again"),
        ("pipe.wav", "is a pipe or a device, which cannot be read twice; save it to a file first"),
        ("folder.wav", "is a folder; specify an audio file"),
        ("x" * 256, "File name too long"),
    ]:
        with pytest.raises(AudioError, match=message) as raised:
            read(tmp_path / name)
        assert name in str(raised.value)
    with pytest.raises(AudioError, match=r"nan\.wav: 3 samples are NaN or infinite, the first at 0\.500 s"):
        read(tmp_path / "nan.wav")


def test_decibels() -> None:
    assert audio_io.decibels(100.0) == pytest.approx(20.0)
    assert audio_io.decibels(0.0) == -np.inf
