"""How validations of a training run reach the trial that it belongs to, while the run goes on."""

import json
import queue
import shutil
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ray.util.queue
from ray.train import Checkpoint, UserCallback
from typing_extensions import override

from cyclesep import checkpoints
from cyclesep.checkpoints import Progress
from cyclesep.training import TrainConfig, TrainingReport, fit

_LOOK_SECONDS = 0.5


@dataclass(frozen=True, kw_only=True)
class Report:
    """One validation of a run."""

    step: int
    metrics: dict[str, float]
    training_seconds: float
    hold: str | None = None
    """A copy of the checkpoint that Ray Train cannot delete; whoever takes the report removes it."""


@dataclass(frozen=True, kw_only=True)
class Tell(UserCallback):  # type: ignore[misc]
    """Runs in Ray Train's controller: puts every report into a queue, and waits while that is full."""

    told: Any
    """A `ray.util.queue.Queue` for one report."""
    folder: str
    """Where copies of checkpoints are put."""
    hold_every: int | None = None
    """Steps between checkpoints that are copied; the last one of a run never is."""

    @override
    def after_report(self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: Checkpoint | None) -> None:
        if checkpoint is None:
            return
        source = Path(checkpoint.path)
        # Read here, where Ray Train cannot delete it meanwhile.
        card = json.loads((source / checkpoints.PROGRESS).read_text(encoding="utf-8"))
        hold = None
        if self.hold_every and card["step"] % self.hold_every == 0:
            hold = Path(self.folder) / f"hold-{card['step']:08d}"
            shutil.copytree(source, hold, dirs_exist_ok=True)
        self.told.put(
            Report(
                step=card["step"],
                metrics=card["metrics"],
                training_seconds=card["training_seconds"],
                hold=None if hold is None else str(hold),
            )
        )


@dataclass(kw_only=True)
class Run:
    """A training run in a thread of its own: what it reports can be told to Tune from the thread that Tune made."""

    config: TrainConfig
    gpu_share: float = 1.0
    hold_every: int | None = None
    done: TrainingReport | None = None
    _problem: BaseException | None = None
    _told: Any = field(default_factory=lambda: ray.util.queue.Queue(maxsize=1, actor_options={"num_cpus": 0}))

    def reports(self) -> Iterator[Report]:
        """All reports as they come; then `done` is there. Raises what the run raises."""
        # A daemon: when Tune stops the trial, the process must be able to end.
        thread = threading.Thread(target=self._fit, daemon=True)
        thread.start()
        while True:
            alive = thread.is_alive()
            try:
                yield self._told.get(timeout=_LOOK_SECONDS)
            except (queue.Empty, ray.util.queue.Empty):
                if not alive:
                    break
        if self._problem is not None:
            raise self._problem

    @property
    def progress(self) -> Progress:
        """Of the finished run."""
        assert self.done is not None
        return self.done.progress

    def _fit(self) -> None:
        folder = Path(self.config.storage) / self.config.name
        tell = Tell(told=self._told, folder=str(folder), hold_every=self.hold_every)
        try:
            self.done = fit(self.config, (tell,), show=False, gpu_share=self.gpu_share)
        except BaseException as problem:
            self._problem = problem
