"""The scoring benchmark on a few seconds of a song."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks.scoring import ScoringBenchmark, _difference, _Method, _methods, _row, run
from benchmarks.scoring_audio import ScoredAudio
from cyclesep.errors import ScoringError


def test_a_small_run_measures_every_method_without_difference_from_museval() -> None:
    alone, pair = run(ScoringBenchmark(seconds=2.0, stems=2, sample_rate=4000, rounds=1))
    assert alone.baseline == pair.baseline == "museval, one thread"
    assert {row.method for row in pair.rows} >= {"museval, one thread", "cyclesep, one thread"}
    assert any(row.method.endswith("processes") and row.method.startswith("museval") for row in alone.rows)
    for row in (*alone.rows, *pair.rows):
        assert row.rate == pytest.approx(3600 / float(row.columns["CPU-s"]))
        assert float(row.columns["MB above the audio"]) > 0
        assert float(row.columns["dB off"]) < 1e-5 or row.method == "museval, 2 threads"


def test_museval_can_be_disabled() -> None:
    names = [method.name for method in _methods(ScoringBenchmark(museval=False), pair=True)]
    assert names[0] == "cyclesep, one thread"
    assert not any("museval" in name for name in names)
    assert sum("museval" in method.name for method in _methods(ScoringBenchmark(), pair=False)) == 3


def test_rates_use_cpu_time_and_need_no_museval() -> None:
    results = [{"cpu_seconds": 2.0, "wall_seconds": wall, "peak_mb": 10.0 * wall, "scores": []} for wall in (3.0, 4.0)]
    row = _row(_Method(name="two", scorer="cyclesep", processes=2), results, None)
    assert row.rate == 1800.0
    assert dict(row.columns) == {"CPU-s": 2.0, "wall s": 4.0, "tracks/h": 1800.0, "MB above the audio": 40.0}


@pytest.mark.parametrize(
    ("ours", "museval", "difference"),
    [([1.0, 99.0], [1.5, 98.0], 0.5), ([np.nan, 1.0], [np.nan, 1.0], 0.0), ([np.nan, 1.0], [2.0, 1.0], np.inf)],
)
def test_difference_is_the_largest_up_to_60_db_and_infinite_if_nan_frames_differ(
    ours: list[float], museval: list[float], difference: float
) -> None:
    assert _difference(np.array(ours), np.array(museval)) == difference


def test_the_error_of_a_failed_method_has_its_name_and_a_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ScoredAudio, "save", lambda *_: None)
    with pytest.raises(ScoringError, match=r"cyclesep, one thread: exit status 1 \(FileNotFound.*seconds=60"):
        run(ScoringBenchmark(seconds=2.0, stems=2, sample_rate=2000, rounds=1, museval=False))


def test_audio_is_saved_and_loaded_as_16_bit(tmp_path: Path) -> None:
    audio = ScoredAudio.compose(seconds=2.0, stems=3, sample_rate=4000)
    audio.save(tmp_path)
    read = ScoredAudio.load(tmp_path)
    assert read.references.shape == (3, 2, 8000)
    assert read.seconds == 2.0
    np.testing.assert_array_equal(read.estimates, audio.estimates)
    references, _ = read.for_museval()
    waves, _ = read.waveforms()
    np.testing.assert_array_equal(references[0].T, waves["vocals"].samples)
