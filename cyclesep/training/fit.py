"""A training run on the Ray cluster that this process is connected to."""

import os
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import ray
import ray.train
import ray.train.torch

from cyclesep import checkpoints, provenance, settings, storage
from cyclesep.checkpoints import Progress
from cyclesep.errors import ConfigError, TrainingError
from cyclesep.shards import ShardReader
from cyclesep.shards.manifest import MIXTURE
from cyclesep.training.config import TrainConfig
from cyclesep.training.failures import known_cause
from cyclesep.training.progress import watched
from cyclesep.training.rehearsal import rehearse
from cyclesep.training.run_folder import claim, refuse_other_audio, with_separator
from cyclesep.training.worker import train_worker


@dataclass(frozen=True, kw_only=True)
class TrainingReport:
    """What a run has made."""

    folder: Path
    best: Path
    last: Path
    progress: Progress


def fit(
    config: TrainConfig, callbacks: tuple[Any, ...] = (), *, show: bool = True, gpu_share: float = 1.0
) -> TrainingReport:
    """Train, or go on with the run of that name, on the Ray cluster that this process is connected to.

    Ray Train's `callbacks` hear of every report. Without `show` no progress is drawn; a worker that uses a GPU reserves
    `gpu_share` of it.

    Raises ConfigError for settings that do not fit the shards or the cluster, TrainingError if training fails.
    """
    folder = (Path(config.storage) / config.name).resolve()
    reader = ShardReader(config.shards)
    use_gpu = _use_gpu(config)
    config = with_separator(config, folder, sample_rate=reader.manifest.sample_rate, use_gpu=use_gpu)
    _refuse_impossible(config, reader)
    refuse_other_audio(folder, config.shards, reader.manifest.digest)
    claim(folder, config)
    if config.wait_minutes:
        # Read by Ray Train's controller, to which it passes such variables.
        os.environ["RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"] = str(60 * config.wait_minutes)
    with watched(config.name, total=config.steps) if show else nullcontext() as board:
        trainer = ray.train.torch.TorchTrainer(
            train_worker,
            train_loop_config={
                "config": settings.to_dict(_with_absolute_paths(config)),
                "folder": str(folder),
                "commit": provenance.commit(),
                "board": board,
            },
            scaling_config=ray.train.ScalingConfig(
                num_workers=config.num_workers,
                use_gpu=use_gpu,
                resources_per_worker={"CPU": config.cpus_per_worker} | ({"GPU": gpu_share} if use_gpu else {}),
            ),
            run_config=_run_config(config, folder, callbacks),
        )
        result = _fit(trainer)
    return _report(folder, result)


def _run_config(config: TrainConfig, folder: Path, callbacks: tuple[Any, ...]) -> ray.train.RunConfig:
    return ray.train.RunConfig(
        name=config.name,
        storage_path=str(folder.parent),
        # Without a limit Ray Train tries for ever to start workers that no cluster can hold.
        failure_config=ray.train.FailureConfig(max_failures=config.max_failures, controller_failure_limit=2),
        checkpoint_config=ray.train.CheckpointConfig(
            num_to_keep=config.num_checkpoints, checkpoint_score_attribute="score", checkpoint_score_order="max"
        ),
        callbacks=list(callbacks),
        logging_config=ray.train.LoggingConfig(log_level="ERROR"),
    )


def _fit(trainer: ray.train.torch.TorchTrainer) -> ray.train.Result:
    try:
        return trainer.fit()
    except ray.train.WorkerGroupError as failed:
        for failure in failed.worker_failures.values():
            known = known_cause(failure)
            if known is not None:
                raise known from failed
        raise TrainingError(f"training failed: {_last_line(str(failed))}") from failed
    except ray.train.ControllerError as failed:
        raise TrainingError(f"the workers could not be started or kept: {_last_line(str(failed))}") from failed


def _refuse_impossible(config: TrainConfig, reader: ShardReader) -> None:
    known = sorted(set(reader.manifest.stems) - {MIXTURE})
    missing = [target for target in config.targets if target not in known]
    if missing:
        raise ConfigError(f"targets: {config.shards} holds no stem {missing[0]!r}; it holds {', '.join(known)}")
    if len(set(config.targets)) < len(config.targets):
        raise ConfigError(f"targets: {', '.join(config.targets)} names one stem twice; name each once")
    if config.start_from is not None:
        done = checkpoints.read_progress(checkpoints.find(config.start_from)).step
        if done >= config.steps:
            raise ConfigError(f"steps={config.steps}: {config.start_from} has done {done} steps; ask for more")
    rehearse(config, reader)
    _refuse_too_many_workers(config)


def _refuse_too_many_workers(config: TrainConfig) -> None:
    if config.wait_minutes:
        return
    resources = ray.cluster_resources()
    cpus = config.num_workers * config.cpus_per_worker
    if cpus > resources.get("CPU", 0):
        raise ConfigError(
            f"num_workers={config.num_workers} with cpus_per_worker={config.cpus_per_worker:g} needs {cpus:g} CPUs "
            f"and the cluster has {resources.get('CPU', 0):g}; lower one of them, or set wait_minutes= if it grows"
        )
    if config.use_gpu and config.num_workers > resources.get("GPU", 0):
        raise ConfigError(
            f"use_gpu=true with num_workers={config.num_workers} needs as many GPUs and the cluster has "
            f"{resources.get('GPU', 0):g}; lower num_workers, leave use_gpu out, or set wait_minutes= if it grows"
        )


def _use_gpu(config: TrainConfig) -> bool:
    available: float = ray.cluster_resources().get("GPU", 0)
    return available >= config.num_workers if config.use_gpu is None else config.use_gpu


def _with_absolute_paths(config: TrainConfig) -> TrainConfig:
    """Workers run in a folder of their own."""
    start_from = config.start_from and str(Path(config.start_from).resolve())
    return replace(
        config,
        shards=storage.absolute(config.shards),
        storage=str(Path(config.storage).resolve()),
        start_from=start_from,
    )


def _report(folder: Path, result: ray.train.Result) -> TrainingReport:
    if result.checkpoint is None:
        raise TrainingError(f"{folder}: the run ended without a checkpoint; remove the folder and start again")
    ranked = sorted(result.best_checkpoints, key=lambda kept: kept[1]["score"])
    best, last = Path(ranked[-1][0].path), Path(result.checkpoint.path)
    progress = checkpoints.read_progress(last)
    checkpoints.write_run(folder, best=best.name, last=last.name)
    return TrainingReport(folder=folder, best=best, last=last, progress=progress)


def _last_line(text: str) -> str:
    lines = [line for line in text.strip().splitlines() if line.strip()]
    return lines[-1].strip()[:300] if lines else "no reason given"
