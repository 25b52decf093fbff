"""Chunked separation keeps the rate, channels, length and level of the input, without seams."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from torch import Tensor, nn

from cyclesep.audio.audio_io import Samples, Waveform, write_wav
from cyclesep.errors import AudioError, CheckpointError, ConfigError
from cyclesep.inference.chunked_inference import choose_device, separate_blocks
from cyclesep.inference.config import SeparationConfig
from cyclesep.inference.input_files import find_inputs
from cyclesep.inference.separate import separate_files
from cyclesep.inference.stems import separate_waveform
from tests.support.fake_separator import FakeSeparator, Scale, config_for, identity, noise

SHORT_SEGMENTS = SeparationConfig(segment_seconds=0.5, context_seconds=0.05, overlap_seconds=0.02, batch_size=3)


class Smooth(nn.Module):
    """A time-invariant filter of 401 taps, zero-padded at both ends."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("taps", torch.hann_window(401, periodic=False)[None, None] / 200)

    def forward(self, mixture: Tensor) -> Tensor:
        flat = mixture.reshape(-1, 1, mixture.shape[-1])
        return nn.functional.conv1d(flat, self.taps, padding=200).reshape(mixture.shape)[:, None]


@pytest.mark.parametrize("num_samples", [1, 3, 399, 4000, 4001, 12345, 40000])
@pytest.mark.parametrize(("channels", "network_channels"), [(1, 1), (2, 2), (2, 1), (1, 2), (5, 1)])
def test_identity_network_returns_its_input_bit_for_bit(num_samples: int, channels: int, network_channels: int) -> None:
    waveform = Waveform(samples=noise(channels, num_samples), sample_rate=8000)
    stems = separate_waveform(identity(network_channels), waveform, SHORT_SEGMENTS)
    assert np.array_equal(stems["vocals"].samples, waveform.samples)
    assert not stems["accompaniment"].samples.any()


@pytest.mark.parametrize("overlap_seconds", [0.0, 0.1])
def test_identity_network_returns_its_input_with_and_without_overlap(overlap_seconds: float) -> None:
    config = SeparationConfig(segment_seconds=0.6, context_seconds=0.0, overlap_seconds=overlap_seconds)
    waveform = Waveform(samples=noise(1, 20011), sample_rate=8000)
    assert np.array_equal(separate_waveform(identity(), waveform, config)["vocals"].samples, waveform.samples)


@pytest.mark.parametrize("sample_rate", [8000, 11025, 16000, 44100, 48000])
def test_stems_have_the_format_of_the_input_and_add_up_to_it_at_any_rate(sample_rate: int) -> None:
    waveform = Waveform(samples=noise(2, 3 * sample_rate + 7), sample_rate=sample_rate)
    separator = FakeSeparator(module=Scale(0.3, 0.2), targets=("vocals", "drums"))
    stems = separate_waveform(separator, waveform, SHORT_SEGMENTS)
    assert list(stems) == ["vocals", "drums", "residual"]
    for stem in stems.values():
        assert (stem.samples.shape, stem.sample_rate) == (waveform.samples.shape, sample_rate)
    total = np.sum([stem.samples for stem in stems.values()], axis=0)
    np.testing.assert_allclose(total, waveform.samples, atol=3e-7)


def test_resampling_both_ways_keeps_a_tone_in_place() -> None:
    tone = np.sin(2 * np.pi * 440 * np.arange(44100 * 2) / 44100).astype(np.float32)[None]
    stems = separate_waveform(identity(), Waveform(samples=tone, sample_rate=44100), SHORT_SEGMENTS)
    middle = slice(4000, -4000)
    np.testing.assert_allclose(stems["vocals"].samples[:, middle], tone[:, middle], atol=1e-5)


@pytest.mark.parametrize("batch_size", [1, 2, 7])
def test_filter_shorter_than_the_context_equals_filtering_the_whole_file(batch_size: int) -> None:
    waveform = Waveform(samples=noise(2, 30011), sample_rate=8000)
    config = SeparationConfig(
        segment_seconds=0.3, context_seconds=0.025, overlap_seconds=0.03, batch_size=batch_size
    )  # 0.025 s: 200 samples, half of the filter
    stems = separate_waveform(FakeSeparator(module=Smooth(), channels=2), waveform, config)
    whole = Smooth()(torch.from_numpy(waveform.samples)[None])[0, 0].numpy()
    np.testing.assert_allclose(stems["vocals"].samples, whole, atol=2e-7)


