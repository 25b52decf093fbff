"""The files of a run that grow while it goes on: metrics, logs, TensorBoard's events.

On a disk they lie in the run's folder and are appended to. S3 cannot append: there each worker writes them on its own
machine and puts them into the run's folder whole, when it has validated and when it ends.
"""

import json
import logging
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cyclesep.errors import StorageError
from cyclesep.storage import atomic_io
from cyclesep.storage.path import StoragePath
from cyclesep.training.json_logging import log_name
from cyclesep.training.loggers import MLFLOW_RUN

METRICS = "metrics.jsonl"

_log = logging.getLogger(__name__)


class RunFiles:
    """What one worker of a run writes, below `path`; others see it in `folder` after `publish`."""

    def __init__(self, folder: StoragePath, path: Path) -> None:
        self.folder = folder
        self.path = path
        self._published: dict[Path, tuple[int, int]] = {}

    def publish(self) -> None:
        """Let others see what was written so far. Raises StorageError if the place cannot be written."""
        if not self.folder.is_remote:
            return
        for file, state in self._states().items():
            if self._published.get(file) != state:
                with self.folder.replacing(file.relative_to(self.path).as_posix()) as copy:
                    shutil.copyfile(file, copy)
                self._published[file] = state

    def add_metrics(self, step: int, values: dict[str, float]) -> None:
        """Add a line to the run's metrics."""
        with (self.path / METRICS).open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, **values}) + "\n")

    def forget_metrics_after(self, step: int) -> None:
        """Drop lines of steps that will be done again, and one that was being written when the run was killed."""
        metrics = self.path / METRICS
        if not metrics.exists():
            return
        text = metrics.read_text(encoding="utf-8")
        kept = "".join(line for line in text.splitlines(keepends=True) if _step_of(line) <= step)
        if kept != text:
            atomic_io.write_text(metrics, kept)

    def fetch(self, *names: str) -> None:
        """Get what an earlier worker has written, to go on with it."""
        for name in names:
            if self.folder.holds(name):
                with self.folder.reading(name) as copy:
                    file = self.path / name
                    file.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copyfile(copy, file)
                self._published[file] = _state(file)

    def _states(self) -> dict[Path, tuple[int, int]]:
        found = sorted(path for path in self.path.rglob("*") if path.is_file() and not path.is_symlink())
        return {path: _state(path) for path in found}


@contextmanager
def run_files(folder: StoragePath, rank: int) -> Iterator[RunFiles]:
    """The files that the worker of that rank writes while the block runs, those from before among them."""
    if not folder.is_remote:
        yield RunFiles(folder, folder.path)
        return
    with tempfile.TemporaryDirectory(prefix="cyclesep-run-") as scratch:
        written = RunFiles(folder, Path(scratch))
        written.fetch(log_name(rank), *((METRICS, MLFLOW_RUN) if rank == 0 else ()))
        try:
            yield written
        except BaseException:
            # What stopped the run counts, and not that its last lines are lost.
            try:
                written.publish()
            except StorageError as problem:
                _log.warning("%s", problem)
            raise
        written.publish()


def _step_of(line: str) -> float:
    """Infinity for a line that is none."""
    try:
        return float(json.loads(line)["step"]) if line.endswith("\n") else float("inf")
    except (ValueError, KeyError, TypeError):
        return float("inf")


def _state(file: Path) -> tuple[int, int]:
    status = file.stat()
    return status.st_size, status.st_mtime_ns
