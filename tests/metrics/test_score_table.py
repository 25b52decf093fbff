"""The table of frames: its rows, and files on disk."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

from cyclesep.errors import ScoringError
from cyclesep.metrics import ScoreTable, TargetScore, TrackScore

NAN, INF = float("nan"), float("inf")


def track_score(track_id: str, sdr: list[float], *, usdr: float) -> TrackScore:
    values = np.array(sdr)
    score = TargetScore(
        target="bass",
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
        track_id=track_id, split="test", sample_rate=8000, frame_seconds=1.0, hop_seconds=0.5, targets=(score,)
    )


SCORES = [track_score("a", [1.0, NAN, 3.0, 2.0], usdr=3.0), track_score("b", [5.0, INF, 5.0], usdr=NAN)]


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


def test_parquet_round_trip_keeps_every_row_and_nan(tmp_path: Path) -> None:
    table = ScoreTable.from_scores("us", SCORES)
    table.write(tmp_path / "scores.parquet")
    read = ScoreTable.read(tmp_path / "scores.parquet")
    # By their text: NaN is unlike itself.
    assert repr(read.table.to_pylist()) == repr(table.table.to_pylist())
    assert [path.name for path in tmp_path.iterdir()] == ["scores.parquet"]


def test_an_empty_table_round_trips(tmp_path: Path) -> None:
    ScoreTable.from_scores("us", []).write(tmp_path / "scores.parquet")
    assert ScoreTable.read(tmp_path / "scores.parquet").table.num_rows == 0


def test_reading_an_invalid_table_raises_scoring_error(tmp_path: Path) -> None:
    damaged, other = tmp_path / "damaged.parquet", tmp_path / "other.parquet"
    damaged.write_bytes(b"PAR1")
    pyarrow.parquet.write_table(pa.table({"a": [1]}), other)
    for path in (damaged, other, tmp_path / "missing.parquet"):
        with pytest.raises(ScoringError, match="is not a table of scores"):
            ScoreTable.read(path)
