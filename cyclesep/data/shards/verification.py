"""Verify corpora: compare every byte of every shard with the manifest, in parallel, and list all damage."""

import functools
import hashlib
import os
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rich.progress import DownloadColumn, TransferSpeedColumn

from cyclesep.console.progress_bar import LiveBar, TimeColumn
from cyclesep.data.shards import segments
from cyclesep.data.shards.cache import ShardCache
from cyclesep.data.shards.manifest import ShardFile, ShardManifest, TrackRecord
from cyclesep.data.shards.mmap_cache import mapped_shards
from cyclesep.data.shards.reading import ShardReader
from cyclesep.errors import CyclesepError, ShardError

REMEDY = "delete these files and run the same ingest again; it converts only their tracks"

_Advance = Callable[[int], object]
_Fault = tuple[int | None, str]  # segment, or None for the whole file, and reason


@dataclass(frozen=True, kw_only=True)
class Damage:
    """Damage of one shard with one reason."""

    shard: str
    """Path or URI of the file."""
    track_id: str
    segments: tuple[int, ...]
    """Damaged segments of the track; empty if the reason concerns the whole file."""
    reason: str

    def __str__(self) -> str:
        where = f", {_ranges(self.segments)}" if self.segments else ""
        return f"{self.shard}: shard of track {self.track_id!r}{where}: {self.reason}"


@dataclass(frozen=True, kw_only=True)
class Verification:
    """Result of the check of one corpus."""

    folder: str
    manifest: ShardManifest
    damage: tuple[Damage, ...]
    seconds: float
    num_threads: int

    @property
    def shards(self) -> tuple[ShardFile, ...]:
        """All files listed in the manifest."""
        return tuple(shard for track in self.manifest.tracks for shard in track.shards)

    @property
    def num_damaged(self) -> int:
        """Number of damaged files."""
        return len({damage.shard for damage in self.damage})

    def summary(self) -> str:
        """Return a summary for the terminal, or one line for each damage."""
        if self.damage:
            return "\n".join(f"damaged: {damage}" for damage in self.damage)
        manifest, num_bytes = self.manifest, sum(shard.bytes for shard in self.shards)
        counts = ", ".join(f"{len(manifest.split(split))} {split}" for split in ("train", "valid", "test"))
        num_segments = sum(shard.num_segments for shard in self.shards)
        rows = {
            "tracks": f"{len(manifest.tracks)} ({counts}), {manifest.hours * 60:.1f} minutes",
            "audio": f"{manifest.sample_rate} Hz, {manifest.channels} channels, stems {', '.join(manifest.stems)}",
            "manifest": f"format {manifest.version}, checksum matches, digest {manifest.digest[:16]}",
            "shards": f"{len(self.shards)} files, {num_bytes / 1e6:,.1f} MB; all sizes, indices and SHA-256 match",
            "segments": f"{num_segments} records; all headers and checksums match, and LMDB finds each",
            "speed": f"{num_bytes / 1e6 / max(self.seconds, 1e-9):,.0f} MB/s, {self.num_threads} threads, "
            f"{self.seconds:.1f} s",
        }
        return "\n".join([f"{self.folder}: OK", *(f"  {name:<9} {text}" for name, text in rows.items())])


def verify(folder: Path | str, *, num_threads: int | None = None) -> ShardManifest:
    """Check every byte of a corpus and return its manifest; raise ShardError that lists all damage."""
    result = check(folder, num_threads=num_threads)
    if result.damage:
        raise ShardError(f"{'; '.join(map(str, result.damage))}; {REMEDY}")
    return result.manifest


def check(folder: Path | str, *, num_threads: int | None = None) -> Verification:
    """Check every byte of a corpus: manifest, sizes, SHA-256, LMDB's tree, each record's header and checksum.

    Draws a progress bar in a terminal. Raises ShardError if the manifest is missing, damaged or has another version;
    damage in shards is part of the result.
    """
    started = time.monotonic()
    reader = ShardReader(folder)
    shards = [(track, shard) for track in reader.manifest.tracks for shard in track.shards]
    threads = min(num_threads or _num_cores(), len(shards))
    figures = (DownloadColumn(), TransferSpeedColumn(), TimeColumn())
    with (
        LiveBar(*figures, transient=True) as bar,
        _uncached(reader, threads) as reader,
        ThreadPoolExecutor(threads) as pool,
    ):
        task = bar.add_task("verify", total=sum(shard.bytes for _, shard in shards))
        advance = functools.partial(bar.advance, task)
        damage = list(pool.map(lambda item: _shard_damage(reader, item[0], item[1], advance), shards))
    return Verification(
        folder=str(folder),
        manifest=reader.manifest,
        damage=tuple(one for many in damage for one in many),
        seconds=time.monotonic() - started,
        num_threads=threads,
    )


