"""Logs of a worker as lines of JSON with run, rank and step, in RUN/logs/rank-0.jsonl and so on."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from pythonjsonlogger.json import JsonFormatter
from typing_extensions import override

from cyclesep.checkpoints.run_folder import RunFolder

_FIELDS = {"asctime": "time", "levelname": "level", "name": "logger"}
_FORMAT = "%(asctime)s %(levelname)s %(name)s %(message)s %(run)s %(rank)d %(step)d"


@contextmanager
def log_to_file(folder: Path, *, run: str, rank: int, step: Callable[[], int]) -> Iterator[None]:
    """Write cyclesep's log records of this process from level INFO to the worker's file while the block runs.

    Warnings are also printed on stderr. `step` returns the last finished step.
    """
    file = folder / RunFolder.log_file(rank)
    file.parent.mkdir(parents=True, exist_ok=True)
    handler = logging.FileHandler(file, encoding="utf-8")
    formatter = JsonFormatter(_FORMAT, rename_fields=_FIELDS)
    formatter.default_msec_format = "%s.%03d"
    handler.setFormatter(formatter)
    handler.addFilter(_Context(run, rank, step))
    logger = logging.getLogger("cyclesep")
    before = logger.level, logger.propagate
    # Ray's handlers would also print records below WARNING.
    logger.propagate = False
    handlers = [handler, logging.lastResort or logging.NullHandler()]
    for each in handlers:
        logger.addHandler(each)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        for each in handlers:
            logger.removeHandler(each)
        level, logger.propagate = before
        logger.setLevel(level)
        handler.close()


class _Context(logging.Filter):
    """Adds run, rank and step to a record."""

    def __init__(self, run: str, rank: int, step: Callable[[], int]) -> None:
        super().__init__()
        self._run, self._rank, self._step = run, rank, step

    @override
    def filter(self, record: logging.LogRecord) -> bool:
        record.run, record.rank, record.step = self._run, self._rank, self._step()
        return True
