"""One trial: a training run whose validations Tune hears of, and which Tune may stop or set upon another's checkpoint.

Runs in an actor of Ray Tune. The workers that train belong to Ray Train; what Tune stops, stops them too.
"""

import hashlib
import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ray import tune
from safetensors import safe_open

from cyclesep import checkpoints
from cyclesep.checkpoints import CheckpointMetadata
from cyclesep.config import settings
from cyclesep.errors import CyclesepError
from cyclesep.storage.filesystem import for_ray, from_ray
from cyclesep.storage.path import StoragePath
from cyclesep.training.config import TrainConfig
from cyclesep.tuning.report_callback import Report
from cyclesep.tuning.si_sir import sir
from cyclesep.tuning.space import Space
from cyclesep.tuning.trial_run import Run

# Read by Ray Train in this process. Trials are short and many, so their workers are looked after more often than every
# other second; and they wait for their workers as long as others hold what these take (a day), which Ray Train would
# count as a failure.
_ENVIRONMENT = {"RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5", "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "86400"}

# What a trial of a final draws, beside the parameters of a space.
CONTENDER, SEED = "contender", "seed"


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What all trials of a phase are told alike."""

    train: dict[str, Any]
    """The config that trials change, as plain values with absolute paths."""
    space: Space
    folder: str
    """Where run folders are made: an absolute path, or s3://bucket/prefix."""
    gpus_per_trial: float
    grace_period: int
    """Steps before a trial counts as diverged that is worse than the mixture."""
    mixture_sdr: float
    wants_sir: bool = False
    checkpoint_every: int | None = None
    """Steps between checkpoints that Tune gets; none: it gets none."""
    contenders: tuple[Mapping[str, Any], ...] = ()
    """In a final: the settings of each, by dotted name."""

    def config(self, drawn: Mapping[str, Any], name: str, init_from: str | None = None) -> TrainConfig:
        """The training run of one trial."""
        changes = dict(self.contenders[drawn[CONTENDER]]) if self.contenders else self.space.changes(drawn)
        changes |= {"seed": drawn[SEED]} if SEED in drawn else {}
        base = settings.build(TrainConfig, self.train)
        own = {"name": name, "output_dir": self.folder} | ({"init_from": init_from} if init_from else {})
        return settings.replace(base, changes | own)


def run_trial(drawn: dict[str, Any], plan: Plan) -> None:
    """Train with what was drawn; each validation is reported to Tune, and at the end, or why it ended before that.

    Tune hears `step`, `sdr`, `si_sdr`, `si_sdr_gain` (dB), `training_seconds`, `done`; at the end also `parameters`,
    `seconds`, the card of the checkpoint, and `sir` if it is wanted; of a trial that has diverged or failed `reason`.
    """
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    name, init_from = _place(drawn, plan)
    step = 0
    try:
        config = plan.config(drawn, name, init_from)
        run = Run(config=config, gpus_per_trial=plan.gpus_per_trial, hold_every=plan.checkpoint_every)
        for report in run.reports():
            step = report.step
            reason = divergence(report, plan)
            if reason:
                tune.report(_told(report, name) | {"outcome": "diverged", "reason": reason, "done": True})
                return
            # The last one is told when the run has ended well.
            if step < config.steps:
                _tell(report, name)
    except CyclesepError as problem:
        tune.report({"step": step, "run": name, "outcome": "failed", "reason": str(problem), "done": True})
        return
    assert run.done is not None
    tune.report(_ending(run.progress, run.done.last, plan) | {"run": name, "outcome": "completed", "done": True})


def divergence(report: Report, plan: Plan) -> str:
    """Why a run is not worth going on with; empty if it is."""
    sdr = report.metrics.get("validation/sdr", math.nan)
    if not math.isfinite(sdr):
        return f"validation SDR is {sdr} at step {report.step}"
    if report.step >= plan.grace_period and sdr < plan.mixture_sdr:
        return f"SDR {sdr:.2f} dB at step {report.step} is below the mixture's own {plan.mixture_sdr:.2f} dB"
    return ""


def _told(report: Report, name: str) -> dict[str, Any]:
    return {"step": report.step, "run": name, "training_seconds": report.training_seconds, **_metrics(report.metrics)}


def _tell(report: Report, name: str) -> None:
    if report.hold is None:
        tune.report(_told(report, name))
        return
    tune.report(_told(report, name), checkpoint=tune.Checkpoint(*for_ray(report.hold)))
    StoragePath.of(report.hold).delete_all()


def _ending(progress: CheckpointMetadata, checkpoint: StoragePath, plan: Plan) -> dict[str, Any]:
    ending: dict[str, Any] = {
        "step": progress.step,
        **_metrics(progress.metrics),
        "training_seconds": progress.training_seconds,
        "seconds": progress.training_seconds,
        "parameters": _num_parameters(checkpoint),
        "commit": progress.commit,
        "version": progress.version,
        "hardware": progress.hardware,
        "manifest_digest": progress.manifest_digest,
    }
    return ending | ({"sir": sir(checkpoint, settings.build(TrainConfig, plan.train))} if plan.wants_sir else {})


def _metrics(metrics: Mapping[str, float]) -> dict[str, float]:
    """What was validated and is finite: to a search, a value that is not finite is none."""
    prefix = "validation/"
    told = {name.removeprefix(prefix): value for name, value in metrics.items() if name.startswith(prefix)}
    return {name: value for name, value in told.items() if math.isfinite(value)}


def _num_parameters(checkpoint: StoragePath) -> int:
    with safe_open(checkpoint.local_path(checkpoints.WEIGHTS) / checkpoints.WEIGHTS, "pt") as weights:
        return sum(math.prod(weights.get_slice(name).get_shape()) for name in weights.keys())  # noqa: SIM118


def _place(drawn: Mapping[str, Any], plan: Plan) -> tuple[str, str | None]:
    """The name of this trial's run, and the checkpoint that it starts from.

    A trial that is started again finds its run by that name. Tune hands over a checkpoint when the trial was paused, or
    is to go on from another's with other settings: that is another run.
    """
    trial = tune.get_context().get_trial_id()
    given = tune.get_checkpoint()
    if given is None:
        return trial, None
    told = json.dumps([plan.space.changes(drawn), given.path], sort_keys=True)
    name = f"{trial}-{hashlib.sha256(told.encode()).hexdigest()[:8]}"
    runs = StoragePath.of(plan.folder)
    start = runs.child(name, "start")
    if not start.has_file(checkpoints.METADATA):
        # A copy, since Tune deletes old checkpoints of the trial that it comes from.
        start.copy_files(StoragePath.of(from_ray(given.path, given.filesystem)), last=checkpoints.METADATA)
    for before in runs.folders():
        if before.startswith(trial) and before != name:
            delete_checkpoints(runs.child(before))
    return name, start.uri


def delete_checkpoints(run: StoragePath) -> None:
    """Leave of a run folder what tells about it: config, curves, metrics."""
    for name in run.folders():
        if name.startswith((checkpoints.STEP, "hold-", "start")):
            run.child(name).delete_all()
    # Ray Train would look for what it says is there, and refuse to go on.
    run.delete("checkpoint_manager_snapshot.json")
