"""Output folder of an evaluation: finished results per track, so that no track is scored twice, and the final tables.

evaluation.yaml   the config
parts/            two files per track and system: scores (parquet) and result (JSON), written in this order
museval/          SYSTEM/SPLIT/TRACK.json, the layout of museval's EvalStore
estimates/        SYSTEM/SPLIT/TRACK/TARGET.wav, if requested
excerpts/         audio for the report
scores.parquet    a row per frame
tracks.parquet    a row per track and target
summary.json      medians over tracks, config, times; written last
"""

import hashlib
import itertools
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet

from cyclesep.errors import ScoringError, StorageError
from cyclesep.evaluation.track_scores import TrackResult, TrackRow, TrackScores
from cyclesep.metrics import ScoreTable
from cyclesep.storage.path import StoragePath

CONFIG, PARTS, SCORES, TRACKS, SUMMARY = "evaluation.yaml", "parts", "scores.parquet", "tracks.parquet", "summary.json"
# Values of "kind" in summary.json of the systems that are evaluated; the others are baselines and oracles.
EVALUATED_KINDS = ("SeparatorSystem", "EstimateFolder")
# Files that are read concurrently, to hide the latency of remote storage.
NUM_READERS = 16
# Tracks that are in memory at a time and become one row group of the table of frames.
_TRACKS_PER_ROW_GROUP = 64


@dataclass(frozen=True, kw_only=True)
class ResultKey:
    """Identifies the result of one track under one system; changes with everything that determines the scores."""

    name: str

    @classmethod
    def of(cls, system: str, track_id: str, content: Sequence[Any]) -> "ResultKey":
        """Return the key for `content`, plain values of all that determines the scores: weights, audio, settings."""
        digest = hashlib.sha256(json.dumps([system, track_id, *content], sort_keys=True).encode()).hexdigest()
        return cls(name=f"{_slug(system)}-{_slug(track_id)}-{digest[:16]}")

    @property
    def scores_file(self) -> str:
        return f"{self.name}.parquet"

    @property
    def result_file(self) -> str:
        return f"{self.name}.json"


@dataclass(frozen=True, kw_only=True)
class Results:
    """Reads and writes the results of tracks and the final tables."""

    folder: StoragePath

    def save_track_result(self, key: ResultKey, table: ScoreTable, result: TrackResult) -> None:
        """Write the scores of a track, then its result: only with both files does the track count as finished."""
        with self.folder.replacing(f"{PARTS}/{key.scores_file}") as partial:
            table.write(partial)
            size = partial.stat().st_size
        plain = {"scores_bytes": size, "rows": [row.to_plain() for row in result.rows]}
        self.folder.write_text(f"{PARTS}/{key.result_file}", json.dumps(plain, allow_nan=False) + "\n")

    def load_track_result(self, key: ResultKey, sizes: Mapping[str, int]) -> TrackResult | None:
        """Return the result of a finished track, or None if a file is missing or damaged.

        `sizes` are the sizes of all files in PARTS, in bytes.
        """
        if not {key.result_file, key.scores_file} <= sizes.keys():
            return None
        with suppress(StorageError, ValueError, KeyError, TypeError):
            plain = json.loads(self.folder.read_text(f"{PARTS}/{key.result_file}"))
            if plain["scores_bytes"] == sizes[key.scores_file]:
                return TrackResult(rows=tuple(TrackRow.from_plain(row) for row in plain["rows"]))
        return None

    def load_track_scores(self, key: ResultKey) -> ScoreTable:
        """Return the frames of a track; if they are damaged, delete its result and raise StorageError."""
        name = f"{PARTS}/{key.scores_file}"
        with self.folder.reading(name) as path:
            try:
                return ScoreTable.read(path)
            except ScoringError as problem:
                self.folder.delete(f"{PARTS}/{key.result_file}")
                raise StorageError(
                    f"{self.folder.file_uri(name)}: file is damaged; run the same command again, which scores "
                    f"this track again"
                ) from problem

    def join_scores(self, keys: Iterable[ResultKey]) -> None:
        """Write the table of frames of all tracks, in order; only some tracks are in memory at a time."""
        remaining = iter(keys)
        schema = ScoreTable.concatenate([]).table.schema
        with (
            self.folder.replacing(SCORES) as partial,
            pyarrow.parquet.ParquetWriter(partial, schema, compression="zstd") as file,
            ThreadPoolExecutor(NUM_READERS) as pool,
        ):
            while group := list(itertools.islice(remaining, _TRACKS_PER_ROW_GROUP)):
                tables = pool.map(self.load_track_scores, group)
                file.write_table(pa.concat_tables([scores.table for scores in tables]))

    def read_scores(self) -> ScoreTable:
        """Return the table of frames."""
        with self.folder.reading(SCORES) as path:
            return ScoreTable.read(path)

    def write_tracks(self, tracks: TrackScores) -> None:
        """Write the table of tracks and targets."""
        with self.folder.replacing(TRACKS) as partial:
            tracks.write(partial)

    def read_tracks(self) -> TrackScores:
        """Return the table of tracks and targets."""
        with self.folder.reading(TRACKS) as path:
            return TrackScores.read(path)


def _slug(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9]+", "-", text).strip("-")[:40] or "track"
