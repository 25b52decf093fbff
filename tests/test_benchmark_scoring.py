"""The scoring benchmark on a few seconds of a song: rows, their meaning, and one table as JSON."""

import math
from pathlib import Path

import numpy as np
import pytest

from cyclesep.benchmarks.scoring import ScoringBenchmark, run
from cyclesep.benchmarks.scoring_audio import ScoredAudio
from cyclesep.errors import ScoringError


def test_a_tiny_run_measures_every_way_and_finds_no_difference_from_museval() -> None:
    alone, pair = run(ScoringBenchmark(seconds=2.0, stems=2, sample_rate=4000, rounds=1))
    assert alone.baseline == pair.baseline == "museval, one thread"
    assert {row.way for row in pair.rows} >= {"museval, one thread", "cyclesep, one thread"}
    assert any(row.way.endswith("processes") and row.way.startswith("museval") for row in alone.rows)
    for row in (*alone.rows, *pair.rows):
        assert row.rate == pytest.approx(3600 / float(row.columns["CPU-s"]))
        assert float(row.columns["MB above the audio"]) > 0
        assert float(row.columns["dB off"]) < 1e-5 or row.way == "museval, 2 threads"


def test_without_museval_cyclesep_is_the_baseline_and_nothing_is_said_of_agreement() -> None:
    alone, _ = run(ScoringBenchmark(seconds=2.0, stems=2, sample_rate=2000, rounds=1, museval=False))
    assert alone.baseline == "cyclesep, one thread"
    assert math.isclose(alone.ratio(alone.rows[0]), 1.0)
    assert "dB off" not in alone.columns


def test_a_way_that_fails_names_itself_and_a_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ScoredAudio, "save", lambda *_: None)
    with pytest.raises(
        ScoringError, match=r"cyclesep, one thread: its process ended with 1 \(FileNotFound.*seconds=60"
    ):
        run(ScoringBenchmark(seconds=2.0, stems=2, sample_rate=2000, rounds=1, museval=False))


def test_audio_survives_the_disk_and_is_16_bit(tmp_path: Path) -> None:
    audio = ScoredAudio.compose(seconds=2.0, stems=3, sample_rate=4000)
    audio.save(tmp_path)
    read = ScoredAudio.load(tmp_path)
    assert read.references.shape == (3, 2, 8000)
    assert read.seconds == 2.0
    np.testing.assert_array_equal(read.estimates, audio.estimates)
    references, _ = read.for_museval()
    waves, _ = read.waveforms()
    np.testing.assert_array_equal(references[0].T, waves["vocals"].samples)
