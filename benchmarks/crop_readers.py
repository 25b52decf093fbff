"""Readers at work: a way opened and warm in this process, and several processes of readers at once."""

import itertools
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection

import numpy as np

from benchmarks.crop_baselines import ANYWHERE, CUT_IN_ADVANCE, IN_FILE_ORDER, Way
from benchmarks.crop_corpus import Crop, CropCorpus
from benchmarks.interleaving import rate

# Enough to touch all there is, but for ways that parse whole songs; those are as warm after one crop of each.
_WARM_SECONDS = 3.0

# Batches drawn before the clock starts, and taken in turn.
_BATCHES = 64


class CropReader:
    """One way, opened in this process, with its files in memory and its crops drawn in advance."""

    def __init__(self, way: Way, corpus: CropCorpus, *, batch: int, seed: int) -> None:
        """Raises RuntimeError if the way gives other samples than were written: rates would compare unequal work."""
        rng = np.random.default_rng(seed)
        self._fill = way.open(corpus)
        self._out = corpus.empty(batch)
        self._batch = batch
        self._check(way, corpus)
        self._warm_up(corpus)
        self._draws = itertools.cycle([corpus.draw(batch, rng) for _ in range(_BATCHES)])

    def read(self) -> int:
        """Fill the next batch; the number of crops in it."""
        self._fill(self._out, next(self._draws))
        return self._batch

    def _check(self, way: Way, corpus: CropCorpus) -> None:
        crops = _crops_to_check(way, corpus, self._batch)
        self._fill(self._out, crops)
        if way.gives_float32 and not corpus.same(self._out, crops):
            raise RuntimeError(f"{way.name}: gives other samples than were written")

    def _warm_up(self, corpus: CropCorpus) -> None:
        tour = itertools.cycle(corpus.tour())
        began = time.perf_counter()
        for _ in range(-(-corpus.layout.tracks * corpus.crops_per_track // self._batch)):
            self._fill(self._out, list(itertools.islice(tour, self._batch)))
            if time.perf_counter() - began > _WARM_SECONDS:
                break


def _crops_to_check(way: Way, corpus: CropCorpus, batch: int) -> list[Crop]:
    if way.starts == IN_FILE_ORDER:
        return list(itertools.islice(itertools.cycle(corpus.in_file_order()), batch))
    crops = corpus.draw(batch, np.random.default_rng(0))
    if way.starts == CUT_IN_ADVANCE:
        last = (corpus.crops_per_track - 1) * corpus.crop_samples
        return [(track, min(start // corpus.crop_samples * corpus.crop_samples, last)) for track, start in crops]
    assert way.starts == ANYWHERE
    # The first and the last crop of a track as well.
    return [(0, 0), (0, corpus.track_samples - corpus.crop_samples), *crops][:batch]


@dataclass(frozen=True, kw_only=True)
class ReaderProcesses:
    """Processes that each open the ways for themselves and read when they are told to."""

    connections: tuple[Connection, ...]

    def rate(self, way: str, *, count: int, seconds: float) -> float:
        """Crops per second of `count` processes together, which read by `way` at the same time."""
        chosen = self.connections[:count]
        for connection in chosen:
            connection.send((way, seconds))
        return sum(_answer(connection) for connection in chosen)

    def wait(self) -> None:
        """Return when every process has its files open and warm."""
        for connection in self.connections:
            _answer(connection)


@contextmanager
def reader_processes(
    ways: Sequence[Way], corpus: CropCorpus, *, count: int, batch: int, seed: int
) -> Iterator[ReaderProcesses]:
    """Start `count` processes, as a training job starts its loaders; they end with the block."""
    context = get_context("forkserver")
    ends = [context.Pipe() for _ in range(count)]
    processes = [
        context.Process(target=_serve, args=(end, ways, corpus, batch, seed + number), daemon=True)
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
        raise RuntimeError("a process of readers ended early; what it printed says why") from None


def _serve(connection: Connection, ways: Sequence[Way], corpus: CropCorpus, batch: int, seed: int) -> None:
    readers = {way.name: CropReader(way, corpus, batch=batch, seed=seed) for way in ways}
    connection.send(0.0)
    try:
        while True:
            way, seconds = connection.recv()
            connection.send(rate(readers[way].read, seconds))
    except EOFError:
        return
