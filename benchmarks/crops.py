"""Crops per second from warm cache: shards beside the seed's way, other loaders, audio files and a memory map."""

import math
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

from annotated_types import Ge, Gt, MinLen

from benchmarks.crop_baselines import MEMMAP, OURS, OWN_WAYS, SEED, WAV, Way
from benchmarks.crop_corpus import CropCorpus, CropLayout, Stem
from benchmarks.crop_memory import MIB, MemoryPoint, mapped_limit, watch_reader
from benchmarks.crop_peers import LITDATA, LITDATA_WINDOWS, MOSAICML, PEERS
from benchmarks.crop_readers import CropReader, reader_processes
from benchmarks.crop_songs import write_songs
from benchmarks.interleaving import interleaved, rate
from benchmarks.table import Row, Table

UNIT = "crops/s"

# What several processes read by; the other ways would only make the table long.
_IN_PROCESSES = tuple(way.name for way in (SEED, OURS, MEMMAP, WAV, MOSAICML, LITDATA, LITDATA_WINDOWS))


@dataclass(frozen=True, kw_only=True)
class WideLayout(CropLayout):
    """Full bandwidth, all stems."""

    sample_rate: Annotated[int, Ge(4000)] = 44100
    """Samples per second."""
    channels: Literal[1, 2] = 2
    """Channels of every stem."""
    stems: Annotated[tuple[Stem, ...], MinLen(1)] = ("mixture", "vocals", "drums", "bass", "other")
    """Stems of a track, all of which are in every crop."""
    tracks: Annotated[int, Ge(1)] = 2
    """Number of tracks."""
    track_seconds: Annotated[float, Ge(2.0)] = 120.0
    """Length of a track; the seed's record of one takes 1.8 MB a second, and several times that in memory."""


@dataclass(frozen=True, kw_only=True)
class MemoryLayout(CropLayout):
    """Many tracks, of which few may be mapped at once."""

    tracks: Annotated[int, Ge(1)] = 40
    """Number of tracks."""


@dataclass(frozen=True, kw_only=True)
class CropsBenchmark:
    """Which crops are read, and for how long."""

    tables: Annotated[tuple[Literal["narrow", "processes", "wide", "memory"], ...], MinLen(1)] = (
        "narrow",
        "processes",
        "wide",
        "memory",
    )
    """What is measured: two layouts in one process, the narrow one in several processes, and the memory of a reader."""
    narrow: CropLayout = field(default_factory=CropLayout)
    """The first table's corpus, also read by several processes."""
    wide: WideLayout = field(default_factory=WideLayout)
    """The second table's corpus."""
    memory: MemoryLayout = field(default_factory=MemoryLayout)
    """The corpus that a reader with little memory reads."""
    memory_open_shards: Annotated[int, Ge(1)] = 4
    """Shards that this reader keeps mapped; each of its tracks is one."""
    crop_seconds: Annotated[float, Gt(0.0)] = 1.0
    """Length of a crop."""
    batch: Annotated[int, Ge(1)] = 16
    """Crops read by one call, where there is such a call."""
    processes: tuple[Annotated[int, Ge(1)], ...] = (1, 2, 4)
    """Numbers of processes that read at the same time."""
    rounds: Annotated[int, Ge(1)] = 9
    """Rounds in which all ways take turns; the median counts."""
    round_seconds: Annotated[float, Gt(0.0)] = 0.3
    """Shortest time of one way in one round."""
    clock: Literal["wall", "cpu"] = "wall"
    """wall: crops per second. cpu: crops per second that one process computes, on a machine with other work too; the
    table of several processes goes by the wall all the same."""
    peers: bool = True
    """Measure other libraries as well, where they are installed: requirements-benchmark.txt names them."""
    folder: str = ""
    """Where the corpora are written for the while, several GiB; by default where the system keeps temporary files."""
    seed: Annotated[int, Ge(0)] = 0
    """Which crops are drawn."""


def run(config: CropsBenchmark) -> Sequence[Table]:
    """Measure everything; what is written on the way is deleted in the end."""
    measures = {
        "narrow": (config.narrow, _one_process),
        "processes": (config.narrow, _many_processes),
        "wide": (config.wide, _one_process),
        "memory": (config.memory, _memory),
    }
    tables = []
    for name in config.tables:
        layout, measure = measures[name]
        with tempfile.TemporaryDirectory(prefix="cyclesep-crops-", dir=config.folder or None) as folder:
            corpus = CropCorpus(folder=Path(folder), layout=layout, crop_seconds=config.crop_seconds)
            write_songs(corpus)
            tables.append(measure(config, corpus))
    return tables


