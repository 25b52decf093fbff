"""Training with Ray Train: prepare a run, train it on workers, and collect the result."""

from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import ray.train
import ray.train.torch

from cyclesep.checkpoints.metadata import CheckpointMetadata, read_metadata
from cyclesep.checkpoints.run_folder import RunFolder
from cyclesep.cluster import run_metadata
from cyclesep.cluster.connect import connect
from cyclesep.cluster.environment import is_local_cluster, start_timeout, temporarily
from cyclesep.config import settings
from cyclesep.data.shards.reading import ShardReader
from cyclesep.errors import ClusterError, StorageError, TrainingError, TrainingStopped
from cyclesep.storage.filesystem import for_ray, from_ray
from cyclesep.storage.path import StoragePath
from cyclesep.storage.uri import display_path
from cyclesep.training.config import TrainConfig
from cyclesep.training.failures import unwrap_error
from cyclesep.training.preemption import handle_sigterm
from cyclesep.training.run import Run, create_or_resume, prepare_run
from cyclesep.training.training_progress import show_progress
from cyclesep.training.worker import train_worker


@dataclass(frozen=True, kw_only=True)
class TrainingResult:
    """Result of a finished run."""

    folder: StoragePath
    best: StoragePath
    last: StoragePath
    metadata: CheckpointMetadata
    """Metadata of the last checkpoint."""


def fit(
    config: TrainConfig, callbacks: tuple[Any, ...] = (), *, show: bool = True, gpus_per_worker: float = 1.0
) -> TrainingResult:
    """Train a run, or resume the run of that name, on a Ray cluster; connect to one if there is no connection yet.

    `callbacks` are those of Ray Train. With `show`, progress is drawn on stderr. A worker that uses a GPU reserves
    `gpus_per_worker` of it.

    Raises ConfigError for settings that do not fit the shards or the cluster, ShardError for missing or damaged shards,
    TrainingError if training fails, TrainingStopped if this process received SIGTERM and the run has saved a
    checkpoint, ClusterError if Ray does not start, and StorageError if the storage cannot be used or another process
    trains the run.
    """
    # Report wrong locations before Ray starts, which takes seconds.
    reader = ShardReader(config.shards)
    StoragePath.of(config.output_dir).exists()
    with connect():
        run = prepare_run(config, reader, gpus_per_worker=gpus_per_worker)
        with run.folder.lock():
            create_or_resume(run.folder, run.config)
            return _train(run, callbacks, show=show)


def _train(run: Run, callbacks: tuple[Any, ...], *, show: bool) -> TrainingResult:
    """Run the workers and return the result; raise TrainingStopped or TrainingError if the run is not complete."""
    steps = run.config.steps
    progress = show_progress(run.config.name, total=steps) if show else nullcontext()
    timeout = start_timeout(run.config.scale_up_timeout_minutes)
    with handle_sigterm() as request, progress as progress_actor, temporarily(timeout):
        trainer = ray.train.torch.TorchTrainer(
            train_worker,
            train_loop_config={
                "config": settings.to_dict(run.worker_config),
                "folder": run.folder.path.uri,
                "commit": run_metadata.commit(),
                "progress_actor": progress_actor,
                "stop_signal": request.signal,
            },
            scaling_config=ray.train.ScalingConfig(
                num_workers=run.config.num_workers,
                use_gpu=run.use_gpu,
                resources_per_worker=run.resources_per_worker,
            ),
            run_config=_run_config(run.worker_config, callbacks),
        )
        result = _collect(run.folder, _fit_trainer(trainer))
    done, folder = result.metadata.step, display_path(run.folder.path.uri)
    if done < steps and request.is_made:
        raise TrainingStopped(
            f"{folder}: stopped after step {done} of {steps} with a checkpoint; run the same command to resume"
        )
    if done < steps:
        raise TrainingError(
            f"{folder}: the workers ended unexpectedly after step {done} of {steps}; see {RunFolder.LOGS} in the "
            "folder, and run the same command to resume"
        )
    return result


def _run_config(config: TrainConfig, callbacks: tuple[Any, ...]) -> ray.train.RunConfig:
    path, filesystem = for_ray(config.output_dir)
    return ray.train.RunConfig(
        name=config.name,
        storage_path=path,
        storage_filesystem=filesystem,
        # Without a limit Ray Train retries forever to start workers that do not fit the cluster.
        failure_config=ray.train.FailureConfig(max_failures=config.max_failures, controller_failure_limit=2),
        checkpoint_config=ray.train.CheckpointConfig(
            num_to_keep=config.keep_checkpoints, checkpoint_score_attribute="score", checkpoint_score_order="max"
        ),
        callbacks=list(callbacks),
        logging_config=ray.train.LoggingConfig(log_level="ERROR" if is_local_cluster() else "WARNING"),
    )


def _fit_trainer(trainer: ray.train.torch.TorchTrainer) -> ray.train.Result:
    """Run the trainer; raise its errors as one line, and those that a user can fix as they are."""
    try:
        return trainer.fit()
    except ray.train.WorkerGroupError as failed:
        for failure in failed.worker_failures.values():
            known = unwrap_error(failure)
            if known is not None:
                raise known from failed
        raise TrainingError(f"training failed: {_last_line(str(failed))}") from failed
    except ray.train.ControllerError as failed:
        known = unwrap_error(failed)
        if isinstance(known, StorageError | ClusterError):
            raise known from failed
        raise TrainingError(f"the workers could not be started or kept running: {_last_line(str(failed))}") from failed


def _collect(folder: RunFolder, result: ray.train.Result) -> TrainingResult:
    """Write run.json and return the checkpoints; raise TrainingError if the workers reported a problem."""
    name = display_path(folder.path.uri)
    if result.checkpoint is None:
        problem = result.return_value or "the run ended without a checkpoint; delete the folder and start again"
        raise TrainingError(f"{name}: {problem}")
    ranked = sorted(result.best_checkpoints, key=lambda kept: kept[1]["score"])
    best, last = (
        StoragePath.of(from_ray(checkpoint.path, checkpoint.filesystem))
        for checkpoint in (ranked[-1][0], result.checkpoint)
    )
    folder.write_result(best=best.name, last=last.name)
    if result.return_value is not None:
        raise TrainingError(f"{name}: {result.return_value}")
    return TrainingResult(folder=folder.path, best=best, last=last, metadata=read_metadata(last))


def _last_line(text: str) -> str:
    lines = [line for line in text.strip().splitlines() if line.strip()]
    return lines[-1].strip()[:300] if lines else "no reason given"
