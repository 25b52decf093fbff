"""One trial: a training run that reports each validation to Ray Tune.

Runs in an actor of Ray Tune, which can stop the trial or restart it from the checkpoint of another trial. The workers
belong to Ray Train and end with the trial.
"""

import hashlib
import json
import math
import queue
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import ray.util.queue
from ray import tune
from safetensors import safe_open

from cyclesep.checkpoints.metadata import METADATA_FILE, WEIGHTS_FILE, CheckpointMetadata
from cyclesep.checkpoints.run_folder import RunFolder
from cyclesep.cluster.environment import TRIAL, temporarily
from cyclesep.config import settings
from cyclesep.errors import CyclesepError
from cyclesep.storage.filesystem import for_ray, from_ray
from cyclesep.storage.path import StoragePath
from cyclesep.training.config import TrainConfig
from cyclesep.training.fit import TrainingResult, fit
from cyclesep.tuning.report_callback import ReportCallback, ValidationReport
from cyclesep.tuning.space import Space
from cyclesep.tuning.validation_set import mean_si_sir

# Names of the samples of a final, in addition to the parameters of the space.
FINALIST, SEED = "finalist", "seed"

_POLL_SECONDS = 0.5


@dataclass(frozen=True, kw_only=True)
class TrialConfig:
    """Configuration shared by all trials of an experiment."""

    train: dict[str, Any]
    """Training config that trials modify, as plain values with absolute paths."""
    space: Space
    folder: str
    """Parent of the run folders: an absolute path, or s3://bucket/prefix."""
    gpus_per_trial: float
    grace_period: int
    """Steps after which a trial below the mixture's SDR has diverged."""
    mixture_sdr: float
    with_sir: bool = False
    """Compute SI-SIR at the end of each trial."""
    checkpoint_every: int | None = None
    """Steps between checkpoints that are reported to Tune; None: no checkpoints."""
    finalists: tuple[Mapping[str, Any], ...] = ()
    """In the finals: the settings of each finalist, by dotted name."""

    def train_config(self, sample: Mapping[str, Any], name: str, init_from: str | None = None) -> TrainConfig:
        """Return the training config of one trial."""
        changes = dict(self.finalists[sample[FINALIST]]) if self.finalists else self.space.changes(sample)
        changes |= {"seed": sample[SEED]} if SEED in sample else {}
        base = settings.build(TrainConfig, self.train)
        own = {"name": name, "output_dir": self.folder} | ({"init_from": init_from} if init_from else {})
        return settings.replace(base, changes | own)


@dataclass(kw_only=True)
class TrainingThread:
    """A training run in a thread, so that the trial's own thread can report its validations to Tune."""

    config: TrainConfig
    gpus_per_trial: float = 1.0
    copy_every: int | None = None
    result: TrainingResult | None = None
    _error: BaseException | None = None
    _reports: Any = field(default_factory=lambda: ray.util.queue.Queue(maxsize=1, actor_options={"num_cpus": 0}))

    def reports(self) -> Iterator[ValidationReport]:
        """Train and yield each validation; sets `result` at the end. Raises the errors of the run."""
        # A daemon thread, so that the process can exit when Tune stops the trial.
        thread = threading.Thread(target=self._fit, daemon=True)
        thread.start()
        while True:
            alive = thread.is_alive()
            try:
                yield self._reports.get(timeout=_POLL_SECONDS)
            except (queue.Empty, ray.util.queue.Empty):
                if not alive:
                    break
        if self._error is not None:
            raise self._error

    def _fit(self) -> None:
        folder = StoragePath.of(self.config.output_dir).child(self.config.name)
        callback = ReportCallback(
            reports=self._reports, folder=folder.uri, copy_every=self.copy_every, last_step=self.config.steps
        )
        try:
            self.result = fit(self.config, (callback,), show=False, gpus_per_worker=self.gpus_per_trial)
        except BaseException as error:
            self._error = error


@temporarily(TRIAL)
def run_trial(sample: dict[str, Any], trial_config: TrialConfig) -> None:
    """Train with the sampled settings and report each validation to Tune.

    Reports `step`, `run`, `sdr`, `si_sdr`, `si_sdri` (dB), `training_seconds` and `done`; at the end also
    `outcome`, `parameters`, `seconds`, the origin of the checkpoint, and `sir` if requested; for a trial that diverged
    or failed also `reason`.
    """
    name, init_from = _run_name_and_checkpoint(sample, trial_config)
    step = 0
    try:
        config = trial_config.train_config(sample, name, init_from)
        training = TrainingThread(
            config=config, gpus_per_trial=trial_config.gpus_per_trial, copy_every=trial_config.checkpoint_every
        )
        for report in training.reports():
            step = report.step
            reason = divergence_reason(report, trial_config)
            if reason:
                tune.report(_metrics_of(report, name) | {"outcome": "diverged", "reason": reason, "done": True})
                return
            # The last validation is reported together with the outcome of the run.
            if step < config.steps:
                _report(report, name)
    except CyclesepError as error:
        tune.report({"step": step, "run": name, "outcome": "failed", "reason": str(error), "done": True})
        return
    assert training.result is not None
    metrics = _final_metrics(training.result.metadata, training.result.last, trial_config)
    tune.report(metrics | {"run": name, "outcome": "completed", "done": True})


