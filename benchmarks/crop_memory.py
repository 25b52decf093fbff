"""Memory of one reader while it reads a corpus many times larger than its memory maps may be."""

import resource
import time
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np

from benchmarks.crop_corpus import CropCorpus
from cyclesep.data.shards import mmap_cache
from cyclesep.data.shards.reading import ShardReader

MIB = 2**20
_POINTS = 12

# Memory for Python and libraries in addition to the mapped shards: buffers, the manifest, allocator arenas.
_SLACK_BYTES = 64 * MIB

# Address space that LMDB reserves for a file of any size.
_MIN_MAP_BYTES = 10 * MIB


@dataclass(frozen=True, kw_only=True)
class MemoryPoint:
    """Memory of the reader at one moment as reported by the kernel, in bytes."""

    read: int
    """Payload read so far."""
    crops_per_second: float
    """Since the previous point."""
    private: int
    """Resident minus shared: memory of this process alone that cannot be dropped."""
    unique: int
    """USS: private memory and file pages that no other process has mapped, which the kernel can drop."""
    resident: int
    """All resident memory, including pages of memory maps."""


def watch_reader(corpus: CropCorpus, *, open_shards: int, batch: int, seed: int) -> list[MemoryPoint]:
    """Read all of `corpus` in random order with at most `open_shards` mapped shards; return a point per twelfth.

    The reader runs in a separate process whose address space is limited to its initial size plus these shards plus
    64 MiB. Raises RuntimeError if it needs more.
    """
    context = get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_read_all, args=(theirs, corpus, open_shards, batch, seed), daemon=True)
    process.start()
    theirs.close()
    try:
        points: list[MemoryPoint] = ours.recv()
    except EOFError:
        raise RuntimeError(
            "the reader ended before it had read the corpus; it needed more memory than its limit"
        ) from None
    finally:
        process.join()
    return points


def _read_all(connection: Connection, corpus: CropCorpus, open_shards: int, batch: int, seed: int) -> None:
    mmap_cache.mapped_shards.limit = open_shards
    reader = ShardReader(corpus.shards)
    tracks, stems = reader.manifest.tracks, corpus.layout.stems
    crops = np.random.default_rng(seed).permutation(np.array(corpus.covering_crops()))
    batches = np.array_split(crops, max(_POINTS, len(crops) // batch))
    out = corpus.empty(max(len(numbers) for numbers in batches))
    address_space = _kib("/proc/self/status", "VmSize:") + _address_limit(corpus, open_shards) + _SLACK_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (address_space, address_space))
    points: list[MemoryPoint] = []
    for part in np.array_split(np.arange(len(batches)), _POINTS):
        began, done = time.perf_counter(), 0
        for number in part:
            requests = [(tracks[track], int(start)) for track, start in batches[number]]
            reader.read_batch(out[: len(requests)], requests, stems)
            done += len(requests)
        crop_bytes = 2 * out[0].size
        points.append(
            MemoryPoint(
                read=(points[-1].read if points else 0) + done * crop_bytes,
                crops_per_second=done / (time.perf_counter() - began),
                private=_kib("/proc/self/status", "RssAnon:"),
                unique=_kib("/proc/self/smaps_rollup", "Private_Clean:")
                + _kib("/proc/self/smaps_rollup", "Private_Dirty:"),
                resident=_kib("/proc/self/status", "VmRSS:"),
            )
        )
    connection.send(points)


def _address_limit(corpus: CropCorpus, open_shards: int) -> int:
    return max(mapped_limit(corpus, open_shards), open_shards * _MIN_MAP_BYTES)


def mapped_limit(corpus: CropCorpus, open_shards: int) -> int:
    """Return the size in bytes of the `open_shards` largest shards of a corpus."""
    return sum(sorted(path.stat().st_size for path in corpus.shards.glob("*.lmdb"))[-open_shards:])


def _kib(file: str, field: str) -> int:
    """Read a field of /proc that is in kB, in bytes."""
    line = next(line for line in Path(file).read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) * 1024
