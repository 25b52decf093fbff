"""Results per track: a row for each system, track and target. All tables and comparisons are made from these rows."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet

from cyclesep.errors import ScoringError
from cyclesep.evaluation.config import Average
from cyclesep.metrics import FRAME_METRICS, TRACK_METRICS, ScoreTable, Summary, TrackValue
from cyclesep.metrics.score_table import summarize
from cyclesep.storage.atomic_io import replacing

METRICS = (*FRAME_METRICS, *TRACK_METRICS)
# uSDR is reported as a mean over tracks, everything else as a median.
AVERAGES: Mapping[str, Average] = {metric: "mean" if metric == "uSDR" else "median" for metric in METRICS}

_SCHEMA = pa.schema(
    [
        ("system", pa.string()),
        ("checkpoint", pa.string()),
        ("track_id", pa.string()),
        ("split", pa.string()),
        # Empty for a track that failed before its targets were known.
        ("target", pa.string()),
        ("scoring_group", pa.string()),
        ("conditioning", pa.string()),
        # dB; null where no frame is finite.
        *((metric, pa.float64()) for metric in METRICS),
        ("frames", pa.int64()),
        ("nan_frames", pa.int64()),
        ("reason", pa.string()),
        ("references", pa.string()),
        ("seconds", pa.float64()),
        ("separation_seconds", pa.float64()),
        ("scoring_seconds", pa.float64()),
        ("separation_cpu_seconds", pa.float64()),
        ("scoring_cpu_seconds", pa.float64()),
        ("separation_peak_bytes", pa.int64()),
        ("scoring_peak_bytes", pa.int64()),
    ]
)


@dataclass(frozen=True, kw_only=True, slots=True)
class TrackRow:
    """Scores of one target of one track under one system, or the reason why there are none."""

    system: str
    track_id: str
    split: str
    target: str
    scoring_group: str = ""
    """All targets that were scored together, joined by "+"."""
    conditioning: str = ""
    values: Mapping[str, float] = field(default_factory=dict)
    """By metric, dB: the median over finite frames, or the value of the whole track; NaN if no frame is finite."""
    frames: int = 0
    nan_frames: int = 0
    checkpoint: str = ""
    """SHA-256 of the weights; empty for a system without weights."""
    reason: str = ""
    """Why there are no scores; empty if there are."""
    references: str = ""
    """SHA-256 of the references as they were scored."""
    seconds: float = 0.0
    """Duration of the audio."""
    separation_seconds: float = 0.0
    """Wall-clock seconds of the separation."""
    scoring_seconds: float = 0.0
    """Wall-clock seconds of everything else: reading, ideal masks, scoring."""
    separation_cpu_seconds: float = 0.0
    """CPU seconds, summed over all threads of the process."""
    scoring_cpu_seconds: float = 0.0
    separation_peak_bytes: int = 0
    """Largest resident memory of the process while it separated."""
    scoring_peak_bytes: int = 0
    """Largest resident memory of the process while it scored."""

    @property
    def comparison_key(self) -> tuple[str, str, str]:
        """Split, scoring group and target: rows with equal keys can be compared."""
        return self.split, self.scoring_group, self.target

    def to_plain(self) -> dict[str, Any]:
        """Return plain values by column; None for a metric without a finite value."""
        values = {name: value if np.isfinite(value) else None for name, value in self.values.items()}
        return {name: values.get(name) if name in METRICS else getattr(self, name) for name in _SCHEMA.names}

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> "TrackRow":
        """Return the row of `to_plain`; raises KeyError or TypeError for anything else."""
        others = {name: value for name, value in plain.items() if name not in METRICS}
        scores = {name: math.nan if plain[name] is None else plain[name] for name in METRICS}
        return cls(**others, values={} if plain["reason"] else scores)


@dataclass(frozen=True, kw_only=True)
class TrackResult:
    """Result of one track under one system: a row per target. Times and memory are the same in every row."""

    rows: tuple[TrackRow, ...]

    @property
    def system(self) -> str:
        return self.rows[0].system

    @property
    def track_id(self) -> str:
        return self.rows[0].track_id

    @property
    def reason(self) -> str:
        """Why the track could not be scored; empty if it was."""
        return self.rows[0].reason

    @property
    def seconds(self) -> float:
        """Duration of the audio."""
        return self.rows[0].seconds

    @property
    def failed(self) -> bool:
        return bool(self.reason)

    def __str__(self) -> str:
        status = self.reason.removeprefix(f"{self.track_id}: ") or "scored"
        return f"{self.system}: {self.track_id}: {status}"


@dataclass(frozen=True, kw_only=True)
class TrackScores:
    """Table of all rows, in the order of systems and tracks."""

    rows: tuple[TrackRow, ...]

    @classmethod
    def of(cls, results: Iterable[TrackResult]) -> "TrackScores":
        """Return the table of all rows of `results`."""
        return cls(rows=tuple(row for result in results for row in result.rows))

    @classmethod
    def read(cls, path: Path) -> "TrackScores":
        """Read the file that `write` wrote; raises ScoringError if it is missing, damaged or another table."""
        try:
            plain = pyarrow.parquet.read_table(path).select(_SCHEMA.names).cast(_SCHEMA).to_pylist()
        except (OSError, KeyError, ValueError) as problem:
            raise ScoringError(f"{path}: is not a table of track scores ({problem}); evaluate again") from problem
        return cls(rows=tuple(TrackRow.from_plain(values) for values in plain))

    def write(self, path: Path) -> None:
        """Write a parquet file atomically."""
        plain = [row.to_plain() for row in self.rows]
        with replacing(Path(path)) as partial:
            pyarrow.parquet.write_table(pa.Table.from_pylist(plain, schema=_SCHEMA), partial, compression="zstd")

    @property
    def scored(self) -> tuple[TrackRow, ...]:
        """The rows with scores."""
        return tuple(row for row in self.rows if not row.reason)

    def summary(self) -> tuple[Summary, ...]:
        """Return the summary of all scored tracks; a track without a metric that others have counts as NaN."""
        rows = self.scored
        metrics = [metric for metric in METRICS if any(metric in row.values for row in rows)]
        return summarize(_track_value(row, metric) for row in rows for metric in metrics)


class SummarizedScores(Protocol):
    """A table of scores: per frame (`ScoreTable`) or per track (`TrackScores`)."""

    def summary(self) -> tuple[Summary, ...]: ...


def rows_from_scores(scores: ScoreTable, **columns: Any) -> tuple[TrackRow, ...]:
    """Return the rows of a table of frames; `columns` are those that it lacks (checkpoint, times)."""
    # A target can be in two scoring groups.
    values: dict[tuple[str, str, str, str, str], list[TrackValue]] = {}
    for value in scores.track_values():
        key = (value.system, value.split, value.track_id, value.target, value.scoring_group)
        values.setdefault(key, []).append(value)
    conditioning = _conditioning(scores)
    rows = []
    for (system, split, track_id, target, scoring_group), metrics in values.items():
        frame_metric = max(metrics, key=lambda value: value.frames)
        row = TrackRow(
            system=system,
            track_id=track_id,
            split=split,
            target=target,
            scoring_group=scoring_group,
            conditioning=conditioning[system, track_id, target, scoring_group],
            values={value.metric: value.value for value in metrics},
            frames=frame_metric.frames,
            nan_frames=frame_metric.nan_frames,
            **columns,
        )
        rows.append(row)
    return tuple(rows)


def summary_rows(table: SummarizedScores, averages: Mapping[str, Average] = AVERAGES) -> list[dict[str, Any]]:
    """Return plain rows, one per split, scoring group, target and system: metrics in dB, numbers of tracks and frames.

    Rows of one target are adjacent, systems in the order of the table. `averages` are the metrics and how each is
    averaged over tracks. A metric without a finite value is None.
    """
    summaries: dict[tuple[str, str, str, str], dict[str, Summary]] = {}
    for summary in table.summary():
        key = (summary.split, summary.scoring_group, summary.target, summary.system)
        summaries.setdefault(key, {})[summary.metric] = summary
    order = [list(dict.fromkeys(values)) for values in zip(*summaries, strict=True)]
    ordered = sorted(summaries, key=lambda key: [names.index(name) for names, name in zip(order, key, strict=True)])
    return [_summary_row(summaries[key], averages) for key in ordered]


def _track_value(row: TrackRow, metric: str) -> TrackValue:
    is_frame_metric = metric in FRAME_METRICS
    return TrackValue(
        system=row.system,
        split=row.split,
        target=row.target,
        scoring_group=row.scoring_group,
        metric=metric,
        track_id=row.track_id,
        value=row.values.get(metric, math.nan),
        frames=row.frames if is_frame_metric else 0,
        nan_frames=row.nan_frames if is_frame_metric else 0,
    )


def _conditioning(scores: ScoreTable) -> dict[tuple[str, str, str, str], str]:
    names = ["system", "track_id", "target", "scoring_group"]
    distinct = scores.table.group_by([*names, "conditioning"], use_threads=False).aggregate([]).to_pylist()
    return {tuple(row[name] for name in names): row["conditioning"] for row in distinct}


def _summary_row(summaries: Mapping[str, Summary], averages: Mapping[str, Average]) -> dict[str, Any]:
    """Return the plain row of one target of one system from its summaries by metric."""
    first = summaries.get("SDR") or next(iter(summaries.values()))
    values = {metric: getattr(summaries[metric], kind) for metric, kind in averages.items() if metric in summaries}
    return {
        "system": first.system,
        "split": first.split,
        "target": first.target,
        "scoring_group": first.scoring_group,
        **{metric: _finite(values.get(metric, math.nan)) for metric in averages},
        "tracks": first.tracks,
        "tracks_excluded": first.tracks_excluded,
        "frames": first.frames,
        "nan_frames": first.nan_frames,
    }


def _finite(value: float) -> float | None:
    return round(value, 6) if math.isfinite(value) else None
