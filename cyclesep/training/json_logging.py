"""What a worker does, as lines of JSON that name run, rank and step: RUN/logs/rank-0.jsonl and so on."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from pythonjsonlogger.json import JsonFormatter
from typing_extensions import override

LOGS = "logs"
_FIELDS = {"asctime": "time", "levelname": "level", "name": "logger"}
_FORMAT = "%(asctime)s %(levelname)s %(name)s %(message)s %(run)s %(rank)d %(step)d"


def log_name(rank: int) -> str:
    """The file of a worker, below the folder of its run."""
    return f"{LOGS}/rank-{rank}.jsonl"


@contextmanager
def logged(folder: Path, *, run: str, rank: int, step: Callable[[], int]) -> Iterator[None]:
    """While the block runs, all that cyclesep logs in this process from INFO on goes to the worker's file.

    Warnings still reach stderr as well. `step` gives the step that the run has done.
    """
    file = folder / log_name(rank)
    file.parent.mkdir(parents=True, exist_ok=True)
    handler = logging.FileHandler(file, encoding="utf-8")
    formatter = JsonFormatter(_FORMAT, rename_fields=_FIELDS)
    formatter.default_msec_format = "%s.%03d"
    handler.setFormatter(formatter)
    handler.addFilter(_Context(run, rank, step))
    logger = logging.getLogger("cyclesep")
    before = logger.level, logger.propagate
    # Ray's handlers would print what is below a warning as well.
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
    """Adds where in the run a record was made."""

    def __init__(self, run: str, rank: int, step: Callable[[], int]) -> None:
        super().__init__()
        self._run, self._rank, self._step = run, rank, step

    @override
    def filter(self, record: logging.LogRecord) -> bool:
        record.run, record.rank, record.step = self._run, self._rank, self._step()
        return True
