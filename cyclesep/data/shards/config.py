"""Settings of the job `verify`."""

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge, Le, MinLen


@dataclass(frozen=True, kw_only=True)
class VerifyConfig:
    """Verification of shards."""

    shards: Annotated[tuple[str, ...], MinLen(1)]
    """Folders of shards, or s3://bucket/prefix, each with its manifest.json."""
    num_threads: Annotated[int, Ge(1), Le(1024)] | None = None
    """Shards checked in parallel; none: one per core. Hashing releases Python's lock, so threads use all cores."""
