"""Results by track: a row for each system, track and target, from which every table and comparison is made."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet

from cyclesep.errors import ScoringError
from cyclesep.metrics import ScoreTable, Summary
from cyclesep.storage.atomic_io import replacing

FRAME_METRICS = ("SDR", "ISR", "SIR", "SAR")
METRICS = (*FRAME_METRICS, "SI-SDR", "uSDR")
# Files of an evaluation.
TRACKS, SUMMARY = "tracks.parquet", "summary.json"

_SCHEMA = pa.schema(
    [
        ("system", pa.string()),
        # SHA-256 of the weights; empty for what is no separator.
        ("checkpoint", pa.string()),
        ("track_id", pa.string()),
        ("split", pa.string()),
        # Empty for a track that failed before its targets were known.
        ("target", pa.string()),
        ("scoring_group", pa.string()),
        ("conditioning", pa.string()),
        # dB: the median over frames, or the value of the whole track; null where nothing is finite.
        *((metric, pa.float64()) for metric in METRICS),
        ("frames", pa.int64()),
        ("nan_frames", pa.int64()),
        # Why there are no scores; empty if there are.
        ("reason", pa.string()),
        # SHA-256 of the references as they were scored.
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
    """One target of one track under one system, or one that failed."""

    system: str
    track_id: str
    split: str
    target: str
    scoring_group: str = ""
    """All targets that took part, joined by "+"."""
    conditioning: str = ""
    values: Mapping[str, float] = field(default_factory=dict)
    """By metric, dB: the median over finite frames, or the value of the whole track; NaN where nothing is finite."""
    frames: int = 0
    nan_frames: int = 0
    checkpoint: str = ""
    """SHA-256 of the weights; empty for what is no separator."""
    reason: str = ""
    """Why there are no scores; empty if there are."""
    references: str = ""
    """SHA-256 of the references as they were scored."""
    seconds: float = 0.0
    """Of audio."""
    separation_seconds: float = 0.0
    """Wall-clock seconds that the separator took."""
    scoring_seconds: float = 0.0
    """Wall-clock seconds of everything else: reading, ideal masks, scoring."""
    separation_cpu_seconds: float = 0.0
    """Seconds of one core, of all threads of the process."""
    scoring_cpu_seconds: float = 0.0
    separation_peak_bytes: int = 0
    """Largest resident memory of the process while it separated."""
    scoring_peak_bytes: int = 0
    """The same while it scored."""

    @property
    def company(self) -> tuple[str, str, str]:
        """Split, targets scored together and target: what may be compared."""
        return self.split, self.scoring_group, self.target


@dataclass(frozen=True, kw_only=True)
class TrackScores:
    """Rows in the order of systems and tracks."""

    rows: tuple[TrackRow, ...]

    @classmethod
    def read(cls, path: Path) -> "TrackScores":
        """Read what `write` wrote; raises ScoringError for a file that is missing, damaged or another table."""
        try:
            plain = pyarrow.parquet.read_table(path).select(_SCHEMA.names).cast(_SCHEMA).to_pylist()
        except (OSError, KeyError, ValueError) as problem:
            raise ScoringError(f"{path}: is no table of tracks ({problem}); run the evaluation again") from problem
        return cls(rows=tuple(from_plain(values) for values in plain))

    def write(self, path: Path) -> None:
        """Write parquet, whole or not at all."""
        plain = [to_plain(row) for row in self.rows]
        with replacing(Path(path)) as partial:
            pyarrow.parquet.write_table(pa.Table.from_pylist(plain, schema=_SCHEMA), partial, compression="zstd")

    @property
    def scored(self) -> tuple[TrackRow, ...]:
        """The rows that hold scores."""
        return tuple(row for row in self.rows if not row.reason)

    def summary(self) -> tuple[Summary, ...]:
        """Each metric over tracks, NaN left out and counted; per system, split, targets scored together and target.

        museval's order: first over frames, which a row already is, then over tracks.
        """
        groups: dict[tuple[str, tuple[str, str, str]], list[TrackRow]] = {}
        for row in self.scored:
            groups.setdefault((row.system, row.company), []).append(row)
        return tuple(summary for rows in groups.values() for summary in _summaries(rows))


def rows_of(scores: ScoreTable, **about: Any) -> tuple[TrackRow, ...]:
    """The rows of a table of frames; `about` is what it does not hold (checkpoint, times)."""
    # One target may stand in two companies.
    found: dict[tuple[str, str, str, str, str], list[Any]] = {}
    for value in scores.track_values():
        key = (value.system, value.split, value.track_id, value.target, value.scoring_group)
        found.setdefault(key, []).append(value)
    conditioning = _conditioning(scores)
    rows = []
    for (system, split, track_id, target, scoring_group), values in found.items():
        framed = max(values, key=lambda value: value.frames)
        row = TrackRow(
            system=system,
            track_id=track_id,
            split=split,
            target=target,
            scoring_group=scoring_group,
            conditioning=conditioning[system, track_id, target, scoring_group],
            values={value.metric: value.value for value in values},
            frames=framed.frames,
            nan_frames=framed.nan_frames,
            **about,
        )
        rows.append(row)
    return tuple(rows)


def to_plain(row: TrackRow) -> dict[str, Any]:
    """A row as plain values, one for each column: None for a metric without a finite value."""
    values = {name: value if np.isfinite(value) else None for name, value in row.values.items()}
    return {name: values.get(name) if name in METRICS else getattr(row, name) for name in _SCHEMA.names}


def from_plain(plain: Mapping[str, Any]) -> TrackRow:
    """The row that `to_plain` made plain; raises KeyError or TypeError for anything else."""
    others = {name: value for name, value in plain.items() if name not in METRICS}
    nothing = float("nan")
    values = {name: nothing if plain[name] is None else plain[name] for name in METRICS} if not plain["reason"] else {}
    return TrackRow(**others, values=values)


def _conditioning(scores: ScoreTable) -> dict[tuple[str, str, str, str], str]:
    names = ["system", "track_id", "target", "scoring_group"]
    distinct = scores.table.group_by([*names, "conditioning"], use_threads=False).aggregate([]).to_pylist()
    return {tuple(row[name] for name in names): row["conditioning"] for row in distinct}


def _summaries(rows: list[TrackRow]) -> Iterator[Summary]:
    first = rows[0]
    for metric in METRICS:
        if not any(metric in row.values for row in rows):
            continue
        values = np.array([row.values.get(metric, np.nan) for row in rows])
        finite = values[np.isfinite(values)]
        of_frames = metric in FRAME_METRICS
        yield Summary(
            system=first.system,
            split=first.split,
            target=first.target,
            scoring_group=first.scoring_group,
            metric=metric,
            median=float(np.median(finite)) if len(finite) else float("nan"),
            mean=float(finite.mean()) if len(finite) else float("nan"),
            tracks=len(finite),
            tracks_excluded=len(values) - len(finite),
            frames=sum(row.frames for row in rows) if of_frames else 0,
            nan_frames=sum(row.nan_frames for row in rows) if of_frames else 0,
        )
