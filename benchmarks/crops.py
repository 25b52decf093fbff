"""Crops per second from a warm cache: shards, the notebook's loader, other libraries, audio files, memory map."""

import math
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

from annotated_types import Ge, Gt, MinLen

from benchmarks.crop_baselines import BASELINES, MEMMAP, NOTEBOOK, OURS, WAV, CropLoader
from benchmarks.crop_corpus import CropCorpus, CropLayout, Stem
from benchmarks.crop_memory import MIB, MemoryPoint, mapped_limit, watch_reader
from benchmarks.crop_peers import LITDATA, LITDATA_WINDOWS, MOSAICML, PEERS
from benchmarks.crop_readers import CropReader, reader_processes
from benchmarks.crop_songs import write_songs
from benchmarks.interleaving import interleaved, rate
from benchmarks.table import Row, Table

UNIT = "crops/s"

# Loaders that are measured with several processes; more would make the table too long.
_IN_PROCESSES = tuple(loader.name for loader in (NOTEBOOK, OURS, MEMMAP, WAV, MOSAICML, LITDATA, LITDATA_WINDOWS))


@dataclass(frozen=True, kw_only=True)
class WideLayout(CropLayout):
    """Full bandwidth and all stems."""

    sample_rate: Annotated[int, Ge(4000)] = 44100
    """Samples per second."""
    channels: Literal[1, 2] = 2
    """Channels of every stem."""
    stems: Annotated[tuple[Stem, ...], MinLen(1)] = ("mixture", "vocals", "drums", "bass", "other")
    """Stems of a track, all of them in every crop."""
    tracks: Annotated[int, Ge(1)] = 2
    """Number of tracks."""
    track_seconds: Annotated[float, Ge(2.0)] = 120.0
    """Length of a track; the notebook's record takes 1.8 MB per second, and several times that in memory."""


@dataclass(frozen=True, kw_only=True)
class MemoryLayout(CropLayout):
    """Many tracks, of which only a few may be mapped at a time."""

    tracks: Annotated[int, Ge(1)] = 40
    """Number of tracks."""


@dataclass(frozen=True, kw_only=True)
class CropsBenchmark:
    """Configuration of the crop benchmark."""

    tables: Annotated[tuple[Literal["narrow", "processes", "wide", "memory"], ...], MinLen(1)] = (
        "narrow",
        "processes",
        "wide",
        "memory",
    )
    """Tables to measure: two layouts in one process, the narrow one in several processes, memory of a reader."""
    narrow: CropLayout = field(default_factory=CropLayout)
    """The first table's corpus, also read by several processes."""
    wide: WideLayout = field(default_factory=WideLayout)
    """The second table's corpus."""
    memory: MemoryLayout = field(default_factory=MemoryLayout)
    """The corpus of the memory table."""
    memory_open_shards: Annotated[int, Ge(1)] = 4
    """Shards that the reader of the memory table keeps mapped; each track is one shard."""
    crop_seconds: Annotated[float, Gt(0.0)] = 1.0
    """Length of a crop."""
    batch: Annotated[int, Ge(1)] = 16
    """Crops per batch."""
    processes: tuple[Annotated[int, Ge(1)], ...] = (1, 2, 4)
    """Numbers of simultaneous reader processes."""
    rounds: Annotated[int, Ge(1)] = 9
    """Rounds in which all loaders take turns; the median is reported."""
    round_seconds: Annotated[float, Gt(0.0)] = 0.3
    """Minimum time of one loader in one round."""
    clock: Literal["wall", "cpu"] = "wall"
    """wall: crops per second. cpu: crops per second of CPU time, for a machine with other load; the table of several
    processes always uses wall time."""
    peers: bool = True
    """Also measure other libraries if they are installed (requirements-benchmark.txt)."""
    folder: str = ""
    """Folder for temporary corpora of several GiB; default: the system's temporary folder."""
    seed: Annotated[int, Ge(0)] = 0
    """Random seed of the crops."""


def run(config: CropsBenchmark) -> Sequence[Table]:
    """Measure all tables; temporary files are deleted."""
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
    loaders = _loaders(config)
    usable = _write(loaders, corpus)
    readers = {loader.name: CropReader(loader, corpus, batch=config.batch, seed=config.seed) for loader in usable}
    clock = {"wall": time.perf_counter, "cpu": time.process_time}[config.clock]
    measures = {name: partial(rate, reader.read, config.round_seconds, clock) for name, reader in readers.items()}
    rates = interleaved(measures, rounds=config.rounds)
    rows = [
        Row(
            method=loader.name,
            rate=rates.get(loader.name, math.nan),
            columns={
                "of memmap": rates.get(loader.name, math.nan) / rates[MEMMAP.name],
                "starts": f"not installed: {', '.join(loader.missing)}" if loader.missing else loader.starts,
            },
        )
        for loader in loaders
    ]
    return Table(
        title=f"{_title(config, corpus)}; one process",
        unit=UNIT if config.clock == "wall" else "crops/CPU s",
        baseline=NOTEBOOK.name,
        rows=tuple(sorted(rows, key=lambda row: -row.rate if row.rate > 0 else math.inf)),
    )


def _many_processes(config: CropsBenchmark, corpus: CropCorpus) -> Table:
    loaders = _write([loader for loader in _loaders(config) if loader.name in _IN_PROCESSES], corpus)
    count = max(config.processes, default=1)
    with reader_processes(loaders, corpus, count=count, batch=config.batch, seed=config.seed) as processes:
        measures = {
            _with_count(loader.name, count): partial(
                processes.rate, loader.name, count=count, seconds=config.round_seconds
            )
            for loader in loaders
            for count in config.processes
        }
        rates = interleaved(measures, rounds=config.rounds)
    fewest = min(config.processes)
    rows = [
        Row(
            method=_with_count(loader.name, count),
            rate=rates[_with_count(loader.name, count)],
            columns={f"of {fewest}": rates[_with_count(loader.name, count)] / rates[_with_count(loader.name, fewest)]},
        )
        for loader in loaders
        for count in config.processes
    ]
    return Table(
        title=f"{_title(config, corpus)}; several processes at once",
        unit=UNIT,
        baseline=_with_count(NOTEBOOK.name, fewest),
        rows=tuple(rows),
    )


def _memory(config: CropsBenchmark, corpus: CropCorpus) -> Table:
    """Measure the memory of a reader that reads far more than it keeps mapped."""
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
    return Row(method=_after(point), rate=point.crops_per_second, columns=columns)


def _after(point: MemoryPoint) -> str:
    return f"after {point.read / MIB:.0f} MiB"


def _loaders(config: CropsBenchmark) -> tuple[CropLoader, ...]:
    return (*BASELINES, *PEERS) if config.peers else BASELINES


def _write(loaders: Sequence[CropLoader], corpus: CropCorpus) -> list[CropLoader]:
    """Write the files of each loader and return the loaders that can be used here."""
    usable = [loader for loader in loaders if not loader.missing]
    for loader in usable:
        if loader.write is not None:
            loader.write(corpus)
    return usable


def _with_count(loader: str, count: int) -> str:
    return f"{loader} x {count}"


def _title(config: CropsBenchmark, corpus: CropCorpus) -> str:
    return f"crops of {config.crop_seconds:g} s: {corpus.layout.title}; batches of {config.batch}"
