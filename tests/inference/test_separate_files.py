"""Separation of files: formats, names, clipping, streaming, and the output of `cyclesep separate`."""

import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
from rich.console import Console

from cyclesep.audio import ffmpeg
from cyclesep.audio.audio_io import Waveform, write_wav
from cyclesep.audio.audio_reader import AudioReader, read
from cyclesep.checkpoints.run_folder import download_checkpoint
from cyclesep.cli.main import run_job
from cyclesep.errors import AudioError, CheckpointError, ConfigError
from cyclesep.inference.file_progress import SeparationProgress
from cyclesep.inference.input_files import find_inputs
from cyclesep.inference.separate import separate_files
from tests.support.fake_separator import FakeSeparator, Scale, config_for, identity, noise
from tests.support.paths import CHECKOUT
from tests.support.tiny_evaluation import save_separator


@pytest.fixture
def song(tmp_path: Path) -> Path:
    """Two seconds of two tones, stereo at 16 kHz."""
    time = np.arange(32000) / 16000
    tones = np.stack([0.4 * np.sin(2 * np.pi * hertz * time) for hertz in (440, 660)]).astype(np.float32)
    write_wav(tmp_path / "song.wav", Waveform(samples=tones, sample_rate=16000), subtype="PCM_16")
    return tmp_path / "song.wav"


