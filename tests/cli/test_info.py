"""`cyclesep info`: figures that can be worked out by hand, in one screen or one JSON document."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from cyclesep import checkpoints
from cyclesep.audio.audio_io import Samples
from cyclesep.cli.info.runs import describe_checkpoint, describe_run
from cyclesep.cli.info.shards import describe_shards
from cyclesep.cli.info.show import length, size
from cyclesep.cli.main import run_job
from cyclesep.data.shards.manifest import ShardManifest, make_manifest, write_manifest
from cyclesep.data.shards.writing import write_track
from cyclesep.storage.path import StoragePath
from tests.support.tiny_evaluation import save_separator

RATE = 48_000


def tone(amplitude: float, seconds: float, silent_seconds: float = 0.0) -> Samples:
    """997 Hz, mono, with digital silence after it."""
    time = np.arange(round(seconds * RATE)) / RATE
    sounding = amplitude * np.sin(2 * np.pi * 997 * time)
    return np.concatenate([sounding, np.zeros(round(silent_seconds * RATE))]).astype(np.float32)[None]


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two tracks of 8 s: `vocals` of -9.03 dB, in the first one silent for its second half; `drums` in one only."""
    folder = tmp_path_factory.mktemp("shards")
    songs = {
        "A": ("train", {"vocals": tone(0.5, 4, 4), "drums": tone(0.25, 8)}),
        "B": ("test", {"vocals": tone(0.5, 8)}),
    }
    tracks = [
        write_track(folder, stems, track_id=name, split=split, sample_rate=RATE, segment_samples=RATE)
        for name, (split, stems) in songs.items()
    ]
    write_manifest(folder, make_manifest(tracks))
    return folder


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A finished run `runs/tiny` with two checkpoints and an evaluation."""
    monkeypatch.chdir(tmp_path)
    folder = Path("runs/tiny")
    save_separator(folder / "step-1")
    save_separator(folder / "step-2")
    checkpoints.write_run(folder, best="step-1", last="step-2")
    row = {
        "split": "test",
        "scoring_group": "vocals",
        "target": "vocals",
        "system": "tiny",
        "tracks": 3,
        "nan_frames": 0,
    }
    metrics = {"SDR": 4.25, "ISR": None, "SIR": None, "SAR": None, "SI-SDR": 3.5, "uSDR": 4.0}
    (folder / "test").mkdir()
    (folder / "test/summary.json").write_text(json.dumps({"scores": [row | metrics]}))
    return folder


@pytest.fixture
def info(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    """The command; gives its status and what it printed."""

    def told(*words: str) -> tuple[int, str]:
        with pytest.raises(SystemExit) as ended:
            run_job("info", words)
        output = capsys.readouterr()
        return int(ended.value.code or 0), output.out + output.err

    return told


def test_hours_silence_and_levels_are_those_of_the_audio(shards: Path) -> None:
    corpus = describe_shards(str(shards))
    assert (corpus.tracks, corpus.sample_rate, corpus.channels) == (2, RATE, 1)
    assert corpus.hours * 3600 == pytest.approx(16.0)
    assert {split.name: (split.tracks, split.hours * 3600) for split in corpus.splits} == {
        "test": (1, pytest.approx(8.0)),
        "train": (1, pytest.approx(8.0)),
    }
    vocals, drums = (next(stem for stem in corpus.stems if stem.name == name) for name in ("vocals", "drums"))
    # A sine has half the power of its peak: 20 log10(0.5) - 3.01. The manifest holds tenths.
    assert vocals.level_db == pytest.approx(-9.03, abs=0.06)
    assert drums.level_db == pytest.approx(-15.05, abs=0.06)
    assert (vocals.silent_share, drums.silent_share) == (pytest.approx(0.25), 0.0)
    assert (vocals.tracks, drums.tracks) == (2, 1)
    assert corpus.disk_bytes == sum(path.stat().st_size for path in shards.glob("*.lmdb"))
    assert vocals.lufs is None


def test_integrated_loudness_is_that_of_the_standard(shards: Path) -> None:
    corpus = describe_shards(str(shards), audio=True)
    # BS.1770-4: 997 Hz at 0 dB full scale in one channel is -3.01 LKFS.
    loudness = {stem.name: stem.lufs for stem in corpus.stems}
    assert loudness["drums"] == pytest.approx(-3.01 - 12.04, abs=0.05)
    # Silence is gated out, but for the three blocks that it shares with the end of the tone.
    assert loudness["vocals"] == pytest.approx(-3.01 - 6.02, abs=0.2)


def test_a_stricter_threshold_calls_more_silent(shards: Path) -> None:
    drums = next(
        stem for stem in describe_shards(str(shards), silence_threshold_db=-12.0).stems if stem.name == "drums"
    )
    assert (drums.silent_share, drums.level_db) == (1.0, None)


def test_shards_in_s3_are_described_without_fetching_them(prefix: str, shards: Path) -> None:
    from cyclesep.data.shards.manifest import read_manifest

    manifest: ShardManifest = read_manifest(shards)
    write_manifest(prefix, manifest)
    corpus = describe_shards(prefix)
    assert (corpus.place, corpus.tracks, corpus.digest) == (prefix, 2, manifest.digest)


def test_a_checkpoint_s_parameters_and_changed_settings_are_told(run: Path) -> None:
    described = describe_checkpoint(StoragePath.of(run / "step-1"))
    separator = checkpoints.load_separator(run / "step-1")
    assert described.parameters == sum(parameter.numel() for parameter in separator.module.parameters())
    assert described.changed_settings == {
        "method.separator.name": "waveunet",
        "method.separator.channels": 8,
        "method.separator.depth": 2,
    }
    assert described.card.targets == ("vocals",)
    assert described.disk_bytes == sum(path.stat().st_size for path in (run / "step-1").iterdir())


def test_a_run_is_its_best_checkpoint_and_its_evaluations(run: Path) -> None:
    described = describe_run(StoragePath.of(run))
    assert described.best is not None
    assert described.best.place == "runs/tiny/step-1"
    assert described.checkpoints == ("step-1", "step-2")
    assert [scores.rows[0]["SDR"] for scores in described.evaluations] == [4.25]
    (run / "run.json").unlink()
    unfinished = describe_run(StoragePath.of(run))
    assert not unfinished.finished
    assert unfinished.best is not None
    assert unfinished.best.place == "runs/tiny/step-2"


@pytest.mark.usefixtures("run")
def test_all_three_fit_a_screen_and_are_one_json_document(
    shards: Path, info: Callable[..., tuple[int, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    for place, title in (("tiny", "runs/tiny: run"), ("runs/tiny/step-1", ": checkpoint"), (str(shards), ": shards")):
        status, told = info(place)
        assert status == 0
        assert title in told
        assert told.count("\n") < 40
    assert "4.25" in info("tiny")[1]
    status, told = info("tiny", str(shards), "--json")
    assert status == 0
    assert [each["kind"] for each in json.loads(told)] == ["run", "shards"]


@pytest.mark.usefixtures("run")
def test_what_is_nothing_of_these_is_one_line_with_the_remedy(
    info: Callable[..., tuple[int, str]], tmp_path: Path
) -> None:
    assert "did you mean tiny?" in info("tinyy")[1]
    status, told = info(str(tmp_path))
    assert status == 1
    assert "is no run, no checkpoint and no shards" in told
    (tmp_path / "runs/tiny/step-1/separator.safetensors").write_bytes(b"damaged")
    status, told = info("tiny")
    assert status == 1
    assert "is missing or damaged" in told
    assert told.count("\n") == 1


def test_sizes_and_lengths_are_written_as_people_do() -> None:
    assert [size(number) for number in (0, 999, 1234, 5_600_000, 7_800_000_000)] == [
        "0 B", "999 B", "1.2 kB", "5.6 MB", "7.8 GB",
    ]  # fmt: skip
    assert [length(hours) for hours in (0.01, 1.0, 10.0)] == ["36.0 s", "60.0 minutes", "10.0 hours"]
