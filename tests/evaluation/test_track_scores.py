"""Rows per track and target: reading and writing them, and medians over them."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cyclesep.errors import ScoringError
from cyclesep.evaluation.track_scores import METRICS, TrackRow, TrackScores, rows_from_scores
from cyclesep.metrics import ScoreTable, TargetScore, TrackScore

NAN = float("nan")


def scored(track_id: str, sdr: list[float], *, group: tuple[str, ...] = ("vocals",)) -> TrackScore:
    frames = np.array(sdr)
    target = TargetScore(
        target="vocals",
        scoring_group=group,
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


def test_a_row_has_the_median_over_finite_frames_and_counts_the_others() -> None:
    table = ScoreTable.from_scores("model", [scored("a", [1.0, 4.0, NAN, 9.0])])
    (row,) = rows_from_scores(table, checkpoint="abc", seconds=4.0)
    assert dict(row.values) == {"SDR": 4.0, "ISR": 5.0, "SIR": 6.0, "SAR": 7.0, "SI-SDR": 1.0, "uSDR": 2.0}
    assert (row.frames, row.nan_frames, row.conditioning) == (4, 1, "ridge")
    assert (row.checkpoint, row.seconds) == ("abc", 4.0)


def test_a_target_in_two_scoring_groups_has_two_rows() -> None:
    scores = [scored("a", [1.0]), scored("a", [2.0], group=("vocals", "drums"))]
    rows = rows_from_scores(ScoreTable.from_scores("model", scores))
    assert [(row.scoring_group, row.values["SDR"]) for row in rows] == [("vocals", 1.0), ("vocals+drums", 2.0)]


def test_the_summaries_of_tracks_and_of_frames_are_equal() -> None:
    frames = [scored("a", [1.0, 2.0, NAN]), scored("b", [NAN]), scored("c", [7.0, 8.0]), scored("d", [-3.0])]
    table = ScoreTable.from_scores("model", frames)
    assert TrackScores(rows=rows_from_scores(table)).summary() == table.summary()


def test_failed_tracks_have_rows_but_are_not_summarized() -> None:
    rows = rows_from_scores(ScoreTable.from_scores("model", [scored("a", [3.0])]))
    failed = TrackRow(system="model", track_id="b", split="test", target="vocals", reason="broken")
    table = TrackScores(rows=(*rows, failed))
    assert {summary.tracks + summary.tracks_excluded for summary in table.summary()} == {1}


def test_a_table_round_trips(tmp_path: Path) -> None:
    rows = rows_from_scores(ScoreTable.from_scores("model", [scored("a", [1.0, NAN])]), scoring_peak_bytes=12)
    failed = TrackRow(system="model", track_id="b", split="test", target="", reason="broken")
    TrackScores(rows=(*rows, failed)).write(tmp_path / "tracks.parquet")
    assert TrackScores.read(tmp_path / "tracks.parquet").rows == (*rows, failed)


def test_values_that_are_not_finite_are_none_in_plain_rows_and_read_as_nan() -> None:
    (row,) = rows_from_scores(ScoreTable.from_scores("model", [scored("a", [NAN])]))
    plain = replace(row, values={**row.values, "SI-SDR": float("inf")}).to_plain()
    assert [plain[metric] for metric in METRICS] == [None, None, None, None, None, 2.0]
    assert np.isnan(TrackRow.from_plain(plain).values["SDR"])


def test_reading_another_file_raises_scoring_error(tmp_path: Path) -> None:
    (tmp_path / "tracks.parquet").write_bytes(b"not parquet")
    with pytest.raises(ScoringError, match=r"tracks\.parquet: is not a table of track scores"):
        TrackScores.read(tmp_path / "tracks.parquet")