def test_output_within_the_context_is_discarded() -> None:
    class EdgeClicks(nn.Module):
        def forward(self, mixture: Tensor) -> Tensor:
            clicks = mixture.clone()
            clicks[..., :200] = clicks[..., -200:] = 9.0
            return clicks[:, None]

    waveform = Waveform(samples=noise(1, 20000), sample_rate=8000)
    config = SeparationConfig(segment_seconds=0.3, context_seconds=0.025, overlap_seconds=0.03)
    estimate = separate_waveform(FakeSeparator(module=EdgeClicks()), waveform, config)["vocals"]
    assert np.array_equal(estimate.samples, waveform.samples)


def test_segments_are_crossfaded_by_a_linear_ramp() -> None:
    class AlternatingLevel(nn.Module):
        level = 0.0

        def forward(self, mixture: Tensor) -> Tensor:
            self.level = 1.0 - self.level
            return torch.full_like(mixture, self.level)[:, None]

    config = SeparationConfig(segment_seconds=0.3, context_seconds=0.0, overlap_seconds=0.1, batch_size=1)
    waveform = Waveform(samples=noise(1, 20000), sample_rate=8000)
    estimate = separate_waveform(FakeSeparator(module=AlternatingLevel()), waveform, config)["vocals"].samples
    assert estimate.max() == 1.0
    assert estimate.min() == 0.0
    assert np.abs(np.diff(estimate)).max() == pytest.approx(1 / 800, rel=0.01)


def test_result_is_bitwise_reproducible_for_any_block_size() -> None:
    torch.manual_seed(0)
    separator = FakeSeparator(module=nn.Sequential(nn.Conv1d(1, 4, 9, padding=4), nn.Tanh(), nn.Unflatten(1, (4, 1))))
    separator = FakeSeparator(module=separator.module, targets=("a", "b", "c", "d"), sample_rate=6000)
    samples = noise(2, 50_000)

    def estimates(block: int) -> Samples:
        blocks = (samples[:, start : start + block] for start in range(0, 50_000, block))
        chunks = separate_blocks(separator, blocks, channels=2, sample_rate=8000, config=SHORT_SEGMENTS)
        return np.concatenate([estimate for _, estimate in chunks], axis=2)

    first = estimates(50_000)
    assert first.shape == (4, 2, 50_000)
    for block in (50_000, 1111, 100):
        assert np.array_equal(estimates(block), first)


def test_stream_of_twenty_minutes_is_not_buffered_as_a_whole() -> None:
    num_read = 0

    def blocks() -> Iterator[Samples]:
        nonlocal num_read
        for _ in range(1200):
            num_read += 1
            yield np.zeros((1, 8000), dtype=np.float32)

    ahead = 0
    separated = 0
    config = SeparationConfig(segment_seconds=4.0, context_seconds=0.5, batch_size=2)
    for mixture, _ in separate_blocks(identity(), blocks(), channels=1, sample_rate=8000, config=config):
        separated += mixture.shape[1]
        ahead = max(ahead, num_read - separated // 8000)
    assert separated == 1200 * 8000
    assert ahead <= 10


class OutOfMemory(nn.Module):
    """Raises the error of CUDA for batches of more than `max_batch` segments."""

    def __init__(self, max_batch: int) -> None:
        super().__init__()
        self.max_batch = max_batch
        self.batch_sizes: list[int] = []

    def forward(self, mixture: Tensor) -> Tensor:
        self.batch_sizes.append(len(mixture))
        if len(mixture) > self.max_batch:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return mixture[:, None]


def test_out_of_gpu_memory_halves_the_batch_size(caplog: pytest.LogCaptureFixture) -> None:
    module = OutOfMemory(max_batch=2)
    config = SeparationConfig(segment_seconds=0.3, context_seconds=0.0, overlap_seconds=0.0, batch_size=8)
    waveform = Waveform(samples=noise(1, 24000), sample_rate=8000)
    stems = separate_waveform(FakeSeparator(module=module), waveform, config)
    assert np.array_equal(stems["vocals"].samples, waveform.samples)
    assert module.batch_sizes[:3] == [8, 4, 2]
    assert max(module.batch_sizes[2:]) == 2
    assert "batch_size=2" in caplog.text


def test_error_for_a_segment_that_does_not_fit_in_gpu_memory_names_the_setting() -> None:
    waveform = Waveform(samples=noise(1, 24000), sample_rate=8000)
    with pytest.raises(ConfigError, match="segment_seconds"):
        separate_waveform(FakeSeparator(module=OutOfMemory(max_batch=0)), waveform)


def test_errors_for_unsupported_inputs_name_the_reason() -> None:
    six = Waveform(samples=noise(6, 8000), sample_rate=8000)
    with pytest.raises(AudioError, match="6 channels, but the separator supports 2"):
        separate_waveform(identity(channels=2), six)
    mono = Waveform(samples=noise(1, 8000), sample_rate=8000)
    with pytest.raises(ConfigError, match="segment_seconds=1.0: too short"):
        separate_waveform(identity(), mono, SeparationConfig(segment_seconds=1.0, context_seconds=0.5))
    with pytest.raises(CheckpointError, match="not finite"):
        separate_waveform(FakeSeparator(module=Scale(float("nan"))), mono)
    with pytest.raises(ConfigError, match="unknown target 'bass'; the separator extracts vocals"):
        separate_waveform(identity(), mono, stems=("bass",))


def test_cuda_without_a_gpu_is_an_error_and_auto_selects_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match="device"):
        choose_device("cuda")
    assert choose_device("auto") == torch.device("cpu")


