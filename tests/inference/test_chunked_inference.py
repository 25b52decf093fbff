"""Separation: what comes out has the rate, channels, length and gain of what went in, without seams."""

import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from torch import Tensor, nn

from cyclesep.audio.audio_io import Samples, Waveform, write_wav
from cyclesep.errors import AudioError, CheckpointError, ConfigError
from cyclesep.inference.chunked_inference import SeparationConfig, choose_device, separate_blocks
from cyclesep.inference.config import SeparateConfig
from cyclesep.inference.input_files import find_inputs
from cyclesep.inference.separate import separate_paths
from cyclesep.inference.stems import separate_waveform

SHORT_WINDOWS = SeparationConfig(segment_seconds=0.5, context_seconds=0.05, overlap_seconds=0.02, batch_size=3)


@dataclass(frozen=True, kw_only=True)
class FakeSeparator:
    module: nn.Module
    targets: tuple[str, ...] = ("vocals",)
    sample_rate: int = 8000
    channels: int = 1


class Scale(nn.Module):
    """Estimate t is the mixture times the t-th factor; (batch, channels, time) to (batch, targets, channels, time)."""

    def __init__(self, *factors: float) -> None:
        super().__init__()
        self.factors = factors

    def forward(self, mixture: Tensor) -> Tensor:
        return torch.stack([factor * mixture for factor in self.factors], dim=1)


