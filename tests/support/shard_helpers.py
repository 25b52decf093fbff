"""Small corpora of random PCM16, and files for the shard cache."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np

from cyclesep.data.shards.cache import ShardCache
from cyclesep.data.shards.manifest import ShardFile, make_manifest, write_manifest
from cyclesep.data.shards.writing import write_track

SAMPLE_RATE = 1000
SEGMENT = 400
"""Samples in a segment."""
STEMS = ("mixture", "vocals", "drums")
BYTES_PER_SEGMENT = SEGMENT * 2 * len(STEMS) * 2
"""Payload of a stereo segment."""

FILE_SIZE = 20_000


def random_pcm(seed: int, num_samples: int, channels: int = 2) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.integers(-32768, 32768, (len(STEMS), channels, num_samples), dtype=np.int16)


def write_corpus(folder: Path, lengths: tuple[int, ...] = (1234, 400, 37), **options: Any) -> list[np.ndarray]:
    """Write training tracks with these numbers of samples; return their PCM16 `(stems, channels, time)`."""
    pcm = [random_pcm(number, length) for number, length in enumerate(lengths)]
    records = [
        write_track(
            folder,
            dict(zip(STEMS, samples.astype(np.float32) / 32768, strict=True)),
            track_id=f"Track {number}",
            split="train",
            sample_rate=SAMPLE_RATE,
            segment_samples=SEGMENT,
            **options,
        )
        for number, samples in enumerate(pcm)
    ]
    write_manifest(folder, make_manifest(records))
    return pcm


def flip_bit(path: Path, bit: int) -> None:
    """Replace a file by a copy with one flipped bit."""
    content = bytearray(path.read_bytes())
    content[bit // 8] ^= 1 << bit % 8
    path.unlink()
    path.write_bytes(content)


def file_content(number: int, size: int = FILE_SIZE) -> bytes:
    return (hashlib.sha256(str(number).encode()).digest() * (size // 32 + 1))[:size]


def file_description(number: int, size: int = FILE_SIZE) -> ShardFile:
    """Describe a file of `file_content` for the cache, which uses only size and hash."""
    sha256 = hashlib.sha256(file_content(number, size)).hexdigest()
    return ShardFile(
        name=f"track-{number}.lmdb", bytes=size, sha256=sha256, first_segment=0, records=((0, 1),), index_crc32=0
    )


def fetch(cache: ShardCache, item: tuple[str, ShardFile]) -> bytes:
    """Return the content of a file in the cache."""
    with cache.local_path(*item) as path:
        return path.read_bytes()
