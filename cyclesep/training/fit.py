"""A training run on the Ray cluster that this process is connected to."""

import logging
import os
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

import ray
import ray.train
import ray.train.torch

from cyclesep.checkpoints.metadata import CheckpointMetadata, read_metadata
from cyclesep.checkpoints.run_folder import find_checkpoint, find_run, resolve_folder
from cyclesep.cluster import run_metadata
from cyclesep.config import settings
from cyclesep.data.crops.pairing import validation_layout
from cyclesep.data.shards.manifest import MIXTURE
from cyclesep.data.shards.reading import ShardReader
from cyclesep.errors import ClusterError, ConfigError, StorageError, TrainingError, TrainingStopped
from cyclesep.storage.filesystem import for_ray, from_ray
from cyclesep.storage.path import StoragePath
from cyclesep.storage.uri import absolute_uri, display_path
from cyclesep.training.config import TrainConfig
from cyclesep.training.dry_run import dry_run_step
from cyclesep.training.failures import unwrap_error
from cyclesep.training.json_logging import LOGS
from cyclesep.training.preemption import handle_sigterm
from cyclesep.training.run_folder import create_or_resume, refuse_other_audio, with_separator
from cyclesep.training.training_progress import show_progress
from cyclesep.training.worker import train_worker

_log = logging.getLogger(__name__)

# In the folder of a run while somebody trains there.
LOCK = ".train.lock"


@dataclass(frozen=True, kw_only=True)
class TrainingReport:
    """What a run has made."""

    folder: StoragePath
    best: StoragePath
    last: StoragePath
    progress: CheckpointMetadata


def fit(
    config: TrainConfig, callbacks: tuple[Any, ...] = (), *, show: bool = True, gpus_per_trial: float = 1.0
) -> TrainingReport:
    """Train, or go on with the run of that name, on the Ray cluster that this process is connected to.

    Ray Train's `callbacks` hear of every report. Without `show` no progress is drawn; a worker that uses a GPU reserves
    `gpus_per_trial` of it.

    Raises ConfigError for settings that do not fit the shards or the cluster, TrainingError if training fails,
    TrainingStopped if this process got SIGTERM and the run has saved a checkpoint, and StorageError if the storage
    cannot be used, or if another process is at the same run there.
    """
    folder = StoragePath.of(config.output_dir).child(config.name)
    reader = ShardReader(config.shards)
    use_gpu = _use_gpu(config)
    config = with_separator(config, folder, sample_rate=reader.manifest.sample_rate, use_gpu=use_gpu)
    _refuse_impossible(config, reader)
    refuse_other_audio(folder, config.shards, reader.manifest.digest)
    _tell_if_nothing_is_validated(config, reader)
    with folder.lock(LOCK):
        create_or_resume(folder, config)
        return _trained(config, folder, callbacks, show=show, use_gpu=use_gpu, gpus_per_trial=gpus_per_trial)


def _trained(
    config: TrainConfig,
    folder: StoragePath,
    callbacks: tuple[Any, ...],
    *,
    show: bool,
    use_gpu: bool,
    gpus_per_trial: float,
) -> TrainingReport:
    if config.scale_up_timeout_minutes:
        # Read by Ray Train's controller, to which it passes such variables.
        os.environ["RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"] = str(60 * config.scale_up_timeout_minutes)
    shown = show_progress(config.name, total=config.steps) if show else nullcontext()
    with handle_sigterm() as request, shown as board:
        trainer = ray.train.torch.TorchTrainer(
            train_worker,
            train_loop_config={
                "config": settings.to_dict(_with_absolute_paths(config)),
                "folder": folder.uri,
                "commit": run_metadata.commit(),
                "board": board,
                "stop_signal": request.signal,
            },
            scaling_config=ray.train.ScalingConfig(
                num_workers=config.num_workers,
                use_gpu=use_gpu,
                resources_per_worker={"CPU": config.cpus_per_worker} | ({"GPU": gpus_per_trial} if use_gpu else {}),
            ),
            run_config=_run_config(config, callbacks),
        )
        result = _fit(trainer)
    report = _report(folder, result)
    if request.is_made and report.progress.step < config.steps:
        raise TrainingStopped(
            f"{display_path(folder.uri)}: stopped after step {report.progress.step} of {config.steps}, where it has "
            "saved a checkpoint; run the same command again to go on"
        )
    if report.progress.step < config.steps:
        raise TrainingError(
            f"{display_path(folder.uri)}: the workers ended after step {report.progress.step} of {config.steps} "
            f"without being asked to; see {LOGS} there, and run the same command again to go on"
        )
    return report


