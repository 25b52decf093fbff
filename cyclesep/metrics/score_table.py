"""Scores of tracks and systems as one table with a row per value, stored as parquet."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet

from cyclesep.errors import ScoringError
from cyclesep.metrics.track_score import TargetScore, TrackScore
from cyclesep.storage.atomic_io import replacing

SCHEMA = pa.schema(
    [
        pa.field("system", pa.string(), nullable=False),
        pa.field("track_id", pa.string(), nullable=False),
        pa.field("split", pa.string(), nullable=False),
        pa.field("target", pa.string(), nullable=False),
        # Names joined by "+": the other signals change a target's SIR and SAR, and their silent frames are NaN for all.
        pa.field("scoring_group", pa.string(), nullable=False),
        pa.field("conditioning", pa.string(), nullable=False),
        # Null for a metric of the whole track, like the time (of the first sample of the frame, in seconds).
        pa.field("frame", pa.int32()),
        pa.field("time", pa.float64()),
        pa.field("metric", pa.string(), nullable=False),
        pa.field("value", pa.float64(), nullable=False),
    ]
)


@dataclass(frozen=True, kw_only=True)
class ScoreTable:
    """Rows (system, track_id, split, target, scoring_group, conditioning, frame, time, metric, value)."""

    table: pa.Table

    @classmethod
    def from_scores(cls, system: str, scores: Iterable[TrackScore]) -> "ScoreTable":
        """Return a table with one row per target, frame and metric, and one per target and whole-track metric."""
        batches = [_rows(system, score, target) for score in scores for target in score.targets]
        return cls(table=pa.concat_tables([SCHEMA.empty_table(), *batches]))

    @classmethod
    def concatenate(cls, tables: Iterable["ScoreTable"]) -> "ScoreTable":
        """Return the rows of all tables, in order."""
        return cls(table=pa.concat_tables([SCHEMA.empty_table(), *(table.table for table in tables)]))

    @classmethod
    def read(cls, path: Path) -> "ScoreTable":
        """Read the file that `write` wrote; raises ScoringError if it is missing, damaged or another table."""
        try:
            return cls(table=pyarrow.parquet.read_table(path).select(SCHEMA.names).cast(SCHEMA))
        except (OSError, KeyError, ValueError) as problem:
            raise ScoringError(f"{path}: is not a table of scores ({problem}); run the evaluation again") from problem

    def write(self, path: Path) -> None:
        """Write a parquet file atomically."""
        with replacing(Path(path)) as partial:
            pyarrow.parquet.write_table(self.table, partial, compression="zstd")


def _rows(system: str, score: TrackScore, target: TargetScore) -> pa.Table:
    names = (system, score.track_id, score.split, target.target, "+".join(target.scoring_group), target.conditioning)
    frame_metrics, track_metrics = target.frame_metrics(), target.track_metrics()
    frames = [*range(len(target.sdr))] * len(frame_metrics) + [None] * len(track_metrics)
    metrics = [metric for metric, values in frame_metrics.items() for _ in values] + list(track_metrics)
    columns: list[Any] = [[name] * len(frames) for name in names]
    columns += [frames, [None if frame is None else frame * score.hop_seconds for frame in frames], metrics]
    columns.append(np.concatenate([*frame_metrics.values(), list(track_metrics.values())]))
    return pa.table(columns, schema=SCHEMA)
