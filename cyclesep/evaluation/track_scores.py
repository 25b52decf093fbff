"""Results per track: a row for each system, track and target. All tables and comparisons are made from these rows."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
from numpy.typing import NDArray

from cyclesep.errors import ScoringError
from cyclesep.evaluation.config import Average
from cyclesep.metrics import FRAME_METRICS, TRACK_METRICS, TrackScore
from cyclesep.storage.atomic_io import replacing

METRICS = (*FRAME_METRICS, *TRACK_METRICS)
# uSDR is reported as a mean over tracks, everything else as a median.
AVERAGES: Mapping[str, Average] = {metric: "mean" if metric == "uSDR" else "median" for metric in METRICS}


@dataclass(frozen=True, kw_only=True, slots=True)
class TrackRow:
    """Scores of one target of one track under one system, or the reason why there are none."""

    system: str
    checkpoint: str = ""
    """SHA-256 of the weights; empty for a system without weights."""
    track_id: str
    split: str
    target: str
    """Empty for a track that failed before its targets were known."""
    scoring_group: str = ""
    """All targets that were scored together, joined by "+"."""
    conditioning: str = ""
    values: Mapping[str, float] = field(default_factory=dict)
    """By metric, dB: the median over finite frames, or the value of the whole track; NaN if no frame is finite."""
    frames: int = 0
    nan_frames: int = 0
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


_COLUMN_TYPES: dict[Any, pa.DataType] = {str: pa.string(), int: pa.int64(), float: pa.float64()}


def _columns() -> Iterator[tuple[str, pa.DataType]]:
    """Yield names and types of the table's columns: the fields of a row, with one column per metric as `values`."""
    for each in fields(TrackRow):
        for name in METRICS if each.name == "values" else (each.name,):
            yield name, _COLUMN_TYPES[float if name in METRICS else each.type]


_SCHEMA = pa.schema(list(_columns()))


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


def track_rows(system: str, score: TrackScore, **columns: Any) -> tuple[TrackRow, ...]:
    """Return a row per target of a scored track; `columns` are those that the score lacks (checkpoint, times)."""
    return tuple(
        TrackRow(
            system=system,
            track_id=score.track_id,
            split=score.split,
            target=target.target,
            scoring_group="+".join(target.scoring_group),
            conditioning=target.conditioning,
            values={name: average(values) for name, values in target.frame_metrics().items()}
            | {name: value if np.isfinite(value) else math.nan for name, value in target.track_metrics().items()},
            frames=len(target.sdr),
            nan_frames=int((~np.isfinite(target.sdr)).sum()),
            **columns,
        )
        for target in score.targets
    )


def summary_rows(table: TrackScores, averages: Mapping[str, Average] = AVERAGES) -> list[dict[str, Any]]:
    """Return plain rows, one per split, scoring group, target and system: metrics in dB, numbers of tracks and frames.

    Rows of one target are adjacent, systems in the order of the table. `averages` are the metrics and how each is
    averaged over tracks. Scoring groups are not mixed: vocals scored with three stems and vocals scored with the
    accompaniment are not comparable. A track without a finite value is excluded; a metric without any is None.
    """
    groups: dict[tuple[str, str, str, str], list[TrackRow]] = {}
    for row in table.scored:
        groups.setdefault((*row.comparison_key, row.system), []).append(row)
    counted = next((metric for metric in METRICS if any(metric in row.values for row in table.scored)), "SDR")
    order = [list(dict.fromkeys(values)) for values in zip(*groups, strict=True)]
    ordered = sorted(groups, key=lambda key: [names.index(name) for names, name in zip(order, key, strict=True)])
    return [_summary_row(groups[key], averages, counted) for key in ordered]


def average(values: NDArray[np.float64], kind: Average = "median") -> float:
    """Return the median or mean of the finite values; NaN if there are none."""
    finite = values[np.isfinite(values)]
    if not len(finite):
        return math.nan
    return float(np.median(finite) if kind == "median" else finite.mean())


def _summary_row(rows: Sequence[TrackRow], averages: Mapping[str, Average], counted: str) -> dict[str, Any]:
    """Return the plain row of one target of one system; tracks are counted by their values of the metric `counted`."""
    first = rows[0]
    values = {metric: np.array([row.values.get(metric, math.nan) for row in rows]) for metric in METRICS}
    scores = {metric: average(values[metric], kind) for metric, kind in averages.items()}
    num_tracks = int(np.isfinite(values[counted]).sum())
    return {
        "system": first.system,
        "split": first.split,
        "target": first.target,
        "scoring_group": first.scoring_group,
        **{metric: round(score, 6) if math.isfinite(score) else None for metric, score in scores.items()},
        "tracks": num_tracks,
        "tracks_excluded": len(rows) - num_tracks,
        "frames": sum(row.frames for row in rows),
        "nan_frames": sum(row.nan_frames for row in rows),
    }