def divergence_reason(report: ValidationReport, trial_config: TrialConfig) -> str:
    """Return why a run has diverged, or an empty string if it has not."""
    sdr = report.metrics.get("validation/sdr", math.nan)
    if not math.isfinite(sdr):
        return f"validation SDR is {sdr} at step {report.step}"
    if report.step >= trial_config.grace_period and sdr < trial_config.mixture_sdr:
        return f"SDR {sdr:.2f} dB at step {report.step} is below that of the mixture, {trial_config.mixture_sdr:.2f} dB"
    return ""


def delete_checkpoints(run: StoragePath) -> None:
    """Delete the checkpoints of a run folder; keep its config, curves and metrics."""
    for name in run.folders():
        if name.startswith((RunFolder.STEP_PREFIX, "copy-", "start")):
            run.child(name).delete_all()
    # It lists the deleted checkpoints, so Ray Train could not resume.
    run.delete("checkpoint_manager_snapshot.json")


def _metrics_of(report: ValidationReport, name: str) -> dict[str, Any]:
    return {
        "step": report.step,
        "run": name,
        "training_seconds": report.training_seconds,
        **_finite_metrics(report.metrics),
    }


def _report(report: ValidationReport, name: str) -> None:
    if report.checkpoint_copy is None:
        tune.report(_metrics_of(report, name))
        return
    tune.report(_metrics_of(report, name), checkpoint=tune.Checkpoint(*for_ray(report.checkpoint_copy)))
    StoragePath.of(report.checkpoint_copy).delete_all()


def _final_metrics(metadata: CheckpointMetadata, checkpoint: StoragePath, trial_config: TrialConfig) -> dict[str, Any]:
    metrics: dict[str, Any] = {
        "step": metadata.step,
        **_finite_metrics(metadata.metrics),
        "training_seconds": metadata.training_seconds,
        "seconds": metadata.training_seconds,
        "parameters": _num_parameters(checkpoint),
        "commit": metadata.commit,
        "version": metadata.version,
        "hardware": metadata.hardware,
        "manifest_digest": metadata.manifest_digest,
    }
    if trial_config.with_sir:
        metrics["sir"] = mean_si_sir(checkpoint, settings.build(TrainConfig, trial_config.train))
    return metrics


def _finite_metrics(metrics: Mapping[str, float]) -> dict[str, float]:
    """Return the finite validation metrics without their prefix; Tune treats a missing metric as no score."""
    prefix = "validation/"
    validation = {name.removeprefix(prefix): value for name, value in metrics.items() if name.startswith(prefix)}
    return {name: value for name, value in validation.items() if math.isfinite(value)}


def _num_parameters(checkpoint: StoragePath) -> int:
    with safe_open(checkpoint.local_path(WEIGHTS_FILE) / WEIGHTS_FILE, "pt") as weights:
        return sum(math.prod(weights.get_slice(name).get_shape()) for name in weights.keys())  # noqa: SIM118


def _run_name_and_checkpoint(sample: Mapping[str, Any], trial_config: TrialConfig) -> tuple[str, str | None]:
    """Return the name of this trial's run and the checkpoint that it starts from.

    A restarted trial finds its run by that name. Tune provides a checkpoint if the trial was paused, or continues from
    the checkpoint of another trial with other settings, which is another run.
    """
    trial = tune.get_context().get_trial_id()
    checkpoint = tune.get_checkpoint()
    if checkpoint is None:
        return trial, None
    key = json.dumps([trial_config.space.changes(sample), checkpoint.path], sort_keys=True)
    name = f"{trial}-{hashlib.sha256(key.encode()).hexdigest()[:8]}"
    runs = StoragePath.of(trial_config.folder)
    start = runs.child(name, "start")
    if not start.has_file(METADATA_FILE):
        # A copy, since Tune deletes old checkpoints of the trial that this one came from.
        start.copy_files(StoragePath.of(from_ray(checkpoint.path, checkpoint.filesystem)), last=METADATA_FILE)
    for previous in runs.folders():
        if previous.startswith(trial) and previous != name:
            delete_checkpoints(runs.child(previous))
    return name, start.uri
