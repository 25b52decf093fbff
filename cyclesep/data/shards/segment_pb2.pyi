from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable
from typing import ClassVar as _ClassVar, Optional as _Optional

DESCRIPTOR: _descriptor.FileDescriptor

class Segment(_message.Message):
    __slots__ = ("track_id", "index", "start", "sample_rate", "channels", "num_samples", "stems", "gain", "crc32", "padding", "pcm")
    TRACK_ID_FIELD_NUMBER: _ClassVar[int]
    INDEX_FIELD_NUMBER: _ClassVar[int]
    START_FIELD_NUMBER: _ClassVar[int]
    SAMPLE_RATE_FIELD_NUMBER: _ClassVar[int]
    CHANNELS_FIELD_NUMBER: _ClassVar[int]
    NUM_SAMPLES_FIELD_NUMBER: _ClassVar[int]
    STEMS_FIELD_NUMBER: _ClassVar[int]
    GAIN_FIELD_NUMBER: _ClassVar[int]
    CRC32_FIELD_NUMBER: _ClassVar[int]
    PADDING_FIELD_NUMBER: _ClassVar[int]
    PCM_FIELD_NUMBER: _ClassVar[int]
    track_id: str
    index: int
    start: int
    sample_rate: int
    channels: int
    num_samples: int
    stems: _containers.RepeatedScalarFieldContainer[str]
    gain: float
    crc32: int
    padding: bytes
    pcm: bytes
    def __init__(self, track_id: _Optional[str] = ..., index: _Optional[int] = ..., start: _Optional[int] = ..., sample_rate: _Optional[int] = ..., channels: _Optional[int] = ..., num_samples: _Optional[int] = ..., stems: _Optional[_Iterable[str]] = ..., gain: _Optional[float] = ..., crc32: _Optional[int] = ..., padding: _Optional[bytes] = ..., pcm: _Optional[bytes] = ...) -> None: ...
