"""Shards: LMDB files of protobuf segments, and the manifest that lists them."""
