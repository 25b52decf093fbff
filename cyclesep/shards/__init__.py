"""Shards: LMDB files of protobuf segments and the manifest that lists them; written whole, read at random, checked."""

from cyclesep.shards.manifest import (
    MIXTURE,
    SILENCE_DB,
    ShardFile,
    ShardManifest,
    TrackRecord,
    make_manifest,
    read_manifest,
    write_manifest,
)
from cyclesep.shards.open_shards import MAX_OPEN_SHARDS, close_idle, keep_open
from cyclesep.shards.reading import ShardReader
from cyclesep.shards.writing import write_track

__all__ = [
    "MAX_OPEN_SHARDS",
    "MIXTURE",
    "SILENCE_DB",
    "ShardFile",
    "ShardManifest",
    "ShardReader",
    "TrackRecord",
    "close_idle",
    "keep_open",
    "make_manifest",
    "read_manifest",
    "write_manifest",
    "write_track",
]
