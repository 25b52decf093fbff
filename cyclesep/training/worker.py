"""A DDP worker: crops from the shards, training steps, validation, checkpoints."""

import logging
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import ray.train
import ray.train.torch
import torch
import torch.distributed
from torch import Tensor

from cyclesep import __version__
from cyclesep.checkpoints.metadata import CheckpointMetadata
from cyclesep.checkpoints.run_folder import RunFolder
from cyclesep.checkpoints.save_restore import load_training_state, save_checkpoint
from cyclesep.cluster import run_metadata
from cyclesep.config import settings
from cyclesep.cyclegan.distributed import from_process_group
from cyclesep.cyclegan.model import CycleGAN
from cyclesep.cyclegan.optimization import enable_tf32
from cyclesep.data.crops.dataset import Batch, CropStream, crop_loader, validation_crops
from cyclesep.data.shards.reading import ShardReader
from cyclesep.errors import TrainingError
from cyclesep.storage.filesystem import from_ray
from cyclesep.storage.path import StoragePath
from cyclesep.training import validation
from cyclesep.training.audio_samples import audio_samples
from cyclesep.training.config import TrainConfig
from cyclesep.training.failures import ShortErrorFilter
from cyclesep.training.json_logging import log_to_file
from cyclesep.training.loggers import MetricLoggers, open_loggers
from cyclesep.training.preemption import PreemptionMonitor
from cyclesep.training.run_sync import RunFiles, run_files
from cyclesep.training.step_timer import StepTimer
from cyclesep.training.training_progress import TrainingProgress

# Subtracted from the step to score a checkpoint without validation: far below any SDR in dB.
_UNVALIDATED = 1e9

_log = logging.getLogger(__name__)


def train_worker(loop: dict[str, Any]) -> str | None:
    """Train in a Ray Train worker process, or in this process with `ScalingConfig(num_workers=0)`.

    Returns the reason if the run cannot continue. All workers reach it in the same step and would do so again, so it
    must not be raised, which would make Ray Train retry.
    """
    _limit_ray_train_logs()
    rank = ray.train.get_context().get_world_rank()
    with run_files(StoragePath.of(loop["folder"]), rank) as written:
        worker = _Worker(loop, written)
        with log_to_file(written.path, run=worker.config.name, rank=rank, step=lambda: worker.metadata.step):
            _log.info("started", extra={"num_workers": worker.world_size, "hardware": worker.metadata.hardware})
            problem = None
            try:
                worker.train()
            except TrainingError as raised:
                problem = str(raised)
            worker.close()
            _log.info("ended", extra={"num_steps_skipped": worker.model.num_skipped, "problem": problem})
    return problem


