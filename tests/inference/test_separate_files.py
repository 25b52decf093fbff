"""Files out: formats, names, clipping, what is streamed, and what `cyclesep separate` prints."""

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

from cyclesep.audio import audio_io, ffmpeg
from cyclesep.audio.audio_io import Waveform, write_wav
from cyclesep.checkpoints.run_folder import download_checkpoint
from cyclesep.cli.main import run_job
from cyclesep.errors import AudioError, CheckpointError, ConfigError
from cyclesep.inference.audio_reader import AudioSource
from cyclesep.inference.file_progress import SeparationProgress
from cyclesep.inference.input_files import find_inputs
from cyclesep.inference.separate import separate_paths
from tests.inference.test_chunked_inference import FakeSeparator, Scale, config_for, identity, noise
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
    """`cyclesep separate` in a folder that holds the run `tiny`; gives its exit status."""
    monkeypatch.chdir(tmp_path)
    save_separator(tmp_path / "runs/tiny/step-1")
    (tmp_path / "runs/tiny/run.json").write_text('{"best": "step-1", "last": "step-1"}')

    def run(*words: str) -> int:
        with pytest.raises(SystemExit) as ended:
            run_job("separate", words)
        return int(ended.value.code or 0)

    return run


def test_mp3_comes_back_as_long_as_it_was_and_within_its_noise(song: Path, tmp_path: Path) -> None:
    report = separate_paths(config_for(tmp_path, song, format="mp3"), identity(channels=2, sample_rate=16000))
    (done,) = report.separated
    assert done.stems["vocals"] == tmp_path / "out/song/vocals.mp3"
    assert soundfile.info(done.stems["vocals"]).format == "MP3"
    before, after = audio_io.read(song), audio_io.read(done.stems["vocals"])
    assert (after.samples.shape, after.sample_rate) == (before.samples.shape, 16000)
    middle = slice(2000, -2000)
    error = after.samples[:, middle] - before.samples[:, middle]
    power = np.mean(before.samples[:, middle] ** 2)
    assert 10 * np.log10(power / np.mean(error**2)) > 30
    # LAME at a constant bit rate would give 0.95.
    gain = np.mean(before.samples[:, middle] * after.samples[:, middle]) / power
    assert gain == pytest.approx(1.0, abs=0.003)


def test_flac_is_24_bits_unless_told_otherwise(song: Path, tmp_path: Path) -> None:
    separator = identity(channels=2, sample_rate=16000)
    (done,) = separate_paths(config_for(tmp_path, song, format="flac"), separator).separated
    assert soundfile.info(done.stems["vocals"]).subtype == "PCM_24"
    assert np.array_equal(soundfile.read(done.stems["vocals"])[0], soundfile.read(song)[0])


@pytest.mark.parametrize(
    ("shape", "rate", "format", "told"),
    [((1, 1000), 96000, "mp3", "96000 Hz, which mp3"), ((3, 1000), 8000, "mp3", "3 channels, which mp3"),
     ((9, 1000), 8000, "flac", "9 channels, which flac")],
)  # fmt: skip
def test_what_a_format_cannot_hold_is_refused_with_the_remedy(
    tmp_path: Path, shape: tuple[int, int], rate: int, format: str, told: str
) -> None:
    write_wav(tmp_path / "song.wav", Waveform(samples=noise(*shape), sample_rate=rate))
    config = config_for(tmp_path, tmp_path / "song.wav", format=format)
    (failure,) = separate_paths(config, identity(sample_rate=rate)).failed
    assert told in failure.reason
    assert "format=wav" in failure.reason
    assert not (tmp_path / "out").exists()


