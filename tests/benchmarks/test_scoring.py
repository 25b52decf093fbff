"""The scoring benchmark on a few seconds of a song: rows, their meaning, and one table as JSON."""

from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.scoring import ScoringBenchmark, _difference, _row, _Way, _ways, run
from benchmarks.scoring_audio import ScoredAudio
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


def test_museval_is_left_out_when_asked_and_a_gpu_stands_last_where_there_is_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    names = [way.name for way in _ways(ScoringBenchmark(museval=False), pair=True)]
    assert names[0] == "cyclesep, one thread"
    assert names[-1] == "cyclesep, PyTorch on a GPU"
    assert not any("museval" in name for name in names)
    assert sum("museval" in way.name for way in _ways(ScoringBenchmark(), pair=False)) == 3


def test_without_an_oracle_rates_are_of_processor_time_and_nothing_is_said_of_agreement() -> None:
    results = [{"cpu_seconds": 2.0, "wall_seconds": wall, "peak_mb": 10.0 * wall, "scores": []} for wall in (3.0, 4.0)]
    row = _row(_Way(name="two", scorer="cyclesep", processes=2), results, None)
    assert row.rate == 1800.0
    assert dict(row.columns) == {"CPU-s": 2.0, "wall s": 4.0, "tracks/h": 1800.0, "MB above the audio": 40.0}


@pytest.mark.parametrize(
    ("ours", "museval", "difference"),
    [([1.0, 99.0], [1.5, 98.0], 0.5), ([np.nan, 1.0], [np.nan, 1.0], 0.0), ([np.nan, 1.0], [2.0, 1.0], np.inf)],
)
def test_the_difference_is_the_largest_up_to_60_db_and_infinite_for_other_nan_frames(
    ours: list[float], museval: list[float], difference: float
) -> None:
    assert _difference(np.array(ours), np.array(museval)) == difference


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