@contextmanager
def _uncached(reader: ShardReader, num_threads: int) -> Iterator[ShardReader]:
    """Yield a reader that bypasses this machine's cache, with temporary space for a few shards."""
    if not reader.is_remote:
        yield reader
        return
    largest = max(shard.bytes for track in reader.manifest.tracks for shard in track.shards)
    with tempfile.TemporaryDirectory(prefix="cyclesep-verify-") as folder:
        yield ShardReader(reader.folder, cache=ShardCache(Path(folder), limit_bytes=2 * num_threads * largest))
    # Deleted files occupy space as long as they are mapped.
    mapped_shards.close_removed()


def _num_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _shard_damage(reader: ShardReader, track: TrackRecord, shard: ShardFile, advance: _Advance) -> list[Damage]:
    """Return all damage of one shard; the reader, and so LMDB, opens only files with correct bytes."""
    try:
        with reader.local_path(shard) as path:
            faults = _byte_faults(path, track, shard, advance)
        faults = faults or _reader_faults(reader, track, shard)
    except OSError as problem:
        faults = [(None, f"it cannot be read ({problem.strerror})")]
    except CyclesepError as problem:
        faults = [(None, str(problem))]
    uri = f"{reader.folder}/{shard.name}"
    return [
        Damage(shard=uri, track_id=track.track_id, segments=numbers, reason=reason)
        for reason, numbers in _by_reason(faults).items()
    ]


def _byte_faults(path: Path, track: TrackRecord, shard: ShardFile, advance: _Advance) -> list[_Fault]:
    """Return faults of a file as (segment, or None for the whole file, reason), found in one pass of plain reads.

    A bad sector is an error in a plain read, but it kills the process in a memory map.
    """
    faults: list[_Fault] = []
    sha256, index_crc32 = hashlib.sha256(), 0
    with path.open("rb", buffering=0) as file:
        size = os.fstat(file.fileno()).st_size
        if size != shard.bytes:
            faults.append((None, f"it has {size} bytes, the manifest declares {shard.bytes}"))
        for segment, offset, length in _regions(shard):
            try:
                piece = _read(file.fileno(), offset, length)
            except OSError as problem:
                faults.append((segment, f"it cannot be read ({problem.strerror})"))
                continue
            sha256.update(piece)
            if segment is None:
                index_crc32 = zlib.crc32(piece, index_crc32)
            elif len(piece) < length:
                faults.append((segment, "its record exceeds the file"))
            elif fault := segments.find_fault(track, segment, piece):
                faults.append((segment, fault))
            advance(length)
    if size == shard.bytes and index_crc32 != shard.index_crc32:
        faults.append((None, "its index is damaged"))
    if not faults and sha256.hexdigest() != shard.sha256:
        faults.append((None, "its SHA-256 does not match"))
    return faults


def _regions(shard: ShardFile) -> Iterator[tuple[int | None, int, int]]:
    """Yield consecutive regions of the file as (segment, or None for LMDB's tree, offset, bytes)."""
    position = 0
    for (offset, length), number in sorted((record, number) for number, record in enumerate(shard.records)):
        yield None, position, offset - position
        yield shard.first_segment + number, offset, length
        position = offset + length
    yield None, position, max(0, shard.bytes - position)


def _read(descriptor: int, offset: int, length: int) -> memoryview:
    """Read `length` bytes from `offset`, fewer at the end of the file."""
    content = memoryview(bytearray(length))
    filled = 0
    while filled < length:
        count = os.preadv(descriptor, [content[filled:]], offset + filled)
        if count == 0:
            break
        filled += count
    return content[:filled]


def _reader_faults(reader: ShardReader, track: TrackRecord, shard: ShardFile) -> list[_Fault]:
    """Return errors from reading each segment through LMDB's tree, in a file whose bytes are correct."""
    faults: list[_Fault] = []
    for segment in range(shard.first_segment, shard.first_segment + shard.num_segments):
        try:
            reader.read(track, track.stems[:1], segment * track.segment_samples, 1)
        except ShardError as problem:
            faults.append((segment, f"the reader reports an error ({problem})"))
    return faults


def _by_reason(faults: Sequence[_Fault]) -> dict[str, tuple[int, ...]]:
    """Return the segments of each reason, ascending."""
    grouped: dict[str, list[int]] = {}
    for segment, reason in faults:
        grouped.setdefault(reason, []).extend([] if segment is None else [segment])
    return {reason: tuple(sorted(numbers)) for reason, numbers in grouped.items()}


def _ranges(numbers: Sequence[int]) -> str:
    """Format ascending numbers as `segment 3` or `segments 3, 5-9`."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and runs[-1][-1] == number - 1:
            runs[-1][1:] = [number]
        else:
            runs.append([number])
    return ("segment " if len(numbers) == 1 else "segments ") + ", ".join("-".join(map(str, run)) for run in runs)