def _run_config(config: TrainConfig, callbacks: tuple[Any, ...]) -> ray.train.RunConfig:
    path, filesystem = for_ray(absolute_uri(config.output_dir))
    return ray.train.RunConfig(
        name=config.name,
        storage_path=path,
        storage_filesystem=filesystem,
        # Without a limit Ray Train tries for ever to start workers that no cluster can hold.
        failure_config=ray.train.FailureConfig(max_failures=config.max_failures, controller_failure_limit=2),
        checkpoint_config=ray.train.CheckpointConfig(
            num_to_keep=config.keep_checkpoints, checkpoint_score_attribute="score", checkpoint_score_order="max"
        ),
        callbacks=list(callbacks),
        logging_config=ray.train.LoggingConfig(log_level="ERROR"),
    )


def _fit(trainer: ray.train.torch.TorchTrainer) -> ray.train.Result:
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
        raise TrainingError(f"the workers could not be started or kept: {_last_line(str(failed))}") from failed


def _refuse_impossible(config: TrainConfig, reader: ShardReader) -> None:
    known = sorted(set(reader.manifest.stems) - {MIXTURE})
    missing = [target for target in config.targets if target not in known]
    if missing:
        raise ConfigError(f"targets: {config.shards} holds no stem {missing[0]!r}; it holds {', '.join(known)}")
    if len(set(config.targets)) < len(config.targets):
        raise ConfigError(f"targets: {', '.join(config.targets)} names one stem twice; name each once")
    if config.init_from is not None:
        done = read_metadata(find_checkpoint(config.init_from)).step
        if done >= config.steps:
            raise ConfigError(f"steps={config.steps}: {config.init_from} has done {done} steps; ask for more")
    dry_run_step(config, reader)
    _refuse_too_many_workers(config)


def _tell_if_nothing_is_validated(config: TrainConfig, reader: ShardReader) -> None:
    num_samples = round(config.crops.crop_seconds * reader.manifest.sample_rate)
    valid = reader.manifest.split("valid")
    if validation_layout(valid, config.crops, targets=config.targets, num_samples=num_samples) is None:
        _log.warning(
            "%s: no track of the valid split tells how %s ought to sound, so nothing is validated and the last "
            "checkpoint counts as the best; to have it validated, ingest some tracks with stems into valid",
            config.shards,
            " and ".join(config.targets),
        )


def _refuse_too_many_workers(config: TrainConfig) -> None:
    if config.scale_up_timeout_minutes:
        return
    resources = ray.cluster_resources()
    cpus = config.num_workers * config.cpus_per_worker
    if cpus > resources.get("CPU", 0):
        raise ConfigError(
            f"num_workers={config.num_workers} with cpus_per_worker={config.cpus_per_worker:g} needs {cpus:g} CPUs "
            f"and the cluster has {resources.get('CPU', 0):g}; lower one of them, or set scale_up_timeout_minutes= if it grows"
        )
    if config.use_gpu and config.num_workers > resources.get("GPU", 0):
        raise ConfigError(
            f"use_gpu=true with num_workers={config.num_workers} needs as many GPUs and the cluster has "
            f"{resources.get('GPU', 0):g}; lower num_workers, leave use_gpu out, or set scale_up_timeout_minutes= if it grows"
        )


def _use_gpu(config: TrainConfig) -> bool:
    available: float = ray.cluster_resources().get("GPU", 0)
    return available >= config.num_workers if config.use_gpu is None else config.use_gpu


def _with_absolute_paths(config: TrainConfig) -> TrainConfig:
    """Workers run in a folder of their own."""
    init_from = config.init_from and absolute_uri(resolve_folder(config.init_from).uri)
    return replace(
        config,
        shards=absolute_uri(config.shards),
        output_dir=absolute_uri(config.output_dir),
        init_from=init_from,
    )


def _report(folder: StoragePath, result: ray.train.Result) -> TrainingReport:
    if result.checkpoint is None:
        problem = result.return_value or "the run ended without a checkpoint; remove the folder and start again"
        raise TrainingError(f"{display_path(folder.uri)}: {problem}")
    ranked = sorted(result.best_checkpoints, key=lambda kept: kept[1]["score"])
    best, last = (
        StoragePath.of(from_ray(checkpoint.path, checkpoint.filesystem))
        for checkpoint in (ranked[-1][0], result.checkpoint)
    )
    progress = read_metadata(last)
    find_run(folder).write_result(best=best.name, last=last.name)
    if result.return_value is not None:
        raise TrainingError(f"{display_path(folder.uri)}: {result.return_value}")
    return TrainingReport(folder=folder, best=best, last=last, progress=progress)


def _last_line(text: str) -> str:
    lines = [line for line in text.strip().splitlines() if line.strip()]
    return lines[-1].strip()[:300] if lines else "no reason given"
