"""The record of one segment: plain protobuf (protos/segment.proto), laid out so that its samples are read in place."""

import zlib

import numpy as np
from google.protobuf.message import DecodeError
from numpy.typing import NDArray

from cyclesep.data.shards.manifest import TrackRecord
from cyclesep.data.shards.segment_pb2 import Segment

Pcm16 = NDArray[np.int16]

_PCM16 = np.dtype("<i2")

# A value of this size starts 16 bytes into a page of LMDB, so what is aligned in the record is aligned in memory.
_ALIGNMENT = 16


def key(index: int) -> bytes:
    """The LMDB key of a segment; keys sort in the order of time."""
    return index.to_bytes(4, "big")


def pcm_bytes(track: TrackRecord, index: int) -> int:
    """Size of the payload of segment `index`."""
    return len(track.stems) * track.channels * track.segment_length(index) * _PCM16.itemsize


def encode(track: TrackRecord, index: int, pcm: Pcm16) -> bytes:
    """The record of segment `index` with the samples `pcm`, int16 `(stems, channels, time)`."""
    payload = np.ascontiguousarray(pcm, dtype=_PCM16).tobytes()
    tag = _pcm_tag(len(payload))
    header = _header(track, index)
    header.crc32 = zlib.crc32(payload)
    # The padding has a tag and a length of one byte each; it is never empty, for then both would vanish.
    unpadded = len(header.SerializeToString()) + 2 + len(tag)
    header.padding = bytes(_ALIGNMENT - unpadded % _ALIGNMENT)
    # Joined by hand: protobuf leaves the order of fields in a serialised message open, and the payload must be last.
    return header.SerializeToString() + tag + payload


def find_fault(track: TrackRecord, index: int, record: memoryview) -> str | None:
    """Compare a record with what the manifest says of it and with its checksum: what is wrong, or None."""
    pcm_start = len(record) - pcm_bytes(track, index)
    tag = _pcm_tag(len(record) - pcm_start)
    if pcm_start < len(tag) or record[pcm_start - len(tag) : pcm_start] != tag:
        return "its payload is not where it should be"
    try:
        header = Segment.FromString(bytes(record[: pcm_start - len(tag)]))
    except DecodeError:
        return "its header is not protobuf"
    if header.crc32 != zlib.crc32(record[pcm_start:]):
        return "its checksum does not match"
    if not header.padding or any(header.padding):
        return "its padding is not zeros"
    header.ClearField("crc32")
    header.ClearField("padding")
    # Fields that a later format adds.
    header.DiscardUnknownFields()
    if header != _header(track, index):
        return "its header is not what the manifest says"
    return None


def samples(track: TrackRecord, index: int, record: memoryview) -> Pcm16:
    """The payload of a record as `(stems, channels, time)`, where it lies: valid as long as the record's memory is."""
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
    """Field number and length as protobuf writes them before a payload of `num_bytes`."""
    tag = bytearray([Segment.PCM_FIELD_NUMBER << 3 | 2])
    while num_bytes > 0x7F:
        tag.append(num_bytes & 0x7F | 0x80)
        num_bytes >>= 7
    return bytes([*tag, num_bytes])
