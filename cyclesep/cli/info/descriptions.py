"""What is told of shards, checkpoints and runs; reading shards takes no torch, which takes seconds to import."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cyclesep.checkpoints import CheckpointMetadata


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
    """Mean power of its seconds that are not silent, in dB re full scale; None if all are."""
    silent_share: float
    """Share of its seconds that are silent."""
    lufs: float | None = None
    """Median over tracks of the integrated loudness; None if it was not asked for, or all is below the gate."""


@dataclass(frozen=True, kw_only=True)
class CorpusDescription:
    """What shards hold."""

    place: str
    sample_rate: int
    channels: int
    tracks: int
    hours: float
    splits: tuple[SplitStatistics, ...]
    stems: tuple[StemStatistics, ...]
    silence_threshold_db: float
    clipped_tracks: int
    """Tracks with samples that sit at full scale three or more in a row."""
    warned_tracks: int
    """Tracks that the ingest has a warning about; the manifest holds the sentences."""
    disk_bytes: int
    """Bytes of the shards, without the manifest."""
    digest: str
    kind: str = "shards"


@dataclass(frozen=True, kw_only=True)
class CheckpointDescription:
    """One checkpoint: its card, its size, and in what its training differs from the defaults."""

    place: str
    card: "CheckpointMetadata"
    separator: str
    parameters: int
    changed_settings: dict[str, Any]
    disk_bytes: int
    kind: str = "checkpoint"


@dataclass(frozen=True, kw_only=True)
class Scores:
    """An evaluation that lies in a run's folder."""

    place: str
    rows: tuple[dict[str, Any], ...]
    """As in summary.json: split, target, system, and medians in dB."""


@dataclass(frozen=True, kw_only=True)
class RunDescription:
    """A run: its best checkpoint, all checkpoints, and the evaluations beside them."""

    place: str
    best: CheckpointDescription | None
    checkpoints: tuple[str, ...]
    finished: bool
    evaluations: tuple[Scores, ...]
    disk_bytes: int
    kind: str = "run"


Description = CorpusDescription | CheckpointDescription | RunDescription
