"""Files that were cut off, as interrupted downloads are: what they promise against what is there."""

import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from cyclesep.errors import AudioError

# Some encoders count silent frames at the ends of an mp3 and others do not.
_MP3_SLACK_SECONDS = 1.0
# Some programs count the header of a wav as audio.
_WAV_SLACK_BYTES = 128
# What is written into a pipe has no length yet: FFmpeg promises 2**32 - 1 bytes, others nothing, sox and arecord 2 GiB.
_UNKNOWN_SIZES = (range(1), range(0x7FFF0000, 0x80000001), range(0xFFFF0000, 0x100000000))
# The largest page of an Ogg stream has 65,307 bytes (RFC 3533): the last one lies within twice as many.
_OGG_TAIL = 2 * 65307
_OGG_END_OF_STREAM = 4


def refuse_cut_off(path: Path, *, num_samples: int, sample_rate: int) -> None:
    """Raise AudioError if a wav, aiff, ogg or mp3 file promises more than the `num_samples` that are there.

    Nothing is promised by a wav that was written into a pipe, nor by an mp3 without a Xing, Info or VBRI header
    (the "MP3 Info Tag", and Fraunhofer's).
    """
    with path.open("rb") as file:
        magic = file.read(4)
        if magic == b"OggS":
            _refuse_endless(file, path)
            return
        if magic in (b"RIFF", b"RF64", b"FORM"):
            declared, there = _data_sizes(file, magic)
            whole = there + _WAV_SLACK_BYTES >= declared
            promised = num_samples * declared / max(1, there)
        else:
            promised = float(_mp3_samples(file))
            whole = promised <= num_samples + _MP3_SLACK_SECONDS * sample_rate
    if not whole:
        raise AudioError(
            f"{path}: is cut off: its header promises {promised / sample_rate:.1f} s and "
            f"{num_samples / sample_rate:.1f} s are there; copy it again"
        )


def is_mp3(path: Path) -> bool:
    """Whether a file begins like an mp3: with an ID3 tag or none, and an MPEG frame of layer III."""
    with path.open("rb") as file:
        return bool(_first_mp3_frame(file))


def _refuse_endless(file: BinaryIO, path: Path) -> None:
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - _OGG_TAIL))
    tail = file.read()
    last = tail.rfind(b"OggS\0")
    if last >= 0 and not (tail[last + 5 : last + 6] or b"\0")[0] & _OGG_END_OF_STREAM:
        raise AudioError(f"{path}: is cut off: the page that ends an Ogg stream is missing; copy it again")


def _data_sizes(file: BinaryIO, magic: bytes) -> tuple[int, int]:
    """Bytes of audio that a wav or aiff declares and those that are there; (0, 0) where it declares none."""
    size = file.seek(0, os.SEEK_END)
    long_size = 0
    for name, begin, declared in _chunks(file, ">" if magic == b"FORM" else "<"):
        if name == b"ds64":
            # RF64 (EBU Tech 3306): sizes of the whole and of the data, for what 32 bits do not hold.
            (long_size,) = struct.unpack("<8xQ", file.read(16).ljust(16, b"\0"))
        if name in (b"data", b"SSND"):
            if magic == b"RF64" and declared == 0xFFFFFFFF:
                declared = long_size
            known = not any(declared in sizes for sizes in _UNKNOWN_SIZES)
            return (declared, min(declared, size - begin)) if known else (0, 0)
    return 0, 0


def _chunks(file: BinaryIO, order: str) -> Iterator[tuple[bytes, int, int]]:
    """(name, first byte, declared bytes) of each chunk; `file` stands at the first byte."""
    begin = 12
    while file.seek(begin) and len(header := file.read(8)) == 8:
        name, declared = struct.unpack(f"{order}4sI", header)
        yield name, begin + 8, declared
        begin += 8 + declared + declared % 2


def _mp3_samples(file: BinaryIO) -> int:
    """Samples that the first frame of an mp3 promises, 0 if it is no mp3 or promises nothing."""
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
    """The beginning of the first frame, behind ID3 tags; nothing if it is not of MPEG audio, layer III."""
    begin = 0
    file.seek(0)
    while (tag := file.read(10))[:3] == b"ID3" and len(tag) == 10:
        # Seven bits a byte; a footer repeats the header.
        length = sum((byte & 0x7F) << 7 * place for place, byte in enumerate(reversed(tag[6:10])))
        begin += 10 + length + (10 if tag[5] & 0x10 else 0)
        file.seek(begin)
    file.seek(begin)
    frame = file.read(64)
    layer_3 = len(frame) == 64 and frame[0] == 0xFF and frame[1] & 0xE6 == 0xE2
    return frame if layer_3 else b""