def test_clipping_error_refuses_a_file_whose_peaks_do_not_fit_and_leaves_nothing(tmp_path: Path) -> None:
    write_wav(tmp_path / "loud.wav", Waveform(samples=noise(1, 800), sample_rate=8000))
    config = config_for(tmp_path, tmp_path / "loud.wav", sample_format="pcm16", clipping="error")
    (failure,) = separate_paths(config, FakeSeparator(module=Scale(2.0))).failed
    assert "dB above full scale" in failure.reason
    assert not (tmp_path / "out").exists()
    assert len(separate_paths(config, identity()).separated) == 1


@pytest.mark.parametrize("format", ["mp3", "flac"])
def test_loud_stems_are_made_softer_together_in_every_format(tmp_path: Path, format: str) -> None:
    loud = Waveform(samples=noise(1, 16000), sample_rate=8000)
    write_wav(tmp_path / "loud.wav", loud)
    config = config_for(tmp_path, tmp_path / "loud.wav", format=format)
    (done,) = separate_paths(config, FakeSeparator(module=Scale(2.0))).separated
    assert done.gain == pytest.approx(1 / (2 * np.abs(loud.samples).max()), rel=1e-3)


def test_the_template_names_files_and_may_say_the_suffix(song: Path, tmp_path: Path) -> None:
    separator = identity(channels=2, sample_rate=16000)
    for name, expected in (
        ("{track} ({stem}).{ext}", "song (vocals).wav"),
        ("{stem}/{track}", "vocals/song.wav"),
        ("{ext}/{track}-{stem}.{ext}", "wav/song-vocals.wav"),
    ):
        (done,) = separate_paths(config_for(tmp_path, song, name=name), separator).separated
        assert done.stems["vocals"] == tmp_path / "out" / expected
        assert done.stems["vocals"].is_file()


@pytest.mark.parametrize(
    "name",
    ["../{stem}", "/tmp/{stem}", "a/../../{stem}", "{stem!r}", "{stem:>9}", "{stem.__class__}", "{0}", "{other}"],
)
def test_a_template_leads_out_of_the_folder_for_nobody(song: Path, tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="^name: "):
        separate_paths(config_for(tmp_path, song, name=name), identity(channels=2))
    assert not (tmp_path / "out").exists()


def test_a_checkpoint_whose_targets_are_paths_writes_nothing(song: Path, tmp_path: Path) -> None:
    separator = FakeSeparator(module=Scale(1.0), targets=("../../escaped",), channels=2)
    with pytest.raises(ConfigError, match="leads out of the output folder"):
        separate_paths(config_for(tmp_path, song), separator)


def test_two_inputs_that_would_share_a_file_are_refused_before_work_begins(tmp_path: Path) -> None:
    for name in ("a.wav", "b.wav"):
        write_wav(tmp_path / name, Waveform(samples=noise(1, 800), sample_rate=8000))
    with pytest.raises(ConfigError, match=r"put \{track\} into it"):
        separate_paths(config_for(tmp_path, tmp_path / "a.wav", tmp_path / "b.wav", name="{stem}"), identity())
    assert not (tmp_path / "out").exists()


def test_a_stem_never_replaces_another_input(tmp_path: Path) -> None:
    for name in ("a.wav", "a-vocals.wav"):
        write_wav(tmp_path / name, Waveform(samples=noise(1, 800), sample_rate=8000))
    before = (tmp_path / "a-vocals.wav").read_bytes()
    config = config_for(
        tmp_path, tmp_path / "a.wav", tmp_path / "a-vocals.wav", output=str(tmp_path), name="{track}-{stem}"
    )
    report = separate_paths(config, identity())
    assert "would replace the input" in report.failed[0].reason
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
def test_a_stream_of_blocks_is_what_decoding_the_whole_gives(song: Path, name: str, options: tuple[str, ...]) -> None:
    path = encoded(song, name, *options)
    (whole,) = ffmpeg.decode(path, only_first=True)
    decoder = ffmpeg.BlockDecoder(path, block_samples=3000)
    blocks = list(decoder)
    decoder.close()
    assert (decoder.channels, decoder.sample_rate) == (2, 16000)
    assert len(blocks) > 5
    assert np.array_equal(np.concatenate(blocks, axis=1), whole.samples)


