"""How validations of a training run reach the trial that it belongs to, while the run goes on."""

import queue
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import ray.util.queue

from cyclesep.checkpoints import CheckpointMetadata
from cyclesep.storage.path import StoragePath
from cyclesep.training.config import TrainConfig
from cyclesep.training.fit import TrainingReport, fit
from cyclesep.tuning.report_callback import Report, Tell

_LOOK_SECONDS = 0.5


@dataclass(kw_only=True)
class Run:
    """A training run in a thread of its own: what it reports can be told to Tune from the thread that Tune made."""

    config: TrainConfig
    gpus_per_trial: float = 1.0
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
    def progress(self) -> CheckpointMetadata:
        """Of the finished run."""
        assert self.done is not None
        return self.done.progress

    def _fit(self) -> None:
        folder = StoragePath.of(self.config.output_dir).child(self.config.name)
        tell = Tell(told=self._told, folder=folder.uri, hold_every=self.hold_every, last_step=self.config.steps)
        try:
            self.done = fit(self.config, (tell,), show=False, gpus_per_trial=self.gpus_per_trial)
        except BaseException as problem:
            self._problem = problem
