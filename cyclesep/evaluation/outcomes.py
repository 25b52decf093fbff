"""What became of each track under each system, kept on disk so that nothing is done twice.

A part is two files: the scores (parquet) and the outcome (JSON), which is written last and makes the part count. Its
name holds a hash of all that decides the scores: the separator's weights, the track's audio, the settings.
"""

import hashlib
import json
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet

from cyclesep import settings
from cyclesep.errors import ConfigError, ScoringError
from cyclesep.files import replacing, write_text
from cyclesep.scoring import ScoreTable


@dataclass(frozen=True, kw_only=True)
class TrackOutcome:
    """One track under one system."""

    system: str
    track_id: str
    split: str
    reason: str = ""
    """Why it could not be scored; empty if it was."""
    seconds: float = 0.0
    """Of audio."""
    separation_seconds: float = 0.0
    """Wall-clock seconds that the separator took."""
    scoring_seconds: float = 0.0
    """Wall-clock seconds for everything else: reading references, ideal masks, scoring."""

    @property
    def failed(self) -> bool:
        return bool(self.reason)

    def __str__(self) -> str:
        told = self.reason.removeprefix(f"{self.track_id}: ") or "scored"
        return f"{self.system}: {self.track_id}: {told}"


@dataclass(frozen=True, kw_only=True)
class Part:
    """Where the scores of one track under one system lie."""

    scores: Path
    outcome: Path

    @classmethod
    def of(cls, folder: Path, system: str, track_id: str, content: Sequence[Any]) -> "Part":
        """`content` is all that decides the scores, as plain values."""
        key = hashlib.sha256(json.dumps([system, track_id, *content], sort_keys=True).encode()).hexdigest()
        name = f"{_slug(system)}-{_slug(track_id)}-{key[:16]}"
        return cls(scores=folder / f"{name}.parquet", outcome=folder / f"{name}.json")

    def write(self, table: ScoreTable, outcome: TrackOutcome) -> None:
        """Keep the scores; they count once the outcome is there."""
        table.write(self.scores)
        write_text(self.outcome, json.dumps(asdict(outcome)) + "\n")

    def read(self) -> tuple[ScoreTable, TrackOutcome] | None:
        """What `write` kept, or None if it is not there, or damaged, and has to be made again."""
        with suppress(OSError, ValueError, ConfigError, ScoringError):
            outcome = settings.build(TrackOutcome, json.loads(self.outcome.read_text(encoding="utf-8")))
            return ScoreTable.read(self.scores), outcome
        return None


def write_outcomes(path: Path, outcomes: Sequence[TrackOutcome]) -> None:
    """One row per track and system, as parquet."""
    with replacing(path) as partial:
        pyarrow.parquet.write_table(pa.Table.from_pylist([asdict(outcome) for outcome in outcomes]), partial)


def _slug(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9]+", "-", text).strip("-")[:40] or "track"
