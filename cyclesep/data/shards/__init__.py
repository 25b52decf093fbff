"""Shards: LMDB files of protobuf segments and the manifest that lists them; written whole, read at random, checked."""
