"""Readers: a loader that is opened and warmed up in this process, and several reader processes."""

import itertools
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection

import numpy as np

from benchmarks.crop_baselines import ANYWHERE, IN_FILE_ORDER, PRECUT, CropLoader
from benchmarks.crop_corpus import Crop, CropCorpus
from benchmarks.interleaving import rate

# Enough to read everything, except for loaders that parse whole songs; these are warm after one crop of each song.
_WARM_SECONDS = 3.0

# Batches that are drawn before timing starts and used in turn.
_BATCHES = 64


class CropReader:
    """A loader opened in this process, with its files in memory and its crops drawn in advance."""

    def __init__(self, loader: CropLoader, corpus: CropCorpus, *, batch: int, seed: int) -> None:
        """Raises RuntimeError if the loader returns other samples than were written; rates would not be comparable."""
        rng = np.random.default_rng(seed)
        self._fill = loader.open(corpus)
        self._out = corpus.empty(batch)
        self._batch = batch
        self._check(loader, corpus)
        self._warm_up(corpus)
        self._draws = itertools.cycle([corpus.draw(batch, rng) for _ in range(_BATCHES)])

    def read(self) -> int:
        """Fill the next batch and return its number of crops."""
        self._fill(self._out, next(self._draws))
        return self._batch

    def _check(self, loader: CropLoader, corpus: CropCorpus) -> None:
        crops = _crops_to_check(loader, corpus, self._batch)
        self._fill(self._out, crops)
        if loader.returns_float32 and not corpus.matches(self._out, crops):
            raise RuntimeError(f"{loader.name}: returns other samples than were written")

    def _warm_up(self, corpus: CropCorpus) -> None:
        crops = itertools.cycle(corpus.covering_crops())
        began = time.perf_counter()
        for _ in range(-(-corpus.layout.tracks * corpus.crops_per_track // self._batch)):
            self._fill(self._out, list(itertools.islice(crops, self._batch)))
            if time.perf_counter() - began > _WARM_SECONDS:
                break


def _crops_to_check(loader: CropLoader, corpus: CropCorpus, batch: int) -> list[Crop]:
    if loader.starts == IN_FILE_ORDER:
        return list(itertools.islice(itertools.cycle(corpus.in_file_order()), batch))
    crops = corpus.draw(batch, np.random.default_rng(0))
    if loader.starts == PRECUT:
        last = (corpus.crops_per_track - 1) * corpus.crop_samples
        return [(track, min(start // corpus.crop_samples * corpus.crop_samples, last)) for track, start in crops]
    assert loader.starts == ANYWHERE
    # Include the first and the last crop of a track.
    return [(0, 0), (0, corpus.track_samples - corpus.crop_samples), *crops][:batch]


@dataclass(frozen=True, kw_only=True)
class ReaderProcesses:
    """Processes that each open the loaders and read on request."""

    connections: tuple[Connection, ...]

    def rate(self, loader: str, *, count: int, seconds: float) -> float:
        """Return the total crops per second of `count` processes that read with `loader` at the same time."""
        chosen = self.connections[:count]
        for connection in chosen:
            connection.send((loader, seconds))
        return sum(_answer(connection) for connection in chosen)

    def wait(self) -> None:
        """Wait until every process has opened and warmed up its files."""
        for connection in self.connections:
            _answer(connection)


@contextmanager
def reader_processes(
    loaders: Sequence[CropLoader], corpus: CropCorpus, *, count: int, batch: int, seed: int
) -> Iterator[ReaderProcesses]:
    """Start `count` processes, as a training job starts its data loaders; they end with the block."""
    context = get_context("forkserver")
    ends = [context.Pipe() for _ in range(count)]
    processes = [
        context.Process(target=_serve, args=(end, loaders, corpus, batch, seed + number), daemon=True)
        for number, (_, end) in enumerate(ends)
    ]
    try:
        for process, (_, end) in zip(processes, ends, strict=True):
            process.start()
            end.close()
        readers = ReaderProcesses(connections=tuple(connection for connection, _ in ends))
        readers.wait()
        yield readers
    finally:
        for process, (connection, _) in zip(processes, ends, strict=True):
            connection.close()
            if process.pid is not None:
                process.join()


def _answer(connection: Connection) -> float:
    try:
        answer: float = connection.recv()
        return answer
    except EOFError:
        raise RuntimeError("a reader process ended early; see its output") from None


def _serve(connection: Connection, loaders: Sequence[CropLoader], corpus: CropCorpus, batch: int, seed: int) -> None:
    readers = {loader.name: CropReader(loader, corpus, batch=batch, seed=seed) for loader in loaders}
    connection.send(0.0)
    try:
        while True:
            loader, seconds = connection.recv()
            connection.send(rate(readers[loader].read, seconds))
    except EOFError:
        return
