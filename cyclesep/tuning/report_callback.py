"""What Ray Train's controller does for a trial: it hands on every report.

Imports no more than that, for each trial has a controller, and torch and audio would take it seconds to import.
"""

import json
from dataclasses import dataclass
from typing import Any

from ray.train import Checkpoint, UserCallback
from typing_extensions import override

from cyclesep.storage.filesystem import from_ray
from cyclesep.storage.path import StoragePath

# The card in a checkpoint's folder (see `cyclesep.checkpoints`).
_CARD = "metadata.json"


@dataclass(frozen=True, kw_only=True)
class Report:
    """One validation of a run."""

    step: int
    metrics: dict[str, float]
    training_seconds: float
    hold: str | None = None
    """StoragePath of a copy of the checkpoint that Ray Train cannot delete; whoever takes the report removes it."""


@dataclass(frozen=True, kw_only=True)
class Tell(UserCallback):  # type: ignore[misc]
    """Runs in Ray Train's controller: puts every report into a queue, and waits while that is full."""

    told: Any
    """A `ray.util.queue.Queue` for one report."""
    folder: str
    """Where copies of checkpoints are put."""
    hold_every: int | None = None
    """Steps between checkpoints that are copied; none: none is."""
    last_step: int
    """Of the run; its checkpoint is not copied."""

    @override
    def after_report(self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: Checkpoint | None) -> None:
        if checkpoint is None:
            return
        source = StoragePath.of(from_ray(checkpoint.path, checkpoint.filesystem))
        # Read here, where Ray Train cannot delete it meanwhile.
        card = json.loads(source.read_text(_CARD))
        hold = None
        if self.hold_every and card["step"] % self.hold_every == 0 and card["step"] < self.last_step:
            hold = StoragePath.of(self.folder).child(f"hold-{card['step']:08d}")
            hold.copy_files(source, last=_CARD)
        self.told.put(
            Report(
                step=card["step"],
                metrics=card["metrics"],
                training_seconds=card["training_seconds"],
                hold=None if hold is None else hold.uri,
            )
        )
