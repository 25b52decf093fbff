"""One DDP worker: crops from the shards, steps, validation, checkpoints."""

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
from cyclesep.checkpoints.training_state import load_training_state, save_checkpoint
from cyclesep.cluster import run_metadata
from cyclesep.config import settings
from cyclesep.config.nesting import flatten
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

_log = logging.getLogger(__name__)


def train_worker(loop: dict[str, Any]) -> str | None:
    """One DDP worker: runs in a Ray Train worker process, or in this one under `ScalingConfig(num_workers=0)`.

    Returns why the run cannot go on, if so: all workers find that at the same step, and would find it again in another
    attempt, which an error would lead to.
    """
    _quieten_ray_train()
    rank = ray.train.get_context().get_world_rank()
    with run_files(StoragePath.of(loop["folder"]), rank) as written:
        run = _Run(loop, written)
        with log_to_file(written.path, run=run.config.name, rank=rank, step=lambda: run.progress.step):
            _log.info("started", extra={"num_workers": run.world, "hardware": run.progress.hardware})
            problem = None
            try:
                run.train()
            except TrainingError as raised:
                problem = str(raised)
            run.close()
            _log.info("ended", extra={"num_steps_skipped": run.model.num_skipped, "problem": problem})
    return problem


class _Run:
    """The state of one worker between steps."""

    def __init__(self, loop: dict[str, Any], written: RunFiles) -> None:
        context = ray.train.get_context()
        self.rank, self.world = context.get_world_rank(), context.get_world_size()
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
        self.progress = self._restored() or CheckpointMetadata(
            step=0,
            targets=self.config.targets,
            sample_rate=manifest.sample_rate,
            channels=manifest.channels,
        )
        self.progress = replace(
            self.progress,
            manifest_digest=manifest.digest,
            commit=loop["commit"],
            version=__version__,
            hardware=run_metadata.hardware(self.device, self.world),
        )
        self.interruptions = PreemptionMonitor(loop.get("stop_signal"), rank=self.rank, step=self.progress.step)
        self.board: Any = loop["board"] if self.rank == 0 else None
        self.trackers = self._trackers() if self.rank == 0 else None
        self.validation = validation_crops(
            self.reader, self.config.crops, targets=self.config.targets, count=self.config.num_validation_crops
        )
        self.clock = StepTimer()
        self.losses: dict[str, float] = {}
        self.rates: dict[str, float] = {}

    @property
    def finished(self) -> bool:
        return self.progress.step >= self.config.steps

    def train(self) -> None:
        """Take the steps that are left, with validation and checkpoints between them, unless it is asked to stop.

        Raises TrainingError if the separator has collapsed and the run is to end with that.
        """
        if self.finished:
            return
        for batch in self.batches():
            self.step(batch)
            wanted = self.interruptions.poll(self.progress.step)
            if wanted or self.due():
                self.validate_and_report()
            if wanted == "stop":
                break

    def batches(self) -> Iterator[Batch]:
        """Batches from the next step to the last, each on this worker's device; waiting for them is timed."""
        stream = CropStream(
            self.reader,
            self.config.crops,
            targets=self.config.targets,
            seed=self.config.seed,
            rank=self.rank,
            world_size=self.world,
            start_step=self.progress.step,
            num_steps=self.config.steps - self.progress.step,
        )
        loader = iter(
            crop_loader(stream, num_processes=self.config.num_dataloader_workers, pin_memory=self.device.type == "cuda")
        )
        for _ in range(self.config.steps - self.progress.step):
            with self.clock.waiting():
                batch: Batch = next(loader).to(self.device, non_blocking=True)
            yield batch

    def step(self, batch: Batch) -> None:
        losses = self.model.step(batch)
        self.progress = replace(self.progress, step=self.progress.step + 1)
        # A run of moments has losses to show too, at its validations.
        if self.rank == 0 and (self.clock.should_log() or self.due()):
            self._tell(losses)

    def due(self) -> bool:
        return self.progress.step % self.config.validate_every == 0 or self.finished

    def validate_and_report(self) -> None:
        """Validate, then hand metrics and (from rank 0) a checkpoint to Ray Train; every rank must call."""
        metrics = self._validated()
        seconds = self.progress.training_seconds + self.clock.elapsed_since_last()
        self.progress = replace(self.progress, metrics=metrics, training_seconds=seconds)
        name = f"step-{self.progress.step:08d}"
        # Where no truth is known to validate against, the later checkpoint counts as the better one.
        score = metrics.get("validation/sdr", float(self.progress.step))
        reported: dict[str, Any] = {"step": self.progress.step, "score": score, **metrics}
        _log.info("validated", extra={**metrics, "training_seconds": seconds})
        self.model.gather_state()
        if self.rank != 0:
            self.written.upload()
            ray.train.report(reported, checkpoint_dir_name=name)
            return
        self._show()
        self._track(metrics)
        self._track_samples()
        self.written.add_metrics(self.progress.step, self.losses | metrics)
        assert self.trackers is not None
        self.trackers.flush()
        self.written.upload()
        with tempfile.TemporaryDirectory(prefix="cyclesep-checkpoint-") as folder:
            save_checkpoint(Path(folder), self.model, self.config, self.progress)
            ray.train.report(reported, checkpoint=ray.train.Checkpoint.from_directory(folder), checkpoint_dir_name=name)

    def close(self) -> None:
        if self.trackers is not None:
            self.trackers.close()

    def _restored(self) -> CheckpointMetadata | None:
        checkpoint = ray.train.get_checkpoint()
        if checkpoint is not None:
            # Not as_directory(): of two workers of one machine the later one downloads over what the other is reading.
            return load_training_state(StoragePath.of(from_ray(checkpoint.path, checkpoint.filesystem)), self.model)
        if self.config.init_from is not None:
            return load_training_state(self.config.init_from, self.model)
        return None

    def _validated(self) -> dict[str, float]:
        if self.validation is None:
            return {}
        own = (tensor[self.rank :: self.world].to(self.device) for tensor in self.validation)
        # No more at a time than a step takes.
        at_a_time = max(
            1, self.config.crops.batch_size // (self.world * self.config.method.gradient_accumulation_steps)
        )
        total = validation.validate(self.model.ema_separator, *own, batch_size=at_a_time)
        if self.world > 1:
            torch.distributed.all_reduce(total)
        return validation.summarise(total.cpu(), self.config.targets)

    def _tell(self, losses: dict[str, float | Tensor]) -> None:
        self.losses = {name: float(value) for name, value in losses.items()}
        self.rates = self.clock.rates(self.config.crops.batch_size)
        self._show()
        self._track(self.losses | {f"perf/{name}": value for name, value in self.rates.items()})

    def _show(self) -> None:
        if self.board is None:
            return
        shown = TrainingProgress(
            step=self.progress.step, losses=self.losses, metrics=self.progress.metrics, speed=self.rates
        )
        self.board.update.remote(shown)

    def _trackers(self) -> MetricLoggers:
        self.written.discard_metrics_after(self.progress.step)
        trackers = open_loggers(
            self.config.name,
            self.written.path,
            step=self.progress.step,
            service=self.config.logger,
            settings=dict(flatten(settings.to_dict(self.config))),
        )
        # The name of a service's run, by which it would go on, is not to be lost.
        self.written.upload()
        return trackers

    def _track(self, values: dict[str, float]) -> None:
        assert self.trackers is not None
        self.trackers.scalars(self.progress.step, values)

    def _track_samples(self) -> None:
        """Let some of the validation crops be heard and seen, separated by what is validated."""
        if self.validation is None or self.trackers is None:
            return
        mixtures, targets = (tensor[: self.config.num_sample_crops] for tensor in self.validation)
        rate = self.reader.manifest.sample_rate
        for sample in audio_samples(self.model.ema_separator, mixtures, targets, self.config.targets, rate):
            self.trackers.sample(self.progress.step, sample.name, sample.samples, rate, sample.image)


def _quieten_ray_train() -> None:
    """Let Ray Train log warnings only, and users' errors without tracebacks.

    Each report of each worker is a line otherwise, and the board shows what matters.
    """
    for name in list(logging.root.manager.loggerDict):
        # Ray names one of these loggers after its file.
        if name.startswith("ray.train") or "/ray/train/" in name:
            logging.getLogger(name).setLevel(logging.WARNING)
            logging.getLogger(name).addFilter(ShortErrorFilter())
