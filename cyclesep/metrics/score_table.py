"""Scores of tracks and systems as one table with a row per value, stored as parquet, and their summary over tracks."""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
from numpy.typing import NDArray

from cyclesep.errors import ScoringError
from cyclesep.metrics.track_score import FRAME_METRICS, TargetScore, TrackScore
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
TRACK_KEYS = ("system", "split", "target", "scoring_group", "metric", "track_id")


@dataclass(frozen=True, kw_only=True)
class TrackValue:
    """One metric of one target of one track: the median over its finite frames, or the value of the whole track."""

    system: str
    split: str
    target: str
    scoring_group: str
    metric: str
    track_id: str
    value: float
    """dB; NaN when no frame is finite."""
    frames: int
    """0 for a metric of the whole track."""
    nan_frames: int
    """Excluded frames: NaN, or infinite, which museval writes as NaN too."""


@dataclass(frozen=True, kw_only=True)
class Summary:
    """One metric of one target of one system over the tracks of a split; tracks without a finite value are excluded."""

    system: str
    split: str
    target: str
    scoring_group: str
    metric: str
    median: float
    """Median over tracks, dB: of medians over frames for SDR, ISR, SIR and SAR, as SiSEC reports them."""
    mean: float
    """Mean over tracks, dB: how uSDR is reported."""
    tracks: int
    tracks_excluded: int
    frames: int
    nan_frames: int


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
    def from_museval(cls, system: str, folder: Path) -> "ScoreTable":
        """Read the JSON files `folder/<split>/<track>.json` of museval, `write_museval_json` or SiSEC 2018.

        Raises ScoringError if there are none, or if a file is not in museval's format.
        """
        paths = sorted(Path(folder).glob("*/*.json"))
        if not paths:
            raise ScoringError(f"{folder}: no <split>/<track>.json found; give the folder above the split folders")
        return cls(table=pa.concat_tables([_museval_rows(system, path) for path in paths]))

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

    def track_values(self) -> tuple[TrackValue, ...]:
        """Return one value per track, target and metric, in the order of first appearance."""
        values = self.table["value"].to_numpy()
        of_frames = self.table["frame"].is_valid().to_numpy()
        return tuple(_track_value(key, values[rows], of_frames[rows]) for key, rows in _groups(self.table, TRACK_KEYS))

    def summary(self) -> tuple[Summary, ...]:
        """Return the summary of all tracks; see `summarize`."""
        return summarize(self.track_values())


def summarize(track_values: Iterable[TrackValue]) -> tuple[Summary, ...]:
    """Return mean and median over tracks per system, split, target, scoring group and metric, in order of appearance.

    NaN is excluded and counted. Scoring groups are not mixed: vocals scored with three stems and vocals scored with
    the accompaniment are not comparable.
    """
    values: dict[tuple[str, ...], list[float]] = {}
    frames: Counter[tuple[str, ...]] = Counter()
    nan_frames: Counter[tuple[str, ...]] = Counter()
    for track in track_values:
        key = (track.system, track.split, track.target, track.scoring_group, track.metric)
        values.setdefault(key, []).append(track.value)
        frames[key] += track.frames
        nan_frames[key] += track.nan_frames
    return tuple(_summary(key, np.array(values[key]), frames[key], nan_frames[key]) for key in values)


def read_museval_json(path: Path) -> list[tuple[str, NDArray[np.float64], dict[str, NDArray[np.float64]]]]:
    """Return name, frame times in seconds and values by metric of each target in a JSON file of museval.

    Metrics that the first frame lacks are missing. Raises ScoringError for a file that is not in museval's format.
    """
    targets = []
    try:
        for target in json.loads(path.read_text(encoding="utf-8"))["targets"]:
            frames = target["frames"]
            metrics = [metric for metric in FRAME_METRICS if not frames or metric in frames[0]["metrics"]]
            values = {metric: np.array([float(frame["metrics"][metric]) for frame in frames]) for metric in metrics}
            times = np.array([frame["time"] for frame in frames], dtype=np.float64)
            targets.append((target["name"], times, values))
    except (OSError, ValueError, KeyError, TypeError) as problem:
        raise ScoringError(f"{path}: is not museval's JSON ({problem!r}); write it again or exclude it") from problem
    return targets


