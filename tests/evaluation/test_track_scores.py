"""Rows by track and target: what is kept of them in a file, and medians over them."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cyclesep.errors import ScoringError
from cyclesep.evaluation.track_scores import METRICS, TrackRow, TrackScores, from_plain, rows_of, to_plain
from cyclesep.metrics import ScoreTable, TargetScore, TrackScore

NAN = float("nan")


def scored(track_id: str, sdr: list[float], *, company: tuple[str, ...] = ("vocals",)) -> TrackScore:
    frames = np.array(sdr)
    target = TargetScore(
        target="vocals",
        scoring_group=company,
        sdr=frames,
        isr=frames + 1,
        sir=frames + 2,
        sar=frames + 3,
        si_sdr=1.0,
        usdr=2.0,
        conditioning="ridge",
    )
    return TrackScore(
        track_id=track_id, split="test", sample_rate=8000, frame_seconds=1.0, hop_seconds=1.0, targets=(target,)
    )


def test_a_row_holds_the_median_over_finite_frames_and_counts_the_others() -> None:
    table = ScoreTable.from_scores("model", [scored("a", [1.0, 4.0, NAN, 9.0])])
    (row,) = rows_of(table, checkpoint="abc", seconds=4.0)
    assert dict(row.values) == {"SDR": 4.0, "ISR": 5.0, "SIR": 6.0, "SAR": 7.0, "SI-SDR": 1.0, "uSDR": 2.0}
    assert (row.frames, row.nan_frames, row.conditioning) == (4, 1, "ridge")
    assert (row.checkpoint, row.seconds) == ("abc", 4.0)


def test_a_target_in_two_companies_is_two_rows() -> None:
    together = [scored("a", [1.0]), scored("a", [2.0], company=("vocals", "drums"))]
    rows = rows_of(ScoreTable.from_scores("model", together))
    assert [(row.scoring_group, row.values["SDR"]) for row in rows] == [("vocals", 1.0), ("vocals+drums", 2.0)]


def test_the_summary_is_that_of_the_table_of_frames() -> None:
    frames = [scored("a", [1.0, 2.0, NAN]), scored("b", [NAN]), scored("c", [7.0, 8.0]), scored("d", [-3.0])]
    table = ScoreTable.from_scores("model", frames)
    assert TrackScores(rows=rows_of(table)).summary() == table.summary()


def test_tracks_that_failed_are_rows_and_no_part_of_a_median() -> None:
    rows = rows_of(ScoreTable.from_scores("model", [scored("a", [3.0])]))
    failed = TrackRow(system="model", track_id="b", split="test", target="vocals", reason="torn")
    table = TrackScores(rows=(*rows, failed))
    assert {summary.tracks + summary.tracks_excluded for summary in table.summary()} == {1}


def test_a_table_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    rows = rows_of(ScoreTable.from_scores("model", [scored("a", [1.0, NAN])]), scoring_peak_bytes=12)
    failed = TrackRow(system="model", track_id="b", split="test", target="", reason="torn")
    TrackScores(rows=(*rows, failed)).write(tmp_path / "tracks.parquet")
    assert TrackScores.read(tmp_path / "tracks.parquet").rows == (*rows, failed)


def test_what_is_not_finite_is_none_in_plain_values_and_nan_again_afterwards() -> None:
    (row,) = rows_of(ScoreTable.from_scores("model", [scored("a", [NAN])]))
    plain = to_plain(replace(row, values={**row.values, "SI-SDR": float("inf")}))
    assert [plain[metric] for metric in METRICS] == [None, None, None, None, None, 2.0]
    assert np.isnan(from_plain(plain).values["SDR"])


def test_another_file_is_told(tmp_path: Path) -> None:
    (tmp_path / "tracks.parquet").write_bytes(b"nothing of the kind")
    with pytest.raises(ScoringError, match=r"tracks\.parquet: is no table of tracks"):
        TrackScores.read(tmp_path / "tracks.parquet")