def encoded(source: Path, name: str, *options: str) -> Path:
    subprocess.run(["ffmpeg", "-v", "error", "-i", str(source), *options, str(source.with_name(name))], check=True)
    return source.with_name(name)


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Run `cyclesep separate` in a folder with the run `tiny`; return its exit status."""
    monkeypatch.chdir(tmp_path)
    save_separator(tmp_path / "runs/tiny/step-1")
    (tmp_path / "runs/tiny/run.json").write_text('{"best": "step-1", "last": "step-1"}')

    def run(*arguments: str) -> int:
        with pytest.raises(SystemExit) as exit:
            run_job("separate", arguments)
        return int(exit.value.code or 0)

    return run


def test_mp3_keeps_length_level_and_signal(song: Path, tmp_path: Path) -> None:
    result = separate_files(config_for(tmp_path, song, format="mp3"), identity(channels=2, sample_rate=16000))
    (done,) = result.separated
    assert done.stems["vocals"] == tmp_path / "out/song/vocals.mp3"
    assert soundfile.info(done.stems["vocals"]).format == "MP3"
    before, after = read(song), read(done.stems["vocals"])
    assert (after.samples.shape, after.sample_rate) == (before.samples.shape, 16000)
    middle = slice(2000, -2000)
    error = after.samples[:, middle] - before.samples[:, middle]
    power = np.mean(before.samples[:, middle] ** 2)
    assert 10 * np.log10(power / np.mean(error**2)) > 30
    # LAME at a constant bit rate would give 0.95.
    gain = np.mean(before.samples[:, middle] * after.samples[:, middle]) / power
    assert gain == pytest.approx(1.0, abs=0.003)


def test_flac_has_24_bits_by_default(song: Path, tmp_path: Path) -> None:
    separator = identity(channels=2, sample_rate=16000)
    (done,) = separate_files(config_for(tmp_path, song, format="flac"), separator).separated
    assert soundfile.info(done.stems["vocals"]).subtype == "PCM_24"
    assert np.array_equal(soundfile.read(done.stems["vocals"])[0], soundfile.read(song)[0])


@pytest.mark.parametrize(
    ("shape", "rate", "format", "message"),
    [((1, 1000), 96000, "mp3", "96000 Hz, which mp3"), ((3, 1000), 8000, "mp3", "3 channels, which mp3"),
     ((9, 1000), 8000, "flac", "9 channels, which flac")],
)  # fmt: skip
def test_error_for_an_unsupported_rate_or_channel_count_names_the_remedy(
    tmp_path: Path, shape: tuple[int, int], rate: int, format: str, message: str
) -> None:
    write_wav(tmp_path / "song.wav", Waveform(samples=noise(*shape), sample_rate=rate))
    config = config_for(tmp_path, tmp_path / "song.wav", format=format)
    (failure,) = separate_files(config, identity(sample_rate=rate)).failed
    assert message in failure.reason
    assert "format=wav" in failure.reason
    assert not (tmp_path / "out").exists()


def test_clipping_error_fails_for_peaks_above_full_scale_and_writes_nothing(tmp_path: Path) -> None:
    write_wav(tmp_path / "loud.wav", Waveform(samples=noise(1, 800), sample_rate=8000))
    config = config_for(tmp_path, tmp_path / "loud.wav", sample_format="pcm16", clipping="error")
    (failure,) = separate_files(config, FakeSeparator(module=Scale(2.0))).failed
    assert "dB above full scale" in failure.reason
    assert not (tmp_path / "out").exists()
    assert len(separate_files(config, identity()).separated) == 1


@pytest.mark.parametrize("format", ["mp3", "flac"])
def test_loud_stems_are_rescaled_by_one_gain_in_every_format(tmp_path: Path, format: str) -> None:
    loud = Waveform(samples=noise(1, 16000), sample_rate=8000)
    write_wav(tmp_path / "loud.wav", loud)
    config = config_for(tmp_path, tmp_path / "loud.wav", format=format)
    (done,) = separate_files(config, FakeSeparator(module=Scale(2.0))).separated
    assert done.gain == pytest.approx(1 / (2 * np.abs(loud.samples).max()), rel=1e-3)


def test_filename_template_with_and_without_suffix(song: Path, tmp_path: Path) -> None:
    separator = identity(channels=2, sample_rate=16000)
    for name, expected in (
        ("{track} ({stem}).{ext}", "song (vocals).wav"),
        ("{stem}/{track}", "vocals/song.wav"),
        ("{ext}/{track}-{stem}.{ext}", "wav/song-vocals.wav"),
    ):
        (done,) = separate_files(config_for(tmp_path, song, filename_template=name), separator).separated
        assert done.stems["vocals"] == tmp_path / "out" / expected
        assert done.stems["vocals"].is_file()


@pytest.mark.parametrize(
    "name",
    ["../{stem}", "/tmp/{stem}", "a/../../{stem}", "{stem!r}", "{stem:>9}", "{stem.__class__}", "{0}", "{other}"],
)
def test_templates_outside_the_output_folder_or_with_other_fields_are_errors(
    song: Path, tmp_path: Path, name: str
) -> None:
    with pytest.raises(ConfigError, match="^filename_template: "):
        separate_files(config_for(tmp_path, song, filename_template=name), identity(channels=2))
    assert not (tmp_path / "out").exists()


def test_checkpoint_whose_targets_are_paths_is_an_error(song: Path, tmp_path: Path) -> None:
    separator = FakeSeparator(module=Scale(1.0), targets=("../../escaped",), channels=2)
    with pytest.raises(ConfigError, match="outside the output folder"):
        separate_files(config_for(tmp_path, song), separator)


def test_two_inputs_with_the_same_output_are_an_error_before_separation(tmp_path: Path) -> None:
    for name in ("a.wav", "b.wav"):
        write_wav(tmp_path / name, Waveform(samples=noise(1, 800), sample_rate=8000))
    config = config_for(tmp_path, tmp_path / "a.wav", tmp_path / "b.wav", filename_template="{stem}")
    with pytest.raises(ConfigError, match=r"add \{track\} to it"):
        separate_files(config, identity())
    assert not (tmp_path / "out").exists()


def test_stem_does_not_replace_another_input(tmp_path: Path) -> None:
    for name in ("a.wav", "a-vocals.wav"):
        write_wav(tmp_path / name, Waveform(samples=noise(1, 800), sample_rate=8000))
    before = (tmp_path / "a-vocals.wav").read_bytes()
    config = config_for(
        tmp_path,
        tmp_path / "a.wav",
        tmp_path / "a-vocals.wav",
        output=str(tmp_path),
        filename_template="{track}-{stem}",
    )
    result = separate_files(config, identity())
    assert "would replace the input" in result.failed[0].reason
    assert (tmp_path / "a-vocals.wav").read_bytes() == before


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("a.m4a", ("-c:a", "alac")),
        ("b.m4a", ("-c:a", "aac")),
        ("c.mka", ("-c:a", "pcm_s24le")),
        ("d.wma", ()),
        ("e.mp3", ()),
    ],
)
def test_decoding_in_blocks_equals_decoding_the_whole(song: Path, name: str, options: tuple[str, ...]) -> None:
    path = encoded(song, name, *options)
    whole, *_ = ffmpeg.decode(path)
    decoder = ffmpeg.BlockDecoder(path, block_samples=3000)
    blocks = list(decoder)
    decoder.close()
    assert (decoder.channels, decoder.sample_rate) == (2, 16000)
    assert len(blocks) > 5
    assert np.array_equal(np.concatenate(blocks, axis=1), whole.samples)


def test_truncated_file_is_an_error_and_writes_nothing(song: Path, tmp_path: Path) -> None:
    path = encoded(song, "song.m4a", "-c:a", "alac", "-movflags", "+faststart")
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    (failure,) = separate_files(config_for(tmp_path, path), identity(channels=2)).failed
    assert "ffmpeg cannot decode it" in failure.reason
    assert not (tmp_path / "out").exists()


def test_reading_nan_is_an_error(tmp_path: Path) -> None:
    samples = noise(1, 8000)
    samples[0, 6000] = np.nan
    soundfile.write(tmp_path / "song.wav", samples.T, 8000, subtype="FLOAT")
    with AudioReader(tmp_path / "song.wav") as source, pytest.raises(AudioError, match="NaN"):
        list(source)


def test_json_with_run_name_and_two_stems(
    song: Path, command: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    (song.parent / "bad.wav").write_text("not audio")
    assert command("song.wav", "bad.wav", "checkpoint=tiny", "--two-stems", "vocals", "--json", "--device", "cpu") == 1
    output = capsys.readouterr()
    document = json.loads(output.out)
    assert document["checkpoint"] == "runs/tiny/step-1"
    assert document["device"] == "cpu"
    (done,) = document["separated"]
    assert done["source"] == "song.wav"
    assert done["stems"] == {
        "vocals": "separated/song/vocals.wav",
        "accompaniment": "separated/song/accompaniment.wav",
    }
    assert (done["seconds"], done["gain"]) == (2.0, 1.0)
    assert [failure["source"] for failure in document["failed"]] == ["bad.wav"]
    assert "x real time" in output.err
    assert "1 of 2 files failed" in output.err


def test_the_same_command_writes_the_same_bits(song: Path, command: Callable[..., int]) -> None:
    # Not wav, because libsndfile writes a timestamp with the peak of float samples.
    assert command("song.wav", "checkpoint=runs/tiny", "output=one", "format=flac") == 0
    assert command("song.wav", "checkpoint=tiny", "output=two", "format=flac") == 0
    assert Path("one/song/vocals.flac").read_bytes() == Path("two/song/vocals.flac").read_bytes()
    assert song.is_file()


@pytest.mark.usefixtures("song")
def test_template_argument_needs_no_extra_quotes(command: Callable[..., int]) -> None:
    assert command("song.wav", "checkpoint=tiny", "filename_template={track} ({stem}).{ext}") == 0
    assert Path("separated/song (vocals).wav").is_file()


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (("checkpoint=tinny",), 1, "tinny: no checkpoint or finished run found; did you mean tiny?"),
        (("checkpoint=tiny", "--two-stem", "vocals"), 2, "did you mean --two-stems?"),
        (("checkpoint=tiny", "--two-stems", "drums"), 1, "unknown target 'drums'; the separator extracts vocals"),
        (("checkpoint=tiny", "format=mp4"), 1, "did you mean mp3? choices: wav, flac, mp3"),
        (("checkpoint=tiny", "device=cpu"), 1, "did you mean separation.device?"),
        (("checkpoint=tiny", "format=mp3", "sample_format=pcm16"), 1, "mp3 has no sample format"),
    ],
)
def test_errors_are_one_line_with_a_suggestion(
    song: Path,  # noqa: ARG001
    command: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    status: int,
    message: str,
) -> None:
    assert command("song.wav", *arguments) == status
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


@pytest.mark.usefixtures("command")
def test_error_for_an_unknown_run_lists_existing_runs() -> None:
    with pytest.raises(CheckpointError, match="runs here: tiny"):
        download_checkpoint("something-else")
    assert download_checkpoint("tiny") == Path("runs/tiny/step-1").absolute()


def test_progress_bar_shows_file_and_position() -> None:
    drawn = io.StringIO()
    with SeparationProgress(3, Console(file=drawn, force_terminal=True, width=120)) as progress:
        progress.begin(Path("a [b].wav"))
        progress.advance(30.0, 3700.0)
    assert "1/3 a [b].wav" in drawn.getvalue()
    assert "0:30/1:01:40" in drawn.getvalue()


def test_tilde_in_a_file_name_is_not_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("~draft.wav").touch()
    assert list(find_inputs(["~draft.wav"], output=tmp_path / "out")) == ["~draft"]


def test_file_with_an_invalid_name_fails_alone(song: Path, tmp_path: Path) -> None:
    inputs = [tmp_path / "...flac", tmp_path / f"{'x' * 300}.wav", song]
    inputs[0].write_bytes(song.read_bytes())
    result = separate_files(config_for(tmp_path, *inputs), identity(channels=2, sample_rate=16000))
    assert [done.source for done in result.separated] == [song]
    assert [failure.source for failure in result.failed] == inputs[:2]
    assert "which is outside the output folder" in result.failed[0].reason
    for failure in result.failed:
        assert failure.reason.startswith(f"{failure.source}: ")


@pytest.mark.parametrize("sample_format", ["float", "pcm16"])
def test_stems_with_the_longest_valid_names_are_written(tmp_path: Path, sample_format: str) -> None:
    write_wav(tmp_path / "a.wav", Waveform(samples=noise(1, 800), sample_rate=8000))
    longest = "x" * (255 - len(".accompaniment.wav"))
    config = config_for(
        tmp_path, tmp_path / "a.wav", filename_template=longest + ".{stem}", sample_format=sample_format
    )
    (done,) = separate_files(config, FakeSeparator(module=Scale(2.0))).separated
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(
        path.name for path in done.stems.values()
    )
    (failure,) = separate_files(replace(config, filename_template=f"x{longest}." + "{stem}"), identity()).failed
    assert "a name may have at most 255 bytes; choose a shorter one" in failure.reason
    assert ".partial" not in failure.reason


def test_names_after_two_dashes_may_begin_with_a_dash(song: Path, command: Callable[..., int]) -> None:
    song.rename(song.with_name("-x.wav"))
    assert command("--", "-x.wav", "checkpoint=tiny") == 0
    assert command("checkpoint=tiny", "output=two", "--device", "cpu", "--", "-x.wav") == 0
    first, second = (soundfile.read(f"{folder}/-x/vocals.wav")[0] for folder in ("separated", "two"))
    assert first.shape == (32000, 2)
    assert np.array_equal(first, second)


# Linux keeps ru_maxrss over exec, so the parent's peak would hide that of the child.
_PEAK = """
import re, sys
from pathlib import Path
from cyclesep.inference.config import SeparateConfig
from cyclesep.inference.separate import separate_files
from tests.support.fake_separator import identity
done = separate_files(SeparateConfig(checkpoint="-", inputs=(sys.argv[1],), output=sys.argv[2]), identity())
assert not done.failed, done.failed
print(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
"""


def test_memory_is_independent_of_the_length_of_a_file(tmp_path: Path) -> None:
    def peak_bytes(minutes: int) -> int:
        path = tmp_path / f"{minutes}.flac"
        with soundfile.SoundFile(path, "w", 8000, 1, subtype="PCM_16") as file:
            for _ in range(minutes):
                file.write(noise(1, 60 * 8000)[0])
        environment = os.environ | {"PYTHONPATH": str(CHECKOUT), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-c", _PEAK, str(path), str(tmp_path / "out")]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        return 1024 * int(done.stdout)

    # Samples and stems of the whole file would be 18 minutes * 60 * 8000 * 3 * 4 bytes: 104 MB.
    assert peak_bytes(20) - peak_bytes(2) < 30e6