class Smooth(nn.Module):
    """A time-invariant filter of 401 taps, zero outside of what it sees."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("taps", torch.hann_window(401, periodic=False)[None, None] / 200)

    def forward(self, mixture: Tensor) -> Tensor:
        flat = mixture.reshape(-1, 1, mixture.shape[-1])
        return nn.functional.conv1d(flat, self.taps, padding=200).reshape(mixture.shape)[:, None]


def noise(channels: int, num_samples: int, *, seed: int = 0) -> Samples:
    return np.random.default_rng(seed).uniform(-0.9, 0.9, (channels, num_samples)).astype(np.float32)


def identity(channels: int = 1, sample_rate: int = 8000) -> FakeSeparator:
    return FakeSeparator(module=Scale(1.0), channels=channels, sample_rate=sample_rate)


@pytest.mark.parametrize("num_samples", [1, 3, 399, 4000, 4001, 12345, 40000])
@pytest.mark.parametrize(("channels", "network_channels"), [(1, 1), (2, 2), (2, 1), (1, 2), (5, 1)])
def test_an_identity_network_gives_back_its_input_to_the_bit(
    num_samples: int, channels: int, network_channels: int
) -> None:
    waveform = Waveform(samples=noise(channels, num_samples), sample_rate=8000)
    stems = separate_waveform(identity(network_channels), waveform, SHORT_WINDOWS)
    assert np.array_equal(stems["vocals"].samples, waveform.samples)
    assert not stems["accompaniment"].samples.any()


@pytest.mark.parametrize("overlap_seconds", [0.0, 0.1])
def test_the_identity_holds_with_and_without_context_and_crossfade(overlap_seconds: float) -> None:
    config = SeparationConfig(segment_seconds=0.6, context_seconds=0.0, overlap_seconds=overlap_seconds)
    waveform = Waveform(samples=noise(1, 20011), sample_rate=8000)
    assert np.array_equal(separate_waveform(identity(), waveform, config)["vocals"].samples, waveform.samples)


@pytest.mark.parametrize("sample_rate", [8000, 11025, 16000, 44100, 48000])
def test_stems_have_the_input_s_format_and_add_up_to_it_at_any_rate(sample_rate: int) -> None:
    waveform = Waveform(samples=noise(2, 3 * sample_rate + 7), sample_rate=sample_rate)
    separator = FakeSeparator(module=Scale(0.3, 0.2), targets=("vocals", "drums"))
    stems = separate_waveform(separator, waveform, SHORT_WINDOWS)
    assert list(stems) == ["vocals", "drums", "residual"]
    for stem in stems.values():
        assert (stem.samples.shape, stem.sample_rate) == (waveform.samples.shape, sample_rate)
    total = np.sum([stem.samples for stem in stems.values()], axis=0)
    np.testing.assert_allclose(total, waveform.samples, atol=3e-7)


def test_a_tone_survives_the_way_to_another_rate_and_back_in_place() -> None:
    tone = np.sin(2 * np.pi * 440 * np.arange(44100 * 2) / 44100).astype(np.float32)[None]
    stems = separate_waveform(identity(), Waveform(samples=tone, sample_rate=44100), SHORT_WINDOWS)
    middle = slice(4000, -4000)
    np.testing.assert_allclose(stems["vocals"].samples[:, middle], tone[:, middle], atol=1e-5)


@pytest.mark.parametrize("batch_size", [1, 2, 7])
def test_a_filter_shorter_than_the_context_gives_what_it_gives_on_the_whole_file(batch_size: int) -> None:
    waveform = Waveform(samples=noise(2, 30011), sample_rate=8000)
    config = SeparationConfig(
        segment_seconds=0.3, context_seconds=0.025, overlap_seconds=0.03, batch_size=batch_size
    )  # 0.025 s are the filter's 200 samples
    stems = separate_waveform(FakeSeparator(module=Smooth(), channels=2), waveform, config)
    whole = Smooth()(torch.from_numpy(waveform.samples)[None])[0, 0].numpy()
    np.testing.assert_allclose(stems["vocals"].samples, whole, atol=2e-7)


def test_what_lies_within_the_context_is_not_heard() -> None:
    class EdgeClicks(nn.Module):
        def forward(self, mixture: Tensor) -> Tensor:
            clicking = mixture.clone()
            clicking[..., :200] = clicking[..., -200:] = 9.0
            return clicking[:, None]

    waveform = Waveform(samples=noise(1, 20000), sample_rate=8000)
    config = SeparationConfig(segment_seconds=0.3, context_seconds=0.025, overlap_seconds=0.03)
    estimate = separate_waveform(FakeSeparator(module=EdgeClicks()), waveform, config)["vocals"]
    assert np.array_equal(estimate.samples, waveform.samples)


def test_windows_that_disagree_are_joined_by_a_ramp_and_not_by_a_step() -> None:
    class LevelOfItsOwn(nn.Module):
        level = 0.0

        def forward(self, mixture: Tensor) -> Tensor:
            self.level = 1.0 - self.level
            return torch.full_like(mixture, self.level)[:, None]

    config = SeparationConfig(segment_seconds=0.3, context_seconds=0.0, overlap_seconds=0.1, batch_size=1)
    waveform = Waveform(samples=noise(1, 20000), sample_rate=8000)
    estimate = separate_waveform(FakeSeparator(module=LevelOfItsOwn()), waveform, config)["vocals"].samples
    assert estimate.max() == 1.0
    assert estimate.min() == 0.0
    assert np.abs(np.diff(estimate)).max() == pytest.approx(1 / 800, rel=0.01)


def test_the_same_input_gives_the_same_bits_twice_and_whatever_the_blocks() -> None:
    torch.manual_seed(0)
    separator = FakeSeparator(module=nn.Sequential(nn.Conv1d(1, 4, 9, padding=4), nn.Tanh(), nn.Unflatten(1, (4, 1))))
    separator = FakeSeparator(module=separator.module, targets=("a", "b", "c", "d"), sample_rate=6000)
    samples = noise(2, 50_000)

    def estimates(block: int) -> Samples:
        blocks = (samples[:, start : start + block] for start in range(0, 50_000, block))
        pieces = separate_blocks(separator, blocks, channels=2, sample_rate=8000, config=SHORT_WINDOWS)
        return np.concatenate([estimate for _, estimate in pieces], axis=2)

    first = estimates(50_000)
    assert first.shape == (4, 2, 50_000)
    for block in (50_000, 1111, 100):
        assert np.array_equal(estimates(block), first)


def test_a_stream_of_twenty_minutes_is_never_held_as_a_whole() -> None:
    heard = 0

    def blocks() -> Iterator[Samples]:
        nonlocal heard
        for _ in range(1200):
            heard += 1
            yield np.zeros((1, 8000), dtype=np.float32)

    ahead = 0
    separated = 0
    config = SeparationConfig(segment_seconds=4.0, context_seconds=0.5, batch_size=2)
    for mixture, _ in separate_blocks(identity(), blocks(), channels=1, sample_rate=8000, config=config):
        separated += mixture.shape[1]
        ahead = max(ahead, heard - separated // 8000)
    assert separated == 1200 * 8000
    assert ahead <= 10


class OutOfMemory(nn.Module):
    """Fails as CUDA does when more than `room` windows come at once."""

    def __init__(self, room: int) -> None:
        super().__init__()
        self.room = room
        self.seen: list[int] = []

    def forward(self, mixture: Tensor) -> Tensor:
        self.seen.append(len(mixture))
        if len(mixture) > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return mixture[:, None]


def test_lack_of_gpu_memory_halves_the_batch_and_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    module = OutOfMemory(room=2)
    config = SeparationConfig(segment_seconds=0.3, context_seconds=0.0, overlap_seconds=0.0, batch_size=8)
    waveform = Waveform(samples=noise(1, 24000), sample_rate=8000)
    stems = separate_waveform(FakeSeparator(module=module), waveform, config)
    assert np.array_equal(stems["vocals"].samples, waveform.samples)
    assert module.seen[:3] == [8, 4, 2]
    assert max(module.seen[2:]) == 2
    assert "batch_size=2" in caplog.text


def test_a_window_that_does_not_fit_at_all_is_told_with_the_setting_to_change() -> None:
    waveform = Waveform(samples=noise(1, 24000), sample_rate=8000)
    with pytest.raises(ConfigError, match="segment_seconds"):
        separate_waveform(FakeSeparator(module=OutOfMemory(room=0)), waveform)


def test_what_cannot_be_separated_is_refused_with_the_reason() -> None:
    six = Waveform(samples=noise(6, 8000), sample_rate=8000)
    with pytest.raises(AudioError, match="6 channels, where the separator takes 2"):
        separate_waveform(identity(channels=2), six)
    mono = Waveform(samples=noise(1, 8000), sample_rate=8000)
    with pytest.raises(ConfigError, match="leaves nothing between"):
        separate_waveform(identity(), mono, SeparationConfig(segment_seconds=1.0, context_seconds=0.5))
    with pytest.raises(CheckpointError, match="not finite"):
        separate_waveform(FakeSeparator(module=Scale(float("nan"))), mono)
    with pytest.raises(ConfigError, match="no 'bass'; it gives vocals"):
        separate_waveform(identity(), mono, stems=("bass",))


def test_cuda_without_a_gpu_is_an_error_and_auto_is_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match="device"):
        choose_device("cuda")
    assert choose_device("auto") == torch.device("cpu")


def config_for(folder: Path, *inputs: Path | str, **changes: object) -> SeparateConfig:
    values = {"checkpoint": "none", "inputs": tuple(map(str, inputs)), "output": str(folder / "out")} | changes
    return SeparateConfig(**values)  # type: ignore[arg-type]


@pytest.mark.parametrize(("sample_format", "subtype"), [("float", "FLOAT"), ("pcm16", "PCM_16"), ("pcm24", "PCM_24")])
def test_a_16_bit_file_comes_back_bit_for_bit_from_an_identity(
    tmp_path: Path, sample_format: str, subtype: str
) -> None:
    pcm = np.random.default_rng(0).integers(-32768, 32768, (11_025, 2)).astype(np.int16)
    soundfile.write(tmp_path / "song.wav", pcm, 11_025, subtype="PCM_16")
    config = config_for(tmp_path, tmp_path / "song.wav", sample_format=sample_format)
    report = separate_paths(config, identity(channels=2, sample_rate=11_025))
    (done,) = report.separated
    assert (done.gain, done.seconds, list(done.stems)) == (1.0, 1.0, ["vocals", "accompaniment"])
    assert done.stems["vocals"] == tmp_path / "out/song/vocals.wav"
    assert soundfile.info(done.stems["vocals"]).subtype == subtype
    written, sample_rate = soundfile.read(done.stems["vocals"])
    assert sample_rate == 11_025
    assert np.array_equal(written * 32768, pcm)


def test_peaks_that_do_not_fit_are_kept_rescaled_together_or_clipped_as_asked(tmp_path: Path) -> None:
    loud = noise(1, 8000)
    write_wav(tmp_path / "song.wav", Waveform(samples=loud, sample_rate=8000))
    separator = FakeSeparator(module=Scale(2.0))

    def stems(**changes: object) -> tuple[dict[str, Samples], float]:
        report = separate_paths(config_for(tmp_path, tmp_path / "song.wav", **changes), separator)
        (done,) = report.separated
        return {stem: soundfile.read(path, dtype="float32")[0] for stem, path in done.stems.items()}, done.gain

    kept, gain = stems()
    np.testing.assert_allclose(kept["vocals"], 2 * loud[0], atol=1e-6)
    assert gain == 1.0
    softer, gain = stems(sample_format="pcm16")
    assert gain == pytest.approx(1 / (2 * np.abs(loud).max()), rel=1e-3)
    np.testing.assert_allclose(softer["vocals"], gain * 2 * loud[0], atol=2**-15)
    np.testing.assert_allclose(softer["accompaniment"], -gain * loud[0], atol=2**-15)
    clipped, gain = stems(sample_format="pcm24", clipping="clip")
    assert gain == 1.0
    np.testing.assert_allclose(clipped["vocals"], np.clip(2 * loud[0], -1, 1), atol=1e-6)


def test_flac_and_one_stem_of_several_with_everything_else(tmp_path: Path) -> None:
    write_wav(tmp_path / "song.wav", Waveform(samples=noise(1, 8000), sample_rate=8000))
    separator = FakeSeparator(module=Scale(0.5, 0.25), targets=("vocals", "drums"))
    config = config_for(
        tmp_path,
        tmp_path / "song.wav",
        stems=("drums",),
        format="flac",
        sample_format="pcm16",
        name="{stem}/{track}",
    )
    (done,) = separate_paths(config, separator).separated
    assert sorted(str(path.relative_to(tmp_path)) for path in done.stems.values()) == [
        "out/accompaniment/song.flac",
        "out/drums/song.flac",
    ]
    assert soundfile.info(done.stems["drums"]).format == "FLAC"


def test_a_bad_file_is_named_and_the_others_go_on(tmp_path: Path) -> None:
    write_wav(tmp_path / "a.wav", Waveform(samples=noise(1, 800), sample_rate=8000))
    (tmp_path / "b.wav").write_text("this is no audio")
    broken = noise(1, 800)
    broken[0, 400] = np.nan
    soundfile.write(tmp_path / "c.wav", broken.T, 8000, subtype="FLOAT")
    soundfile.write(tmp_path / "d.wav", np.zeros((0, 1)), 8000)
    write_wav(tmp_path / "e.wav", Waveform(samples=noise(3, 800), sample_rate=8000))
    report = separate_paths(config_for(tmp_path, tmp_path, "absent.wav"), identity(channels=2))
    assert [done.source.name for done in report.separated] == ["a.wav"]
    reasons = {problem.source.name: problem.reason for problem in report.failed}
    assert sorted(reasons) == ["absent.wav", "b.wav", "c.wav", "d.wav", "e.wav"]
    assert "neither libsndfile nor ffmpeg" in reasons["b.wav"]
    assert "NaN" in reasons["c.wav"]
    assert "no samples" in reasons["d.wav"]
    assert "3 channels" in reasons["e.wav"]
    assert "no such file" in reasons["absent.wav"]
    written = sorted(path.name for path in (tmp_path / "out").rglob("*") if path.is_file())
    assert written == ["accompaniment.wav", "vocals.wav"]


def test_inputs_are_files_folders_and_patterns_with_names_of_their_own(tmp_path: Path) -> None:
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
    with pytest.raises(ConfigError, match="holds no audio files"):
        find_inputs([str(tmp_path / "y/*.txt")])


def test_impossible_settings_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    write_wav(tmp_path / "a.wav", Waveform(samples=noise(1, 800), sample_rate=8000))
    for changes, told in (
        ({"format": "flac", "sample_format": "float"}, "sample_format: flac holds no float"),
        ({"name": "{track}"}, "must hold {stem}"),
        ({"name": "{stem"}, "is not a template"),
        ({"stems": ("piano",)}, "no 'piano'"),
    ):
        with pytest.raises(ConfigError, match=told):
            separate_paths(config_for(tmp_path, tmp_path / "a.wav", **changes), identity())
    assert not (tmp_path / "out").exists()


def test_a_stem_never_replaces_its_own_input(tmp_path: Path) -> None:
    write_wav(tmp_path / "vocals.wav", Waveform(samples=noise(1, 800), sample_rate=8000))
    config = config_for(tmp_path, tmp_path / "vocals.wav", output=str(tmp_path), name="{stem}")
    (problem,) = separate_paths(config, identity()).failed
    assert "its own input" in problem.reason


def test_a_format_that_only_ffmpeg_reads_is_separated(tmp_path: Path) -> None:
    source = tmp_path / "song.wav"
    write_wav(source, Waveform(samples=0.5 * noise(2, 16000), sample_rate=8000), subtype="PCM_16")
    command = ["ffmpeg", "-v", "error", "-i", str(source), "-c:a", "alac", str(tmp_path / "song.m4a")]
    subprocess.run(command, check=True)
    (done,) = separate_paths(config_for(tmp_path, tmp_path / "song.m4a"), identity(channels=2)).separated
    assert np.array_equal(soundfile.read(done.stems["vocals"])[0], soundfile.read(source)[0])