@pytest.mark.parametrize(("sample_format", "subtype"), [("float", "FLOAT"), ("pcm16", "PCM_16"), ("pcm24", "PCM_24")])
def test_identity_network_writes_a_16_bit_file_bit_for_bit(tmp_path: Path, sample_format: str, subtype: str) -> None:
    pcm = np.random.default_rng(0).integers(-32768, 32768, (11_025, 2)).astype(np.int16)
    soundfile.write(tmp_path / "song.wav", pcm, 11_025, subtype="PCM_16")
    config = config_for(tmp_path, tmp_path / "song.wav", sample_format=sample_format)
    result = separate_files(config, identity(channels=2, sample_rate=11_025))
    (done,) = result.separated
    assert (done.gain, done.seconds, list(done.stems)) == (1.0, 1.0, ["vocals", "accompaniment"])
    assert done.stems["vocals"] == tmp_path / "out/song/vocals.wav"
    assert soundfile.info(done.stems["vocals"]).subtype == subtype
    written, sample_rate = soundfile.read(done.stems["vocals"])
    assert sample_rate == 11_025
    assert np.array_equal(written * 32768, pcm)


def test_peaks_are_kept_in_float_and_rescaled_or_clipped_in_pcm(tmp_path: Path) -> None:
    loud = noise(1, 8000)
    write_wav(tmp_path / "song.wav", Waveform(samples=loud, sample_rate=8000))
    separator = FakeSeparator(module=Scale(2.0))

    def stems(**changes: object) -> tuple[dict[str, Samples], float]:
        result = separate_files(config_for(tmp_path, tmp_path / "song.wav", **changes), separator)
        (done,) = result.separated
        return {stem: soundfile.read(path, dtype="float32")[0] for stem, path in done.stems.items()}, done.gain

    kept, gain = stems()
    np.testing.assert_allclose(kept["vocals"], 2 * loud[0], atol=1e-6)
    assert gain == 1.0
    scaled, gain = stems(sample_format="pcm16")
    assert gain == pytest.approx(1 / (2 * np.abs(loud).max()), rel=1e-3)
    np.testing.assert_allclose(scaled["vocals"], gain * 2 * loud[0], atol=2**-15)
    np.testing.assert_allclose(scaled["accompaniment"], -gain * loud[0], atol=2**-15)
    clipped, gain = stems(sample_format="pcm24", clipping="clip")
    assert gain == 1.0
    np.testing.assert_allclose(clipped["vocals"], np.clip(2 * loud[0], -1, 1), atol=1e-6)


def test_one_stem_of_several_and_the_accompaniment_as_flac(tmp_path: Path) -> None:
    write_wav(tmp_path / "song.wav", Waveform(samples=noise(1, 8000), sample_rate=8000))
    separator = FakeSeparator(module=Scale(0.5, 0.25), targets=("vocals", "drums"))
    config = config_for(
        tmp_path,
        tmp_path / "song.wav",
        stems=("drums",),
        format="flac",
        sample_format="pcm16",
        filename_template="{stem}/{track}",
    )
    (done,) = separate_files(config, separator).separated
    assert sorted(str(path.relative_to(tmp_path)) for path in done.stems.values()) == [
        "out/accompaniment/song.flac",
        "out/drums/song.flac",
    ]
    assert soundfile.info(done.stems["drums"]).format == "FLAC"


