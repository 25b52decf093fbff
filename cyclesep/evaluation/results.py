"""The folder of an evaluation: what it keeps of each track, so that nothing is done twice, and the tables of all.

parts/            a part per track and system: scores (parquet) and outcome (JSON), which makes the part count
museval/          SYSTEM/SPLIT/TRACK.json, where museval's EvalStore looks
estimates/        SYSTEM/SPLIT/TRACK/TARGET.wav, if asked for
scores.parquet    a row for each frame
tracks.parquet    a row for each track and target
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
from cyclesep.evaluation.track_result import TrackResult
from cyclesep.evaluation.track_scores import TRACKS, TrackScores, from_plain, to_plain
from cyclesep.metrics import ScoreTable
from cyclesep.storage.path import StoragePath

PARTS, SCORES = "parts", "scores.parquet"
# Files that are read at the same time, for where each takes a journey.
NUM_READERS = 16
# Parts that are held at a time, and become one row group of the table of frames.
_PARTS_PER_GROUP = 64


@dataclass(frozen=True, kw_only=True)
class Part:
    """The two files of one track under one system."""

    name: str

    @classmethod
    def of(cls, system: str, track_id: str, content: Sequence[Any]) -> "Part":
        """`content` is all that decides the scores, as plain values: weights, audio, settings."""
        key = hashlib.sha256(json.dumps([system, track_id, *content], sort_keys=True).encode()).hexdigest()
        return cls(name=f"{_slug(system)}-{_slug(track_id)}-{key[:16]}")

    @property
    def scores(self) -> str:
        return f"{self.name}.parquet"

    @property
    def outcome(self) -> str:
        return f"{self.name}.json"


@dataclass(frozen=True, kw_only=True)
class Results:
    """Reads and writes parts and tables."""

    folder: StoragePath

    def write_part(self, part: Part, table: ScoreTable, outcome: TrackResult) -> None:
        """Keep the scores of a track; they count once the outcome is there."""
        with self.folder.replacing(f"{PARTS}/{part.scores}") as partial:
            table.write(partial)
            size = partial.stat().st_size
        told = {"scores_bytes": size, "rows": [to_plain(row) for row in outcome.rows]}
        self.folder.write_text(f"{PARTS}/{part.outcome}", json.dumps(told, allow_nan=False) + "\n")

    def read_outcome(self, part: Part, sizes: Mapping[str, int]) -> TrackResult | None:
        """What `write_part` kept, or None if a file is missing or damaged and the track is to be done again.

        `sizes` are those of the files in PARTS.
        """
        if not {part.outcome, part.scores} <= sizes.keys():
            return None
        with suppress(StorageError, ValueError, KeyError, TypeError):
            told = json.loads(self.folder.read_text(f"{PARTS}/{part.outcome}"))
            if told["scores_bytes"] == sizes[part.scores]:
                return TrackResult(rows=tuple(from_plain(row) for row in told["rows"]))
        return None

    def read_scores(self, part: Part) -> ScoreTable:
        """The frames of a part; raises StorageError for one that is damaged, which then no longer counts."""
        with self.folder.reading(f"{PARTS}/{part.scores}") as path:
            try:
                return ScoreTable.read(path)
            except ScoringError as problem:
                self.folder.delete(f"{PARTS}/{part.outcome}")
                raise StorageError(
                    f"{self.folder.path_of(f'{PARTS}/{part.scores}')}: is damaged; run the same command again, which "
                    f"scores that track anew"
                ) from problem

    def join_scores(self, parts: Iterable[Part]) -> None:
        """Write the table of frames from those of all parts in their order, holding only some of them at a time."""
        waiting = iter(parts)
        schema = ScoreTable.concatenate([]).table.schema
        with (
            self.folder.replacing(SCORES) as partial,
            pyarrow.parquet.ParquetWriter(partial, schema, compression="zstd") as file,
            ThreadPoolExecutor(NUM_READERS) as pool,
        ):
            while group := list(itertools.islice(waiting, _PARTS_PER_GROUP)):
                file.write_table(pa.concat_tables([scores.table for scores in pool.map(self.read_scores, group)]))

    def read_joined(self) -> ScoreTable:
        """The table of frames."""
        with self.folder.reading(SCORES) as path:
            return ScoreTable.read(path)

    def write_tracks(self, tracks: TrackScores) -> None:
        """Write the table of tracks and targets."""
        with self.folder.replacing(TRACKS) as partial:
            tracks.write(partial)


def _slug(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9]+", "-", text).strip("-")[:40] or "track"
