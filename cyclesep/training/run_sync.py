"""Files of a run that grow during training: metrics, logs, TensorBoard events.

On disk they are in the run folder and are appended to. S3 cannot append: there each worker writes them to a local
folder and uploads them after each validation and at the end.
"""

import json
import logging
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cyclesep.checkpoints.run_folder import RunFolder
from cyclesep.errors import StorageError
from cyclesep.storage import atomic_io
from cyclesep.storage.path import StoragePath

_log = logging.getLogger(__name__)


class RunFiles:
    """Files that one worker writes to the local folder `path`; `upload` copies them to the run folder `folder`."""

    def __init__(self, folder: StoragePath, path: Path) -> None:
        self.folder = folder
        self.path = path
        self._uploaded: dict[Path, tuple[int, int]] = {}

    def upload(self) -> None:
        """Upload changed files if the run folder is remote. Raises StorageError if it cannot be written."""
        if not self.folder.is_remote:
            return
        for file, state in self._states().items():
            if self._uploaded.get(file) != state:
                with self.folder.replacing(file.relative_to(self.path).as_posix()) as copy:
                    shutil.copyfile(file, copy)
                self._uploaded[file] = state

    def add_metrics(self, step: int, values: dict[str, float]) -> None:
        """Append a line to metrics.jsonl."""
        with (self.path / RunFolder.METRICS).open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, **values}) + "\n")

    def discard_metrics_after(self, step: int) -> None:
        """Remove the lines of later steps, which will be repeated, and an incomplete last line."""
        metrics = self.path / RunFolder.METRICS
        if not metrics.exists():
            return
        text = metrics.read_text(encoding="utf-8")
        kept = "".join(line for line in text.splitlines(keepends=True) if _step_of(line) <= step)
        if kept != text:
            atomic_io.write_text(metrics, kept)

    def download(self, *names: str) -> None:
        """Download files of an earlier worker, to append to them."""
        for name in names:
            if self.folder.has_file(name):
                with self.folder.reading(name) as copy:
                    file = self.path / name
                    file.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copyfile(copy, file)
                self._uploaded[file] = _state(file)

    def _states(self) -> dict[Path, tuple[int, int]]:
        found = sorted(path for path in self.path.rglob("*") if path.is_file() and not path.is_symlink())
        return {path: _state(path) for path in found}


@contextmanager
def run_files(folder: StoragePath, rank: int) -> Iterator[RunFiles]:
    """Yield the files of the worker of that rank, including earlier ones, and upload them at the end of the block."""
    if not folder.is_remote:
        yield RunFiles(folder, folder.path)
        return
    with tempfile.TemporaryDirectory(prefix="cyclesep-run-") as scratch:
        written = RunFiles(folder, Path(scratch))
        of_rank_0 = (RunFolder.METRICS, RunFolder.MLFLOW_RUN, RunFolder.WANDB_RUN)
        written.download(RunFolder.log_file(rank), *(of_rank_0 if rank == 0 else ()))
        try:
            yield written
        except BaseException:
            # Report the error that stopped the run, not a failed upload of its last lines.
            try:
                written.upload()
            except StorageError as problem:
                _log.warning("%s", problem)
            raise
        written.upload()


def _step_of(line: str) -> float:
    """Return the step of a line, infinity if it is incomplete or invalid."""
    try:
        return float(json.loads(line)["step"]) if line.endswith("\n") else float("inf")
    except (ValueError, KeyError, TypeError):
        return float("inf")


def _state(file: Path) -> tuple[int, int]:
    status = file.stat()
    return status.st_size, status.st_mtime_ns