def _one_process(config: CropsBenchmark, corpus: CropCorpus) -> Table:
    ways = _ways(config)
    usable = _write(ways, corpus)
    readers = {way.name: CropReader(way, corpus, batch=config.batch, seed=config.seed) for way in usable}
    clock = {"wall": time.perf_counter, "cpu": time.process_time}[config.clock]
    measures = {name: partial(rate, reader.read, config.round_seconds, clock) for name, reader in readers.items()}
    rates = interleaved(measures, rounds=config.rounds)
    rows = [
        Row(
            way=way.name,
            rate=rates.get(way.name, math.nan),
            columns={
                "of memmap": rates.get(way.name, math.nan) / rates[MEMMAP.name],
                "starts": f"not installed: {', '.join(way.missing)}" if way.missing else way.starts,
            },
        )
        for way in ways
    ]
    return Table(
        title=f"{_title(config, corpus)}; one process",
        unit=UNIT if config.clock == "wall" else "crops/CPU s",
        baseline=SEED.name,
        rows=tuple(sorted(rows, key=lambda row: -row.rate if row.rate > 0 else math.inf)),
    )


def _many_processes(config: CropsBenchmark, corpus: CropCorpus) -> Table:
    ways = _write([way for way in _ways(config) if way.name in _IN_PROCESSES], corpus)
    count = max(config.processes, default=1)
    with reader_processes(ways, corpus, count=count, batch=config.batch, seed=config.seed) as processes:
        measures = {
            _with_count(way.name, count): partial(processes.rate, way.name, count=count, seconds=config.round_seconds)
            for way in ways
            for count in config.processes
        }
        rates = interleaved(measures, rounds=config.rounds)
    fewest = min(config.processes)
    rows = [
        Row(
            way=_with_count(way.name, count),
            rate=rates[_with_count(way.name, count)],
            columns={f"of {fewest}": rates[_with_count(way.name, count)] / rates[_with_count(way.name, fewest)]},
        )
        for way in ways
        for count in config.processes
    ]
    return Table(
        title=f"{_title(config, corpus)}; several processes at once",
        unit=UNIT,
        baseline=_with_count(SEED.name, fewest),
        rows=tuple(rows),
    )


def _memory(config: CropsBenchmark, corpus: CropCorpus) -> Table:
    """The curve of one reader that reads far more than it may keep mapped."""
    count = config.memory_open_shards
    points = watch_reader(corpus, open_shards=count, batch=config.batch, seed=config.seed)
    highest = max(point.resident for point in points)
    return Table(
        title=(
            f"memory of one reader: a corpus of {mapped_limit(corpus, corpus.layout.tracks) / MIB:.0f} MiB, at most "
            f"{count} shards or {mapped_limit(corpus, count) / MIB:.0f} MiB mapped "
            "(# resident minus shared, - all resident)"
        ),
        unit=UNIT,
        baseline=_after(points[0]),
        rows=tuple(_memory_row(point, highest) for point in points),
    )


def _memory_row(point: MemoryPoint, highest: int) -> Row:
    columns: dict[str, float | str] = {
        "resident - shared MiB": point.private / MIB,
        "USS MiB": point.unique / MIB,
        "resident MiB": point.resident / MIB,
        "curve": ("#" * round(24 * point.private / highest)).ljust(round(24 * point.resident / highest), "-"),
    }
    return Row(way=_after(point), rate=point.crops_per_second, columns=columns)


def _after(point: MemoryPoint) -> str:
    return f"after {point.read / MIB:.0f} MiB"


def _ways(config: CropsBenchmark) -> tuple[Way, ...]:
    return (*OWN_WAYS, *PEERS) if config.peers else OWN_WAYS


def _write(ways: Sequence[Way], corpus: CropCorpus) -> list[Way]:
    """Write what each way reads; gives those that can be used here."""
    usable = [way for way in ways if not way.missing]
    for way in usable:
        if way.write is not None:
            way.write(corpus)
    return usable


def _with_count(way: str, count: int) -> str:
    return f"{way} x {count}"


def _title(config: CropsBenchmark, corpus: CropCorpus) -> str:
    return f"crops of {config.crop_seconds:g} s: {corpus.layout.title}; batches of {config.batch}"
