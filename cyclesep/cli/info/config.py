"""Configuration of `cyclesep info`."""

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Lt
from pydantic import Field


@dataclass(frozen=True, kw_only=True)
class InfoConfig:
    """What to describe."""

    paths: Annotated[tuple[str, ...], Field(min_length=1)]
    """Runs (folders, or names in `runs`), checkpoints or shards, local or s3://bucket/prefix."""

    audio: bool = False
    """Read the audio of shards and report the integrated loudness (LUFS, ITU-R BS.1770-4) of each stem."""

    silence_threshold_db: Annotated[float, Lt(0)] = -60.0
    """A second of a stem with a mean power below this, in dB re full scale, counts as silent."""

    json: bool = False
    """Print one JSON document on stdout."""
