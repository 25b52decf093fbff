"""The callback that passes each validation from Ray Train's controller to the trial.

Imports neither torch nor audio libraries: every trial starts a controller, which would take seconds to import them.
"""

import json
from dataclasses import dataclass
from typing import Any

from ray.train import Checkpoint, UserCallback
from typing_extensions import override

from cyclesep.checkpoints.metadata import METADATA_FILE
from cyclesep.storage.filesystem import from_ray
from cyclesep.storage.path import StoragePath


@dataclass(frozen=True, kw_only=True)
class ValidationReport:
    """Result of one validation of a training run."""

    step: int
    metrics: dict[str, float]
    training_seconds: float
    checkpoint_copy: str | None = None
    """Path or URI of a copy of the checkpoint that Ray Train does not delete; the receiver deletes it after use."""


@dataclass(frozen=True, kw_only=True)
class ReportCallback(UserCallback):  # type: ignore[misc]
    """Runs in Ray Train's controller: puts each report into a queue, and blocks while the queue is full."""

    reports: Any
    """A `ray.util.queue.Queue` of size one."""
    folder: str
    """Folder for copies of checkpoints."""
    copy_every: int | None = None
    """Steps between checkpoints that are copied; None: no copies."""
    last_step: int
    """Last step of the run; its checkpoint is not copied."""

    @override
    def after_report(self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: Checkpoint | None) -> None:
        if checkpoint is None:
            return
        source = StoragePath.of(from_ray(checkpoint.path, checkpoint.filesystem))
        # Read in the controller, since Ray Train can delete the checkpoint later.
        metadata = json.loads(source.read_text(METADATA_FILE))
        step = metadata["step"]
        checkpoint_copy = None
        if self.copy_every and step % self.copy_every == 0 and step < self.last_step:
            checkpoint_copy = StoragePath.of(self.folder).child(f"copy-{step:08d}")
            checkpoint_copy.copy_files(source, last=METADATA_FILE)
        self.reports.put(
            ValidationReport(
                step=step,
                metrics=metadata["metrics"],
                training_seconds=metadata["training_seconds"],
                checkpoint_copy=None if checkpoint_copy is None else checkpoint_copy.uri,
            )
        )