def test_a_file_that_breaks_off_is_an_error_and_leaves_nothing(song: Path, tmp_path: Path) -> None:
    path = encoded(song, "song.m4a", "-c:a", "alac", "-movflags", "+faststart")
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    (failure,) = separate_paths(config_for(tmp_path, path), identity(channels=2)).failed
    assert "ffmpeg cannot decode it" in failure.reason
    assert not (tmp_path / "out").exists()


def test_a_source_of_nan_says_where(tmp_path: Path) -> None:
    samples = noise(1, 8000)
    samples[0, 6000] = np.nan
    soundfile.write(tmp_path / "song.wav", samples.T, 8000, subtype="FLOAT")
    with AudioSource(tmp_path / "song.wav") as source, pytest.raises(AudioError, match="NaN"):
        list(source)


def test_a_run_s_name_and_two_stems_and_json_are_one_document(
    song: Path, command: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    (song.parent / "bad.wav").write_text("no audio")
    assert command("song.wav", "bad.wav", "checkpoint=tiny", "--two-stems", "vocals", "--json", "--device", "cpu") == 1
    output = capsys.readouterr()
    told = json.loads(output.out)
    assert told["checkpoint"] == "runs/tiny/step-1"
    assert told["device"] == "cpu"
    (done,) = told["separated"]
    assert done["source"] == "song.wav"
    assert done["stems"] == {
        "vocals": "separated/song/vocals.wav",
        "accompaniment": "separated/song/accompaniment.wav",
    }
    assert (done["seconds"], done["gain"]) == (2.0, 1.0)
    assert [failure["source"] for failure in told["failed"]] == ["bad.wav"]
    assert "x real time" in output.err
    assert "1 of 2 files failed" in output.err


def test_the_same_command_gives_the_same_bits(song: Path, command: Callable[..., int]) -> None:
    # Not in wav, for libsndfile writes the second at which it did so beside the peak of float samples.
    assert command("song.wav", "checkpoint=runs/tiny", "output=one", "format=flac") == 0
    assert command("song.wav", "checkpoint=tiny", "output=two", "format=flac") == 0
    assert Path("one/song/vocals.flac").read_bytes() == Path("two/song/vocals.flac").read_bytes()
    assert song.is_file()


@pytest.mark.usefixtures("song")
def test_a_template_needs_no_quotes_but_the_shell_s(command: Callable[..., int]) -> None:
    assert command("song.wav", "checkpoint=tiny", "name={track} ({stem}).{ext}") == 0
    assert Path("separated/song (vocals).wav").is_file()


@pytest.mark.parametrize(
    ("words", "status", "told"),
    [
        (("checkpoint=tinny",), 1, "tinny: is neither a checkpoint nor a finished run; did you mean tiny?"),
        (("checkpoint=tiny", "--two-stem", "vocals"), 2, "did you mean --two-stems?"),
        (("checkpoint=tiny", "--two-stems", "drums"), 1, "no 'drums'; it gives vocals"),
        (("checkpoint=tiny", "format=mp4"), 1, "did you mean mp3? choices: wav, flac, mp3"),
        (("checkpoint=tiny", "device=cpu"), 1, "did you mean separation.device?"),
        (("checkpoint=tiny", "format=mp3", "sample_format=pcm16"), 1, "mp3 has none"),
    ],
)
def test_mistakes_are_one_line_that_says_what_was_meant(
    song: Path,  # noqa: ARG001
    command: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
    words: tuple[str, ...],
    status: int,
    told: str,
) -> None:
    assert command("song.wav", *words) == status
    error = capsys.readouterr().err
    assert told in error
    assert error.count("\n") == 1


@pytest.mark.usefixtures("command")
def test_an_unknown_run_is_told_with_those_that_are_there() -> None:
    with pytest.raises(CheckpointError, match="runs here: tiny"):
        download_checkpoint("something-else")
    assert download_checkpoint("tiny") == Path("runs/tiny/step-1")


def test_the_bar_tells_the_file_and_how_far_it_is() -> None:
    drawn = io.StringIO()
    with SeparationProgress(3, Console(file=drawn, force_terminal=True, width=120)) as progress:
        progress.begin(Path("a [b].wav"))
        progress.advance(30.0, 3700.0)
    assert "1/3 a [b].wav" in drawn.getvalue()
    assert "0:30/1:01:40" in drawn.getvalue()


def test_a_name_that_begins_with_a_tilde_is_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("~draft.wav").touch()
    assert list(find_inputs(["~draft.wav"])) == ["~draft"]


def test_a_file_with_an_impossible_name_fails_alone(song: Path, tmp_path: Path) -> None:
    inputs = [tmp_path / "...flac", tmp_path / f"{'x' * 300}.wav", song]
    inputs[0].write_bytes(song.read_bytes())
    report = separate_paths(config_for(tmp_path, *inputs), identity(channels=2, sample_rate=16000))
    assert [done.source for done in report.separated] == [song]
    assert [failure.source for failure in report.failed] == inputs[:2]
    assert "which leads out of the output folder" in report.failed[0].reason
    for failure in report.failed:
        assert failure.reason.startswith(f"{failure.source}: ")


@pytest.mark.parametrize("sample_format", ["float", "pcm16"])
def test_stems_with_names_as_long_as_may_be_are_written(tmp_path: Path, sample_format: str) -> None:
    write_wav(tmp_path / "a.wav", Waveform(samples=noise(1, 800), sample_rate=8000))
    longest = "x" * (255 - len(".accompaniment.wav"))
    config = config_for(tmp_path, tmp_path / "a.wav", name=longest + ".{stem}", sample_format=sample_format)
    (done,) = separate_paths(config, FakeSeparator(module=Scale(2.0))).separated
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(
        path.name for path in done.stems.values()
    )
    (failure,) = separate_paths(replace(config, name=f"x{longest}." + "{stem}"), identity()).failed
    assert "a name may have at most 255 bytes; choose a shorter one" in failure.reason
    assert ".partial" not in failure.reason


def test_behind_two_dashes_names_may_begin_with_one(song: Path, command: Callable[..., int]) -> None:
    song.rename(song.with_name("-x.wav"))
    assert command("--", "-x.wav", "checkpoint=tiny") == 0
    assert command("checkpoint=tiny", "output=two", "--device", "cpu", "--", "-x.wav") == 0
    first, second = (soundfile.read(f"{folder}/-x/vocals.wav")[0] for folder in ("separated", "two"))
    assert first.shape == (32000, 2)
    assert np.array_equal(first, second)


# Linux keeps the peak of ru_maxrss over exec: the parent's own would hide the child's.
_PEAK = """
import re, sys
from pathlib import Path
from cyclesep.inference.config import SeparateConfig
from cyclesep.inference.separate import separate_paths
from tests.inference.test_chunked_inference import identity
done = separate_paths(SeparateConfig(checkpoint="-", inputs=(sys.argv[1],), output=sys.argv[2]), identity())
assert not done.failed, done.failed
print(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
"""


def test_memory_does_not_grow_with_the_length_of_a_file(tmp_path: Path) -> None:
    def peak_bytes(minutes: int) -> int:
        path = tmp_path / f"{minutes}.flac"
        with soundfile.SoundFile(path, "w", 8000, 1, subtype="PCM_16") as file:
            for _ in range(minutes):
                file.write(noise(1, 60 * 8000)[0])
        environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-c", _PEAK, str(path), str(tmp_path / "out")]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        return 1024 * int(done.stdout)

    # Had samples and stems been kept, this were 18 minutes * 60 * 8000 * 3 * 4 bytes: 104 MB.
    assert peak_bytes(20) - peak_bytes(2) < 30e6
