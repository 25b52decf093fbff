"""Segment records: plain protobuf (protos/segment.proto) with a layout that allows reading samples in place."""

import zlib

import numpy as np
from google.protobuf.message import DecodeError
from numpy.typing import NDArray

from cyclesep.data.shards.manifest import TrackRecord
from cyclesep.data.shards.segment_pb2 import Segment

Pcm16 = NDArray[np.int16]

_PCM16 = np.dtype("<i2")

# LMDB places large values 16 bytes after the start of a page, so what is aligned in a record is aligned in memory.
_ALIGNMENT = 16


def key(index: int) -> bytes:
    """Return the LMDB key of a segment; keys are in chronological order."""
    return index.to_bytes(4, "big")


def pcm_bytes(track: TrackRecord, index: int) -> int:
    """Return the payload size of segment `index`."""
    return len(track.stems) * track.channels * track.segment_length(index) * _PCM16.itemsize


def encode(track: TrackRecord, index: int, pcm: Pcm16) -> bytes:
    """Return the record of segment `index` with the samples `pcm`, int16 `(stems, channels, time)`."""
    payload = np.ascontiguousarray(pcm, dtype=_PCM16).tobytes()
    tag = _pcm_tag(len(payload))
    header = _header(track, index)
    header.crc32 = zlib.crc32(payload)
    # The padding has a one-byte tag and a one-byte length; if it were empty, protobuf would omit both.
    unpadded = len(header.SerializeToString()) + 2 + len(tag)
    header.padding = bytes(_ALIGNMENT - unpadded % _ALIGNMENT)
    # Joined by hand, because protobuf does not specify the order of serialised fields, and the payload must be last.
    return header.SerializeToString() + tag + payload


def find_fault(track: TrackRecord, index: int, record: memoryview) -> str | None:
    """Compare a record with the manifest and its checksum; return what is wrong, or None."""
    pcm_start = len(record) - pcm_bytes(track, index)
    tag = _pcm_tag(len(record) - pcm_start)
    if pcm_start < len(tag) or record[pcm_start - len(tag) : pcm_start] != tag:
        return "its payload is misplaced"
    try:
        header = Segment.FromString(bytes(record[: pcm_start - len(tag)]))
    except DecodeError:
        return "its header is not protobuf"
    if header.crc32 != zlib.crc32(record[pcm_start:]):
        return "its checksum does not match"
    if not header.padding or any(header.padding):
        return "its padding is not zero"
    header.ClearField("crc32")
    header.ClearField("padding")
    # Fields added by a later format.
    header.DiscardUnknownFields()
    if header != _header(track, index):
        return "its header does not match the manifest"
    return None


def samples(track: TrackRecord, index: int, record: memoryview) -> Pcm16:
    """Return a view `(stems, channels, time)` of the payload of a record, valid as long as the record's memory."""
    pcm = np.frombuffer(record, dtype=_PCM16, offset=len(record) - pcm_bytes(track, index))
    return pcm.reshape(len(track.stems), track.channels, track.segment_length(index))


def _header(track: TrackRecord, index: int) -> Segment:
    return Segment(
        track_id=track.track_id,
        index=index,
        start=index * track.segment_samples,
        sample_rate=track.sample_rate,
        channels=track.channels,
        num_samples=track.segment_length(index),
        stems=track.stems,
        gain=track.gain,
    )


def _pcm_tag(num_bytes: int) -> bytes:
    """Return the field number and length that protobuf writes before a payload of `num_bytes`."""
    tag = bytearray([Segment.PCM_FIELD_NUMBER << 3 | 2])
    while num_bytes > 0x7F:
        tag.append(num_bytes & 0x7F | 0x80)
        num_bytes >>= 7
    return bytes([*tag, num_bytes])
