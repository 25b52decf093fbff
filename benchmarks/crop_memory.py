"""The memory of one reader while it reads a corpus many times as large as what it may keep mapped."""

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

# What Python and its libraries may take beside the mapped shards: buffers, the manifest, arenas of the allocator.
_SLACK_BYTES = 64 * MIB

# LMDB reserves this much address space for a file, however small.
_LEAST_MAP_BYTES = 10 * MIB


@dataclass(frozen=True, kw_only=True)
class MemoryPoint:
    """What the kernel says of the reader at one moment, in bytes."""

    read: int
    """Payload read so far."""
    crops_per_second: float
    """Since the point before."""
    private: int
    """Resident minus shared: memory that only this process can have, and that cannot be dropped."""
    unique: int
    """USS: private, and pages of files that nobody else has mapped just now, which the kernel drops at need."""
    resident: int
    """All, pages of the memory map among them."""


def watch_reader(corpus: CropCorpus, *, open_shards: int, batch: int, seed: int) -> list[MemoryPoint]:
    """Read all of `corpus` in random order with `open_shards` shards mapped at most; a point for each twelfth.

    The reader is a process of its own whose address space is limited to what it has at the start, those shards and
    64 MiB, so that a reader that kept more would fail; that is a RuntimeError.
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
            "the reader ended before it had read the corpus; it needed more memory than it may"
        ) from None
    finally:
        process.join()
    return points


def _read_all(connection: Connection, corpus: CropCorpus, open_shards: int, batch: int, seed: int) -> None:
    mmap_cache.keep_open(open_shards)
    reader = ShardReader(corpus.shards)
    tracks, stems = reader.manifest.tracks, corpus.layout.stems
    crops = np.random.default_rng(seed).permutation(np.array(corpus.tour()))
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
    return max(mapped_limit(corpus, open_shards), open_shards * _LEAST_MAP_BYTES)


def mapped_limit(corpus: CropCorpus, open_shards: int) -> int:
    """The most bytes that `open_shards` shards of a corpus can be."""
    return sum(sorted(path.stat().st_size for path in corpus.shards.glob("*.lmdb"))[-open_shards:])


def _kib(file: str, field: str) -> int:
    """A field of /proc that is told in kB, as bytes."""
    line = next(line for line in Path(file).read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) * 1024
