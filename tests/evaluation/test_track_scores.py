"""Rows per track and target: reading and writing them, and medians over them."""

from dataclasses import replace
from pathlib import Path

import museval
import numpy as np
import pytest

from cyclesep.errors import ScoringError
from cyclesep.evaluation.track_scores import METRICS, TrackRow, TrackScores, summary_rows, track_rows
from cyclesep.metrics import TargetScore, TrackScore, write_museval_json

NAN, INF = float("nan"), float("inf")


def scored(
    track_id: str,
    sdr: list[float],
    *,
    target: str = "vocals",
    group: tuple[str, ...] = ("vocals",),
    split: str = "test",
    usdr: float = 2.0,
) -> TrackScore:
    frames = np.array(sdr)
    score = TargetScore(
        target=target,
        scoring_group=group,
        sdr=frames,
        isr=frames + 1,
        sir=frames + 2,
        sar=frames + 3,
        si_sdr=usdr - 1.0,
        usdr=usdr,
        conditioning="ridge",
    )
    return TrackScore(
        track_id=track_id, split=split, sample_rate=8000, frame_seconds=1.0, hop_seconds=1.0, targets=(score,)
    )


# Medians over frames: 2, 5, -1 (without NaN and infinite frames), none.
SCORES = [
    scored("a", [1.0, NAN, 3.0, 2.0], usdr=3.0),
    scored("b", [5.0, INF, 5.0], usdr=9.0),
    scored("c", [-1.0], usdr=0.0),
    scored("d", [NAN, NAN], usdr=NAN),
]


def table_of(*scores: TrackScore, system: str = "model") -> TrackScores:
    return TrackScores(rows=tuple(row for score in scores for row in track_rows(system, score)))


def test_a_row_has_the_median_over_finite_frames_and_counts_the_others() -> None:
    (row,) = track_rows("model", scored("a", [1.0, 4.0, NAN, 9.0]), checkpoint="abc", seconds=4.0)
    assert dict(row.values) == {"SDR": 4.0, "ISR": 5.0, "SIR": 6.0, "SAR": 7.0, "SI-SDR": 1.0, "uSDR": 2.0}
    assert (row.frames, row.nan_frames, row.conditioning) == (4, 1, "ridge")
    assert (row.checkpoint, row.seconds) == ("abc", 4.0)
    rows = table_of(*SCORES).rows
    assert [row.track_id for row in rows] == ["a", "b", "c", "d"]
    assert [row.values["SDR"] for row in rows[:3]] == [2.0, 5.0, -1.0]
    assert np.isnan(rows[3].values["SDR"])
    assert [(row.frames, row.nan_frames) for row in rows] == [(4, 1), (3, 1), (1, 0), (2, 2)]


def test_an_infinite_value_of_the_whole_track_is_nan() -> None:
    (row,) = track_rows("model", scored("a", [1.0], usdr=INF))
    assert np.isnan([row.values["SI-SDR"], row.values["uSDR"]]).all()


def test_a_target_in_two_scoring_groups_has_two_rows() -> None:
    rows = table_of(scored("a", [1.0]), scored("a", [2.0], group=("vocals", "drums"))).rows
    assert [(row.scoring_group, row.values["SDR"]) for row in rows] == [("vocals", 1.0), ("vocals+drums", 2.0)]


def test_the_summary_is_the_median_over_frames_then_over_tracks_without_nan() -> None:
    (row,) = summary_rows(table_of(*SCORES))
    assert row == {
        "system": "model",
        "split": "test",
        "target": "vocals",
        "scoring_group": "vocals",
        "SDR": 2.0,
        "ISR": 3.0,
        "SIR": 4.0,
        "SAR": 5.0,
        # The mean over tracks for uSDR, the median for all others.
        "SI-SDR": 2.0,
        "uSDR": 4.0,
        "tracks": 3,
        "tracks_excluded": 1,
        "frames": 10,
        "nan_frames": 4,
    }
    every_frame = np.concatenate([score.targets[0].sdr for score in SCORES])
    assert np.median(every_frame[np.isfinite(every_frame)]) != row["SDR"]


def test_the_summary_equals_museval(tmp_path: Path) -> None:
    for score in SCORES:
        write_museval_json(score, tmp_path)
    store = museval.EvalStore()
    store.add_eval_dir(str(tmp_path))
    theirs = store.agg_frames_tracks_scores()["vocals"]
    (row,) = summary_rows(table_of(*SCORES))
    for metric in ("SDR", "ISR", "SIR", "SAR"):
        assert row[metric] == pytest.approx(theirs[metric])


def test_systems_splits_and_targets_are_not_mixed() -> None:
    ours = table_of(
        scored("a", [1.0]), scored("a", [2.0], target="drums"), scored("a", [3.0], split="valid"), system="us"
    )
    table = TrackScores(rows=(*ours.rows, *table_of(scored("a", [4.0]), system="them").rows))
    assert [(row["system"], row["split"], row["target"], row["SDR"]) for row in summary_rows(table)] == [
        ("us", "test", "vocals", 1.0),
        ("them", "test", "vocals", 4.0),
        ("us", "test", "drums", 2.0),
        ("us", "valid", "vocals", 3.0),
    ]
    assert summary_rows(TrackScores(rows=())) == []


def test_failed_tracks_have_rows_but_are_not_summarized() -> None:
    rows = track_rows("model", scored("a", [3.0]))
    failed = TrackRow(system="model", track_id="b", split="test", target="vocals", reason="broken")
    (row,) = summary_rows(TrackScores(rows=(*rows, failed)))
    assert row["tracks"] + row["tracks_excluded"] == 1


def test_a_table_round_trips(tmp_path: Path) -> None:
    rows = track_rows("model", scored("a", [1.0, NAN]), scoring_peak_bytes=12)
    failed = TrackRow(system="model", track_id="b", split="test", target="", reason="broken")
    TrackScores(rows=(*rows, failed)).write(tmp_path / "tracks.parquet")
    assert TrackScores.read(tmp_path / "tracks.parquet").rows == (*rows, failed)


def test_values_that_are_not_finite_are_none_in_plain_rows_and_read_as_nan() -> None:
    (row,) = track_rows("model", scored("a", [NAN]))
    plain = replace(row, values={**row.values, "SI-SDR": float("inf")}).to_plain()
    assert [plain[metric] for metric in METRICS] == [None, None, None, None, None, 2.0]
    assert np.isnan(TrackRow.from_plain(plain).values["SDR"])


def test_reading_another_file_raises_scoring_error(tmp_path: Path) -> None:
    (tmp_path / "tracks.parquet").write_bytes(b"not parquet")
    with pytest.raises(ScoringError, match=r"tracks\.parquet: is not a table of track scores"):
        TrackScores.read(tmp_path / "tracks.parquet")
