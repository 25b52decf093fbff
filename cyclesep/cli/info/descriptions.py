"""Descriptions of shards, checkpoints and runs; this module does not import torch, which takes seconds."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cyclesep.checkpoints.metadata import CheckpointMetadata


@dataclass(frozen=True, kw_only=True)
class SplitStatistics:
    """One split of a corpus."""

    name: str
    tracks: int
    hours: float


@dataclass(frozen=True, kw_only=True)
class StemStatistics:
    """One stem over all tracks that have it."""

    name: str
    tracks: int
    hours: float
    level_db: float | None
    """Mean power of its seconds that are not silent, in dB re full scale; None if all are silent."""
    silent_fraction: float
    """Fraction of its seconds that are silent."""
    lufs: float | None = None
    """Median over tracks of the integrated loudness; None if not requested, or if all tracks are below the gate."""


@dataclass(frozen=True, kw_only=True)
class CorpusDescription:
    """The tracks and stems in a folder of shards."""

    path: str
    sample_rate: int
    channels: int
    tracks: int
    hours: float
    splits: tuple[SplitStatistics, ...]
    stems: tuple[StemStatistics, ...]
    silence_threshold_db: float
    clipped_tracks: int
    """Tracks with three or more consecutive samples at full scale."""
    warned_tracks: int
    """Tracks with warnings of the ingest, whose text is in the manifest."""
    disk_bytes: int
    """Bytes of the shards, without the manifest."""
    digest: str
    kind: str = "shards"


@dataclass(frozen=True, kw_only=True)
class CheckpointDescription:
    """One checkpoint: its metadata, its size, and its training settings that differ from the defaults."""

    path: str
    metadata: "CheckpointMetadata"
    separator: str
    parameters: int
    changed_settings: dict[str, Any]
    disk_bytes: int
    kind: str = "checkpoint"


@dataclass(frozen=True, kw_only=True)
class EvaluationScores:
    """The scores of an evaluation inside a run folder."""

    path: str
    rows: tuple[dict[str, Any], ...]
    """As in summary.json: split, target, system, and medians in dB."""


@dataclass(frozen=True, kw_only=True)
class RunDescription:
    """A run: its best checkpoint, the names of all checkpoints, and its evaluations."""

    path: str
    best: CheckpointDescription | None
    """The best checkpoint; of an unfinished run the last one."""
    checkpoints: tuple[str, ...]
    finished: bool
    evaluations: tuple[EvaluationScores, ...]
    disk_bytes: int
    kind: str = "run"


Description = CorpusDescription | CheckpointDescription | RunDescription
