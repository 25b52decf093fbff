"""Detection of truncated files, such as interrupted downloads, by comparing declared and actual length."""

import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from cyclesep.errors import AudioError

# Some mp3 encoders count silent frames at the ends, others do not.
_MP3_TOLERANCE_SECONDS = 1.0
# Some programs count the header of a wav as audio.
_WAV_TOLERANCE_BYTES = 128
# Lengths that programs write to a pipe, where the length is not known yet: FFmpeg 2**32 - 1, others 0, sox and arecord
# 2 GiB.
_UNKNOWN_SIZES = (range(1), range(0x7FFF0000, 0x80000001), range(0xFFFF0000, 0x100000000))
# The largest page of an Ogg stream has 65,307 bytes (RFC 3533), so the last one starts within twice as many.
_OGG_TAIL = 2 * 65307
_OGG_END_OF_STREAM = 4


def check_not_truncated(path: Path, *, num_samples: int, sample_rate: int) -> None:
    """Raise AudioError if a wav, aiff, ogg or mp3 file declares more than the `num_samples` that it contains.

    A wav that was written to a pipe and an mp3 without a Xing, Info or VBRI header (the "MP3 Info Tag", and
    Fraunhofer's) declare no length.
    """
    with path.open("rb") as file:
        magic = file.read(4)
        if magic == b"OggS":
            _check_ogg(file, path)
            return
        if magic in (b"RIFF", b"RF64", b"FORM"):
            declared, actual = _data_sizes(file, magic)
            is_complete = actual + _WAV_TOLERANCE_BYTES >= declared
            declared_samples = num_samples * declared / max(1, actual)
        else:
            declared_samples = float(_mp3_samples(file))
            is_complete = declared_samples <= num_samples + _MP3_TOLERANCE_SECONDS * sample_rate
    if not is_complete:
        raise AudioError(
            f"{path}: truncated: its header declares {declared_samples / sample_rate:.1f} s, "
            f"the file contains {num_samples / sample_rate:.1f} s; copy it again"
        )


def is_mp3(path: Path) -> bool:
    """Return whether a file starts like an mp3: optional ID3 tags, then an MPEG frame of layer III."""
    with path.open("rb") as file:
        return bool(_first_mp3_frame(file))


def _check_ogg(file: BinaryIO, path: Path) -> None:
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - _OGG_TAIL))
    tail = file.read()
    last = tail.rfind(b"OggS\0")
    if last >= 0 and not (tail[last + 5 : last + 6] or b"\0")[0] & _OGG_END_OF_STREAM:
        raise AudioError(f"{path}: truncated: the last page of the Ogg stream is missing; copy it again")


def _data_sizes(file: BinaryIO, magic: bytes) -> tuple[int, int]:
    """Return the bytes of audio that a wav or aiff declares and contains; (0, 0) if it declares none."""
    size = file.seek(0, os.SEEK_END)
    long_size = 0
    for name, begin, declared in _chunks(file, ">" if magic == b"FORM" else "<"):
        if name == b"ds64":
            # RF64 (EBU Tech 3306): 64-bit sizes of the file and of the data.
            (long_size,) = struct.unpack("<8xQ", file.read(16).ljust(16, b"\0"))
        if name in (b"data", b"SSND"):
            if magic == b"RF64" and declared == 0xFFFFFFFF:
                declared = long_size
            known = not any(declared in sizes for sizes in _UNKNOWN_SIZES)
            return (declared, min(declared, size - begin)) if known else (0, 0)
    return 0, 0


def _chunks(file: BinaryIO, order: str) -> Iterator[tuple[bytes, int, int]]:
    """Yield (name, first byte, declared bytes) of each chunk, with `file` positioned at the first byte."""
    begin = 12
    while file.seek(begin) and len(header := file.read(8)) == 8:
        name, declared = struct.unpack(f"{order}4sI", header)
        yield name, begin + 8, declared
        begin += 8 + declared + declared % 2


def _mp3_samples(file: BinaryIO) -> int:
    """Return the samples declared in the first frame of an mp3, 0 if there are none or it is not an mp3."""
    frame = _first_mp3_frame(file)
    if not frame:
        return 0
    version_1, mono = frame[1] & 0x08, frame[3] & 0xC0 == 0xC0
    side_information = (17 if mono else 32) if version_1 else (9 if mono else 17)
    xing = frame[4 + side_information :]
    count = b""
    if xing[:4] in (b"Xing", b"Info") and xing[7] & 1:
        count = xing[8:12]
    elif frame[36:40] == b"VBRI":
        count = frame[50:54]
    return int.from_bytes(count, "big") * (1152 if version_1 else 576)


def _first_mp3_frame(file: BinaryIO) -> bytes:
    """Return the start of the first frame after ID3 tags; empty if it is not MPEG audio layer III."""
    begin = 0
    file.seek(0)
    while (tag := file.read(10))[:3] == b"ID3" and len(tag) == 10:
        # Seven bits per byte; a footer repeats the header.
        length = sum((byte & 0x7F) << 7 * place for place, byte in enumerate(reversed(tag[6:10])))
        begin += 10 + length + (10 if tag[5] & 0x10 else 0)
        file.seek(begin)
    file.seek(begin)
    frame = file.read(64)
    layer_3 = len(frame) == 64 and frame[0] == 0xFF and frame[1] & 0xE6 == 0xE2
    return frame if layer_3 else b""