def test_bad_files_are_reported_and_the_others_are_separated(tmp_path: Path) -> None:
    write_wav(tmp_path / "a.wav", Waveform(samples=noise(1, 800), sample_rate=8000))
    (tmp_path / "b.wav").write_text("not audio")
    broken = noise(1, 800)
    broken[0, 400] = np.nan
    soundfile.write(tmp_path / "c.wav", broken.T, 8000, subtype="FLOAT")
    soundfile.write(tmp_path / "d.wav", np.zeros((0, 1)), 8000)
    write_wav(tmp_path / "e.wav", Waveform(samples=noise(3, 800), sample_rate=8000))
    result = separate_files(config_for(tmp_path, tmp_path, "absent.wav"), identity(channels=2))
    assert [done.source.name for done in result.separated] == ["a.wav"]
    reasons = {problem.source.name: problem.reason for problem in result.failed}
    assert sorted(reasons) == ["absent.wav", "b.wav", "c.wav", "d.wav", "e.wav"]
    assert "neither libsndfile nor FFmpeg" in reasons["b.wav"]
    assert "NaN" in reasons["c.wav"]
    assert "no samples" in reasons["d.wav"]
    assert "3 channels" in reasons["e.wav"]
    assert "file not found" in reasons["absent.wav"]
    written = sorted(path.name for path in (tmp_path / "out").rglob("*") if path.is_file())
    assert written == ["accompaniment.wav", "vocals.wav"]


def test_inputs_are_files_folders_and_patterns_with_unique_names(tmp_path: Path) -> None:
    for name in ("x/song.wav", "x/song.flac", "x/deep/song.wav", "y/song.stem.mp4", "y/notes.txt", "x/out/old.wav"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    found = find_inputs([str(tmp_path / "x"), str(tmp_path / "y/*")], output=tmp_path / "x/out")
    assert {name: str(path.relative_to(tmp_path)) for name, path in found.items()} == {
        "deep/song": "x/deep/song.wav",
        "song": "x/song.flac",
        "song.wav": "x/song.wav",
        "song.mp4": "y/song.stem.mp4",
    }
    with pytest.raises(ConfigError, match="no audio files found"):
        find_inputs([str(tmp_path / "y/*.txt")], output=tmp_path / "x/out")


def test_invalid_settings_are_errors_before_anything_is_written(tmp_path: Path) -> None:
    write_wav(tmp_path / "a.wav", Waveform(samples=noise(1, 800), sample_rate=8000))
    for changes, message in (
        ({"format": "flac", "sample_format": "float"}, "sample_format: flac does not support float"),
        ({"filename_template": "{track}"}, "must contain {stem}"),
        ({"filename_template": "{stem"}, "filename_template: invalid template"),
        ({"stems": ("piano",)}, "unknown target 'piano'"),
    ):
        with pytest.raises(ConfigError, match=message):
            separate_files(config_for(tmp_path, tmp_path / "a.wav", **changes), identity())
    assert not (tmp_path / "out").exists()


def test_stem_does_not_replace_its_own_input(tmp_path: Path) -> None:
    write_wav(tmp_path / "vocals.wav", Waveform(samples=noise(1, 800), sample_rate=8000))
    config = config_for(tmp_path, tmp_path / "vocals.wav", output=str(tmp_path), filename_template="{stem}")
    (problem,) = separate_files(config, identity()).failed
    assert "its own input" in problem.reason


def test_format_that_only_ffmpeg_supports_is_separated(tmp_path: Path) -> None:
    source = tmp_path / "song.wav"
    write_wav(source, Waveform(samples=0.5 * noise(2, 16000), sample_rate=8000), subtype="PCM_16")
    command = ["ffmpeg", "-v", "error", "-i", str(source), "-c:a", "alac", str(tmp_path / "song.m4a")]
    subprocess.run(command, check=True)
    (done,) = separate_files(config_for(tmp_path, tmp_path / "song.m4a"), identity(channels=2)).separated
    assert np.array_equal(soundfile.read(done.stems["vocals"])[0], soundfile.read(source)[0])
