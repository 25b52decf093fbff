"""`cyclesep info`: known statistics of small shards and runs, on one screen or as one JSON document."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from cyclesep.audio.audio_io import Samples
from cyclesep.checkpoints.loaded_separator import load_separator
from cyclesep.checkpoints.run_folder import find_run
from cyclesep.cli.info.runs import describe_checkpoint, describe_run
from cyclesep.cli.info.shards import describe_shards
from cyclesep.cli.info.show import format_bytes, format_duration
from cyclesep.cli.main import run_job
from cyclesep.data.shards.manifest import ShardManifest, make_manifest, write_manifest
from cyclesep.data.shards.writing import write_track
from cyclesep.storage.path import StoragePath
from tests.support.tiny_evaluation import save_separator

RATE = 48_000


def tone(amplitude: float, seconds: float, silent_seconds: float = 0.0) -> Samples:
    """A mono tone of 997 Hz followed by digital silence."""
    time = np.arange(round(seconds * RATE)) / RATE
    audible = amplitude * np.sin(2 * np.pi * 997 * time)
    return np.concatenate([audible, np.zeros(round(silent_seconds * RATE))]).astype(np.float32)[None]


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two tracks of 8 s: `vocals` at -9.03 dB, silent in the second half of track A; `drums` in track A only."""
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
    find_run(folder).write_result(best="step-1", last="step-2")
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
    """Runs `cyclesep info`; returns its status and its output."""

    def run_info(*arguments: str) -> tuple[int, str]:
        with pytest.raises(SystemExit) as ended:
            run_job("info", arguments)
        output = capsys.readouterr()
        return int(ended.value.code or 0), output.out + output.err

    return run_info


def test_hours_silence_and_levels(shards: Path) -> None:
    corpus = describe_shards(str(shards))
    assert (corpus.tracks, corpus.sample_rate, corpus.channels) == (2, RATE, 1)
    assert corpus.hours * 3600 == pytest.approx(16.0)
    assert {split.name: (split.tracks, split.hours * 3600) for split in corpus.splits} == {
        "test": (1, pytest.approx(8.0)),
        "train": (1, pytest.approx(8.0)),
    }
    vocals, drums = (next(stem for stem in corpus.stems if stem.name == name) for name in ("vocals", "drums"))
    # The mean power of a sine is half its squared amplitude: 20 log10(0.5) - 3.01. The manifest has one decimal.
    assert vocals.level_db == pytest.approx(-9.03, abs=0.06)
    assert drums.level_db == pytest.approx(-15.05, abs=0.06)
    assert (vocals.silent_fraction, drums.silent_fraction) == (pytest.approx(0.25), 0.0)
    assert (vocals.tracks, drums.tracks) == (2, 1)
    assert corpus.disk_bytes == sum(path.stat().st_size for path in shards.glob("*.lmdb"))
    assert vocals.lufs is None


def test_integrated_loudness_matches_bs1770(shards: Path) -> None:
    corpus = describe_shards(str(shards), audio=True)
    # BS.1770-4: 997 Hz at 0 dB full scale in one channel is -3.01 LKFS.
    loudness = {stem.name: stem.lufs for stem in corpus.stems}
    assert loudness["drums"] == pytest.approx(-3.01 - 12.04, abs=0.05)
    # Silence is gated out, except three blocks that overlap the end of the tone.
    assert loudness["vocals"] == pytest.approx(-3.01 - 6.02, abs=0.2)


def test_higher_threshold_counts_more_as_silent(shards: Path) -> None:
    drums = next(
        stem for stem in describe_shards(str(shards), silence_threshold_db=-12.0).stems if stem.name == "drums"
    )
    assert (drums.silent_fraction, drums.level_db) == (1.0, None)


def test_shards_in_s3_are_described_from_the_manifest_alone(prefix: str, shards: Path) -> None:
    from cyclesep.data.shards.manifest import read_manifest

    manifest: ShardManifest = read_manifest(shards)
    write_manifest(prefix, manifest)
    corpus = describe_shards(prefix)
    assert (corpus.path, corpus.tracks, corpus.digest) == (prefix, 2, manifest.digest)


def test_parameters_and_changed_settings_of_a_checkpoint(run: Path) -> None:
    described = describe_checkpoint(StoragePath.of(run / "step-1"))
    separator = load_separator(run / "step-1")
    assert described.parameters == sum(parameter.numel() for parameter in separator.module.parameters())
    assert described.changed_settings == {
        "method.separator.name": "waveunet",
        "method.separator.channels": 8,
        "method.separator.depth": 2,
    }
    assert described.metadata.targets == ("vocals",)
    assert described.disk_bytes == sum(path.stat().st_size for path in (run / "step-1").iterdir())


def test_run_has_its_best_checkpoint_and_evaluations(run: Path) -> None:
    described = describe_run(StoragePath.of(run))
    assert described.best is not None
    assert described.best.path == "runs/tiny/step-1"
    assert described.checkpoints == ("step-1", "step-2")
    assert [scores.rows[0]["SDR"] for scores in described.evaluations] == [4.25]
    (run / "run.json").unlink()
    unfinished = describe_run(StoragePath.of(run))
    assert not unfinished.finished
    assert unfinished.best is not None
    assert unfinished.best.path == "runs/tiny/step-2"


@pytest.mark.usefixtures("run")
def test_each_kind_fits_a_screen_and_all_form_one_json_document(
    shards: Path, info: Callable[..., tuple[int, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    for path, title in (("tiny", "runs/tiny: run"), ("runs/tiny/step-1", ": checkpoint"), (str(shards), ": shards")):
        status, output = info(path)
        assert status == 0
        assert title in output
        assert output.count("\n") < 40
    assert "4.25" in info("tiny")[1]
    status, output = info("tiny", str(shards), "--json")
    assert status == 0
    assert [each["kind"] for each in json.loads(output)] == ["run", "shards"]


@pytest.mark.usefixtures("run")
def test_other_paths_are_errors_of_one_line_with_a_remedy(info: Callable[..., tuple[int, str]], tmp_path: Path) -> None:
    assert "did you mean tiny?" in info("tinyy")[1]
    status, output = info(str(tmp_path))
    assert status == 1
    assert "not a run, a checkpoint or shards; give a folder with run.json" in output
    (tmp_path / "runs/tiny/step-1/separator.safetensors").write_bytes(b"damaged")
    status, output = info("tiny")
    assert status == 1
    assert "separator.safetensors: missing or damaged" in output
    assert output.count("\n") == 1


def test_bytes_and_durations_have_units() -> None:
    assert [format_bytes(number) for number in (0, 999, 1234, 5_600_000, 7_800_000_000)] == [
        "0 B", "999 B", "1.2 kB", "5.6 MB", "7.8 GB",
    ]  # fmt: skip
    assert [format_duration(hours) for hours in (0.01, 1.0, 10.0)] == ["36.0 s", "60.0 minutes", "10.0 hours"]