class _Worker:
    """State of a worker between steps."""

    def __init__(self, loop: dict[str, Any], written: RunFiles) -> None:
        context = ray.train.get_context()
        self.rank, self.world_size = context.get_world_rank(), context.get_world_size()
        self.config = settings.build(TrainConfig, loop["config"])
        self.written = written
        self.device = ray.train.torch.get_device()
        enable_tf32()
        self.reader = ShardReader(self.config.shards)
        manifest = self.reader.manifest
        self.reader.prefetch(manifest.split("train"))
        self.model = CycleGAN(
            self.config.method,
            targets=self.config.targets,
            channels=manifest.channels,
            sample_rate=manifest.sample_rate,
            device=self.device,
            wrap=ray.train.torch.prepare_model,
            ranks=from_process_group(),
            num_steps=self.config.steps,
            seed=self.config.seed,
        )
        self.metadata = self._load_state() or CheckpointMetadata(
            step=0,
            targets=self.config.targets,
            sample_rate=manifest.sample_rate,
            channels=manifest.channels,
        )
        self.metadata = replace(
            self.metadata,
            manifest_digest=manifest.digest,
            commit=loop["commit"],
            version=__version__,
            hardware=run_metadata.hardware(self.device, self.world_size),
        )
        self.preemption = PreemptionMonitor(loop.get("stop_signal"), rank=self.rank, step=self.metadata.step)
        self.progress_actor: Any = loop["progress_actor"] if self.rank == 0 else None
        self.loggers = self._open_loggers() if self.rank == 0 else None
        self.validation = validation_crops(
            self.reader, self.config.crops, targets=self.config.targets, count=self.config.num_validation_crops
        )
        self._warned_of_silence = False
        self.timer = StepTimer()
        self.losses: dict[str, float] = {}
        self.rates: dict[str, float] = {}

    @property
    def finished(self) -> bool:
        return self.metadata.step >= self.config.steps

    def train(self) -> None:
        """Run the remaining steps with validation and checkpoints, or until the run is stopped.

        Raises TrainingError if the separator has collapsed and `collapse.fail` is set.
        """
        if self.finished:
            return
        for batch in self.batches():
            self.step(batch)
            action = self.preemption.poll(self.metadata.step)
            if action or self.validation_due():
                self.validate_and_report(save_first=action is not None)
            if action == "stop":
                break

    def batches(self) -> Iterator[Batch]:
        """Yield the batches of the remaining steps on this worker's device; the time to wait for them is measured."""
        stream = CropStream(
            self.reader,
            self.config.crops,
            targets=self.config.targets,
            seed=self.config.seed,
            rank=self.rank,
            world_size=self.world_size,
            start_step=self.metadata.step,
            num_steps=self.config.steps - self.metadata.step,
        )
        loader = iter(
            crop_loader(stream, num_processes=self.config.num_dataloader_workers, pin_memory=self.device.type == "cuda")
        )
        for _ in range(self.config.steps - self.metadata.step):
            with self.timer.waiting():
                batch: Batch = next(loader).to(self.device, non_blocking=True)
            yield batch

    def step(self, batch: Batch) -> None:
        losses = self.model.step(batch)
        self.metadata = replace(self.metadata, step=self.metadata.step + 1)
        # Also at validations, so that very short runs log losses.
        if self.rank == 0 and (self.timer.should_log() or self.validation_due()):
            self._log_losses(losses)

    def validation_due(self) -> bool:
        return self.metadata.step % self.config.validate_every == 0 or self.finished

    def validate_and_report(self, *, save_first: bool = False) -> None:
        """Validate and report metrics and (on rank 0) a checkpoint to Ray Train; every rank must call it.

        With `save_first`, for a machine that will soon be lost, the logs follow the checkpoint and have no audio.
        """
        metrics = self._validate()
        seconds = self.metadata.training_seconds + self.timer.elapsed_since_last()
        self.metadata = replace(self.metadata, metrics=metrics, training_seconds=seconds)
        name = RunFolder.checkpoint_name(self.metadata.step)
        # Without validation a later checkpoint counts as better, and any checkpoint with validation as better still.
        score = metrics.get("validation/sdr", self.metadata.step - _UNVALIDATED)
        reported: dict[str, Any] = {"step": self.metadata.step, "score": score, **metrics}
        _log.info("validated", extra={**metrics, "training_seconds": seconds})
        self.model.gather_state()
        if save_first:
            self._report(reported, name)
            self._write_logs(metrics, samples=False)
        else:
            self._write_logs(metrics, samples=True)
            self._report(reported, name)

    def _write_logs(self, metrics: dict[str, float], *, samples: bool) -> None:
        """Log a validation, with audio samples if `samples` is set, and upload what this worker has written."""
        if self.loggers is not None:
            self._update_progress()
            self._log_metrics(metrics)
            if samples:
                self._log_samples()
            self.written.add_metrics(self.metadata.step, self.losses | metrics)
            self.loggers.flush()
        self.written.upload()

    def _report(self, metrics: dict[str, Any], name: str) -> None:
        """Report metrics to Ray Train, and on rank 0 a checkpoint with that folder name."""
        if self.rank != 0:
            ray.train.report(metrics, checkpoint_dir_name=name)
            return
        with tempfile.TemporaryDirectory(prefix="cyclesep-checkpoint-") as folder:
            save_checkpoint(Path(folder), self.model, self.config, self.metadata)
            ray.train.report(metrics, checkpoint=ray.train.Checkpoint.from_directory(folder), checkpoint_dir_name=name)

    def close(self) -> None:
        if self.loggers is not None:
            self.loggers.close()

    def _load_state(self) -> CheckpointMetadata | None:
        checkpoint = ray.train.get_checkpoint()
        if checkpoint is not None:
            # Not as_directory(): with two workers on one machine, one would overwrite files that the other reads.
            return load_training_state(StoragePath.of(from_ray(checkpoint.path, checkpoint.filesystem)), self.model)
        if self.config.init_from is not None:
            return load_training_state(self.config.init_from, self.model)
        return None

    def _validate(self) -> dict[str, float]:
        if self.validation is None:
            return {}
        own = (tensor[self.rank :: self.world_size].to(self.device) for tensor in self.validation)
        # As many crops at a time as in a training step.
        batch_size = max(
            1, self.config.crops.batch_size // (self.world_size * self.config.method.gradient_accumulation_steps)
        )
        total = validation.validate(self.model.ema_separator, *own, batch_size=batch_size)
        if self.world_size > 1:
            torch.distributed.all_reduce(total)
        total = total.cpu()
        silent = [name for name, count in zip(self.config.targets, total[:, 3], strict=True) if count == 0]
        if self.rank == 0 and silent and not self._warned_of_silence:
            _log.warning(
                "%s: silent in all %d validation crops, so validation ignores it; set num_validation_crops higher, or "
                "ingest valid tracks with it",
                ", ".join(silent),
                len(self.validation[0]),
            )
            self._warned_of_silence = True
        return validation.summarize(total, self.config.targets)

    def _log_losses(self, losses: dict[str, float | Tensor]) -> None:
        self.losses = {name: float(value) for name, value in losses.items()}
        self.rates = self.timer.rates(self.config.crops.batch_size)
        self._update_progress()
        self._log_metrics(self.losses | {f"perf/{name}": value for name, value in self.rates.items()})

    def _update_progress(self) -> None:
        if self.progress_actor is None:
            return
        progress = TrainingProgress(
            step=self.metadata.step, losses=self.losses, metrics=self.metadata.metrics, speed=self.rates
        )
        self.progress_actor.update.remote(progress)

    def _open_loggers(self) -> MetricLoggers:
        self.written.discard_metrics_after(self.metadata.step)
        loggers = open_loggers(
            self.config.name,
            self.written.path,
            step=self.metadata.step,
            service=self.config.logger,
            settings=settings.flat(self.config),
        )
        # Save the run id of the service, which is needed to resume.
        self.written.upload()
        return loggers

    def _log_metrics(self, values: dict[str, float]) -> None:
        assert self.loggers is not None
        self.loggers.scalars(self.metadata.step, values)

    def _log_samples(self) -> None:
        """Log audio and spectrograms of some validation crops, separated by the averaged separator."""
        if self.validation is None or self.loggers is None:
            return
        mixtures, targets = (tensor[: self.config.num_sample_crops] for tensor in self.validation)
        rate = self.reader.manifest.sample_rate
        for sample in audio_samples(self.model.ema_separator, mixtures, targets, self.config.targets, rate):
            self.loggers.sample(self.metadata.step, sample.name, sample.samples, rate, sample.image)


def _limit_ray_train_logs() -> None:
    """Limit Ray Train's log to warnings, and remove tracebacks of CyclesepErrors.

    Otherwise each report of each worker is a line, and the progress display shows the same.
    """
    logging.getLogger().setLevel(logging.WARNING)
    for handler in logging.getLogger("ray.train").handlers:
        handler.addFilter(ShortErrorFilter())
