"""Aggregation compared with a table made by hand, and files on disk."""

import json
from pathlib import Path

import museval
import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

from cyclesep.errors import ScoringError
from cyclesep.metrics import ScoreTable, Summary, TargetScore, TrackScore, write_museval_json

NAN, INF = float("nan"), float("inf")


def track_score(
    track_id: str, sdr: list[float], *, usdr: float = 1.0, target: str = "bass", split: str = "test"
) -> TrackScore:
    values = np.array(sdr)
    score = TargetScore(
        target=target,
        scoring_group=("bass", "drums"),
        sdr=values,
        isr=values + 10,
        sir=values + 20,
        sar=values + 30,
        si_sdr=usdr - 1,
        usdr=usdr,
        conditioning="exact",
    )
    return TrackScore(
        track_id=track_id, split=split, sample_rate=8000, frame_seconds=1.0, hop_seconds=0.5, targets=(score,)
    )


# Medians over frames: 2, 5, -1 (NaN and infinite frames left out), none.
SCORES = [
    track_score("a", [1.0, NAN, 3.0, 2.0], usdr=3.0),
    track_score("b", [5.0, INF, 5.0], usdr=9.0),
    track_score("c", [-1.0], usdr=0.0),
    track_score("d", [NAN, NAN], usdr=NAN),
]


def summary_of(table: ScoreTable, metric: str) -> Summary:
    (found,) = [summary for summary in table.summary() if summary.metric == metric]
    return found


def test_summary_is_the_median_over_frames_then_over_tracks_without_nan() -> None:
    summary = summary_of(ScoreTable.from_scores("us", SCORES), "SDR")
    assert summary == Summary(
        system="us",
        split="test",
        target="bass",
        scoring_group="bass+drums",
        metric="SDR",
        median=2.0,
        mean=2.0,
        tracks=3,
        tracks_excluded=1,
        frames=10,
        nan_frames=4,
    )
    assert summary_of(ScoreTable.from_scores("us", SCORES), "SAR").median == 32.0


def test_usdr_has_its_mean_over_tracks() -> None:
    summary = summary_of(ScoreTable.from_scores("us", SCORES), "uSDR")
    assert (summary.mean, summary.median, summary.tracks, summary.frames) == (4.0, 3.0, 3, 0)
    assert summary_of(ScoreTable.from_scores("us", SCORES), "SI-SDR").median == 2.0


def test_the_median_of_all_frames_at_once_would_be_another_number() -> None:
    table = ScoreTable.from_scores("us", SCORES)
    values = table.table.filter(pa.compute.equal(table.table["metric"], "SDR"))["value"].to_numpy()
    assert np.median(values[np.isfinite(values)]) != summary_of(table, "SDR").median


def test_aggregation_equals_museval(tmp_path: Path) -> None:
    for score in SCORES:
        write_museval_json(score, tmp_path)
    store = museval.EvalStore()
    store.add_eval_dir(str(tmp_path))
    theirs = store.agg_frames_tracks_scores()["bass"]
    ours = ScoreTable.from_scores("us", SCORES)
    read = ScoreTable.from_museval("us", tmp_path)
    for metric in ("SDR", "ISR", "SIR", "SAR"):
        assert summary_of(ours, metric).median == pytest.approx(theirs[metric])
        assert summary_of(read, metric).median == pytest.approx(theirs[metric])


def test_rows_have_frame_and_time_which_are_null_for_whole_tracks() -> None:
    rows = ScoreTable.from_scores("us", SCORES[:1]).table.to_pylist()
    assert len(rows) == 4 * 4 + 2
    assert [(row["frame"], row["time"]) for row in rows if row["metric"] == "SIR"] == [
        (0, 0.0),
        (1, 0.5),
        (2, 1.0),
        (3, 1.5),
    ]
    assert [(row["frame"], row["time"], row["value"]) for row in rows if row["metric"] == "uSDR"] == [(None, None, 3.0)]
    assert {(row["system"], row["track_id"], row["scoring_group"], row["conditioning"]) for row in rows} == {
        ("us", "a", "bass+drums", "exact")
    }


def test_systems_splits_and_targets_are_not_mixed() -> None:
    table = ScoreTable.concatenate(
        [
            ScoreTable.from_scores("us", [track_score("a", [1.0]), track_score("a", [2.0], target="drums")]),
            ScoreTable.from_scores("us", [track_score("a", [3.0], split="valid")]),
            ScoreTable.from_scores("them", [track_score("a", [4.0])]),
        ]
    )
    found = [(s.system, s.split, s.target, s.median) for s in table.summary() if s.metric == "SDR"]
    assert found == [
        ("us", "test", "bass", 1.0),
        ("us", "test", "drums", 2.0),
        ("us", "valid", "bass", 3.0),
        ("them", "test", "bass", 4.0),
    ]


def test_track_values_are_one_per_track_in_order() -> None:
    values = [v for v in ScoreTable.from_scores("us", SCORES).track_values() if v.metric == "SDR"]
    assert [v.track_id for v in values] == ["a", "b", "c", "d"]
    assert [v.value for v in values[:3]] == [2.0, 5.0, -1.0]
    assert np.isnan(values[3].value)
    assert [(v.frames, v.nan_frames) for v in values] == [(4, 1), (3, 1), (1, 0), (2, 2)]


def test_parquet_round_trip_keeps_every_row_and_nan(tmp_path: Path) -> None:
    table = ScoreTable.from_scores("us", SCORES)
    table.write(tmp_path / "scores.parquet")
    read = ScoreTable.read(tmp_path / "scores.parquet")
    # By their text: NaN is unlike itself.
    assert repr(read.table.to_pylist()) == repr(table.table.to_pylist())
    assert [path.name for path in tmp_path.iterdir()] == ["scores.parquet"]


def test_an_empty_table_has_no_summary_and_round_trips(tmp_path: Path) -> None:
    ScoreTable.from_scores("us", []).write(tmp_path / "scores.parquet")
    assert ScoreTable.read(tmp_path / "scores.parquet").summary() == ()


def test_reading_an_invalid_table_raises_scoring_error(tmp_path: Path) -> None:
    damaged, other = tmp_path / "damaged.parquet", tmp_path / "other.parquet"
    damaged.write_bytes(b"PAR1")
    pyarrow.parquet.write_table(pa.table({"a": [1]}), other)
    for path in (damaged, other, tmp_path / "missing.parquet"):
        with pytest.raises(ScoringError, match="is not a table of scores"):
            ScoreTable.read(path)


def test_a_folder_without_museval_json_raises_scoring_error(tmp_path: Path) -> None:
    with pytest.raises(ScoringError, match="no <split>/<track>.json found"):
        ScoreTable.from_museval("us", tmp_path)
    (tmp_path / "test").mkdir()
    (tmp_path / "test" / "x.json").write_text(json.dumps({"targets": [{"name": "bass"}]}))
    with pytest.raises(ScoringError, match=r"x\.json: is not museval's JSON"):
        ScoreTable.from_museval("us", tmp_path)
