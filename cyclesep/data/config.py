"""Settings of the job `ingest`."""

from dataclasses import dataclass, field
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Le

from cyclesep.data.corpora.config import CorpusConfig


@dataclass(frozen=True, kw_only=True)
class IngestConfig:
    """Conversion of music to shards."""

    corpus: CorpusConfig = field(default_factory=CorpusConfig)
    """The music to convert."""
    output: str
    """Where to write shards: s3://bucket/prefix or a folder; on a cluster a folder that all machines share."""
    sample_rate: Annotated[int, Ge(4000), Le(192000)] = 44100
    """Samples per second; sources with another rate are resampled."""
    channels: Literal[1, 2] = 2
    """1: stereo is mixed down to mono; 2: mono is copied to both channels."""
    segment_seconds: Annotated[float, Gt(0.0), Le(60.0)] = 4.0
    """Length of one record. A crop across a border needs a second look-up; the first access checks a whole record."""
    max_shard_mib: Annotated[int, Ge(1), Le(65536)] = 256
    """Maximum size of an LMDB file in MiB; a longer track is split over several files."""