def _rows(system: str, score: TrackScore, target: TargetScore) -> pa.Table:
    parts = [
        (metric, np.arange(len(values)), np.arange(len(values)) * score.hop_seconds, values)
        for metric, values in target.frame_metrics().items()
    ]
    nothing = np.array([None])
    parts += [(metric, nothing, nothing, np.array([value])) for metric, value in target.track_metrics().items()]
    return _table(system, score.track_id, score.split, target.target, target.scoring_group, target.conditioning, parts)


def _museval_rows(system: str, path: Path) -> pa.Table:
    tables = [SCHEMA.empty_table()]
    for target, times, values in read_museval_json(path):
        missing = next((metric for metric in FRAME_METRICS if metric not in values), None)
        if missing is not None:
            raise ScoringError(f"{path}: is not museval's JSON (no {missing}); write it again or exclude it")
        parts: list[Any] = [(metric, np.arange(len(times)), times, values[metric]) for metric in FRAME_METRICS]
        tables.append(_table(system, path.stem, path.parent.name, target, (), "", parts))
    return pa.concat_tables(tables)


def _table(
    system: str,
    track_id: str,
    split: str,
    target: str,
    scoring_group: Sequence[str],
    conditioning: str,
    parts: Sequence[tuple[str, NDArray[Any], NDArray[Any], NDArray[np.float64]]],
) -> pa.Table:
    """Return the rows of one target; `parts` are (metric, frames, times, values), None where there is no frame."""
    count = sum(len(values) for _, _, _, values in parts)
    constant = (system, track_id, split, target, "+".join(scoring_group), conditioning)
    columns: list[Any] = [[text] * count for text in constant]
    columns.append([frame for _, frames, _, _ in parts for frame in frames.tolist()])
    columns.append([time for _, _, times, _ in parts for time in times.tolist()])
    columns.append([metric for metric, _, _, values in parts for _ in range(len(values))])
    columns.append(np.concatenate([values for _, _, _, values in parts]) if parts else [])
    return pa.table(columns, schema=SCHEMA)


def _groups(table: pa.Table, keys: Sequence[str]) -> Iterator[tuple[tuple[str, ...], NDArray[np.intp]]]:
    """Yield each combination of the key columns with the indices of its rows, in the order of first appearance."""
    if table.num_rows == 0:
        return
    encoded = [table[key].combine_chunks().dictionary_encode() for key in keys]
    codes = [column.indices.to_numpy() for column in encoded]
    combined = np.ravel_multi_index(codes, [len(column.dictionary) for column in encoded])
    _, first, group_of = np.unique(combined, return_index=True, return_inverse=True)
    rows_of = np.split(np.argsort(group_of, kind="stable"), np.cumsum(np.bincount(group_of))[:-1])
    for group in np.argsort(first):
        row = first[group]
        yield (
            tuple(column.dictionary[code[row]].as_py() for column, code in zip(encoded, codes, strict=True)),
            rows_of[group],
        )


def _track_value(key: tuple[str, ...], values: NDArray[np.float64], of_frames: NDArray[np.bool_]) -> TrackValue:
    system, split, target, scoring_group, metric, track_id = key
    finite = np.isfinite(values)
    return TrackValue(
        system=system,
        split=split,
        target=target,
        scoring_group=scoring_group,
        metric=metric,
        track_id=track_id,
        value=float(np.median(values[finite])) if finite.any() else float("nan"),
        frames=int(of_frames.sum()),
        nan_frames=int((of_frames & ~finite).sum()),
    )


def _summary(key: tuple[str, ...], values: NDArray[np.float64], frames: int, nan_frames: int) -> Summary:
    system, split, target, scoring_group, metric = key
    finite = values[np.isfinite(values)]
    return Summary(
        system=system,
        split=split,
        target=target,
        scoring_group=scoring_group,
        metric=metric,
        median=float(np.median(finite)) if len(finite) else float("nan"),
        mean=float(finite.mean()) if len(finite) else float("nan"),
        tracks=len(finite),
        tracks_excluded=len(values) - len(finite),
        frames=frames,
        nan_frames=nan_frames,
    )
