"""What `cyclesep info` is told."""

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Lt
from pydantic import Field


@dataclass(frozen=True, kw_only=True)
class InfoConfig:
    """What to describe, and how closely."""

    paths: Annotated[tuple[str, ...], Field(min_length=1)]
    """Runs (folders, or names below `runs`), checkpoints, shards: folders, or s3://bucket/prefix."""

    audio: bool = False
    """Read the audio of shards, and tell the integrated loudness (LUFS, ITU-R BS.1770-4) of each stem."""

    silence_threshold_db: Annotated[float, Lt(0)] = -60.0
    """A second of a stem with less mean power than this, in dB re full scale, counts as silent."""

    json: bool = False
    """Print one JSON document on stdout."""
