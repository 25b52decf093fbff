"""Training on Ray: workers stream crops from the shards into a cycle-GAN under DDP, validate, and report checkpoints."""

import json
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from dataclasses import replace as with_fields
from pathlib import Path
from typing import Annotated, Any

import ray
import ray.train
import ray.train.torch
import torch
import torch.distributed
from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from cyclesep import __version__, checkpoints, files, provenance, settings, validation
from cyclesep.checkpoints import Progress
from cyclesep.crops import Batch, CropConfig, CropStream, crop_loader, validation_batches
from cyclesep.cyclegan import CycleGAN, CycleGANConfig
from cyclesep.errors import ConfigError, CyclesepError, TrainingError
from cyclesep.progress import ShownProgress, watched
from cyclesep.shards import ShardReader


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """One training run; `storage`/`name` is its folder, and the same name goes on where it stopped."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")] = "train"
    """Name of the run and of its folder; the same name goes on where that run stopped."""
    storage: str = "runs"
    """Folder that holds run folders; on several machines one that all of them share."""
    shards: str = "data/shards"
    """Folder of ingested shards (see `cyclesep ingest`)."""
    targets: tuple[str, ...] = ("vocals",)
    """Stems to extract, one or several."""
    steps: PositiveInt = 2000
    """Optimizer steps of the separator."""
    seed: NonNegativeInt = 0
    """Decides the crops, the initial weights and every other draw."""
    start_from: str | None = None
    """Checkpoint folder whose whole training state a new run starts from."""
    num_workers: PositiveInt = 1
    """DDP workers (Ray Train); the global batch is shared among them."""
    use_gpu: bool | None = None
    """One GPU per worker; none means: if the cluster has as many."""
    cpus_per_worker: PositiveFloat = 1
    """CPUs that Ray reserves for each worker and its loader processes; also its number of threads."""
    num_loader_processes: NonNegativeInt = 1
    """Processes per worker that read crops ahead; 0 reads in the worker itself."""
    validate_every: PositiveInt = 500
    """Steps between validations; each writes a checkpoint."""
    num_validation_crops: PositiveInt = 32
    """Fixed crops of the valid split that are separated at each validation."""
    num_checkpoints: PositiveInt = 1
    """Checkpoints kept, best first by validation SDR; the last is always kept as well."""
    max_failures: NonNegativeInt = 2
    """Times that lost workers are replaced and training goes on from the last checkpoint."""
    crops: CropConfig = field(default_factory=CropConfig)
    cyclegan: CycleGANConfig = field(default_factory=CycleGANConfig)


@dataclass(frozen=True, kw_only=True)
class TrainingReport:
    """What a run has made."""

    folder: Path
    best: Path
    last: Path
    progress: Progress


def fit(config: TrainConfig, callbacks: tuple[Any, ...] = ()) -> TrainingReport:
    """Train, or go on with the run of that name, on the Ray cluster that this process is connected to.

    Raises ConfigError for settings that do not fit the shards or the cluster, TrainingError if training fails.
    """
    folder = (Path(config.storage) / config.name).resolve()
    _refuse_impossible(config)
    _claim(folder, config)
    use_gpu = _use_gpu(config)
    with watched(config.name, total=config.steps) as board:
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
                resources_per_worker={"CPU": config.cpus_per_worker} | ({"GPU": 1} if use_gpu else {}),
            ),
            run_config=_run_config(config, folder, callbacks),
        )
        result = _fit(trainer)
    return _report(folder, result)


def train_worker(loop: dict[str, Any]) -> dict[str, float]:
    """One DDP worker: runs in a Ray Train worker process, or in this one under `ScalingConfig(num_workers=0)`."""
    run = _Run(loop)
    if not run.finished:
        for batch in run.batches():
            run.step(batch)
            if run.due():
                run.validate_and_report()
    run.close()
    return run.progress.metrics


class _Run:
    """The state of one worker between steps."""

    def __init__(self, loop: dict[str, Any]) -> None:
        context = ray.train.get_context()
        self.rank, self.world = context.get_world_rank(), context.get_world_size()
        self.config = settings.build(TrainConfig, loop["config"])
        self.folder = Path(loop["folder"])
        self.device = ray.train.torch.get_device()
        self.reader = ShardReader(self.config.shards)
        manifest = self.reader.manifest
        self.model = CycleGAN(
            self.config.cyclegan,
            targets=self.config.targets,
            channels=manifest.channels,
            sample_rate=manifest.sample_rate,
            device=self.device,
            wrap=ray.train.torch.prepare_model,
            mean_over_ranks=_mean_over_ranks if self.world > 1 else lambda value: value,
            seed=self.config.seed,
        )
        self.progress = self._restored() or Progress(
            step=0,
            targets=self.config.targets,
            sample_rate=manifest.sample_rate,
            channels=manifest.channels,
        )
        self.progress = with_fields(
            self.progress,
            manifest_digest=manifest.digest,
            commit=loop["commit"],
            version=__version__,
            hardware=provenance.hardware(self.device, self.world),
        )
        self.board: Any = loop["board"] if self.rank == 0 else None
        self.writer = SummaryWriter(str(self.folder / "tensorboard"), purge_step=self.progress.step) if self.rank == 0 else None
        fixed = validation_batches(
            self.reader, self.config.crops, targets=self.config.targets, num_crops=self.config.num_validation_crops
        )
        self.validation = [batch.to(self.device) for batch in fixed[self.rank :: self.world]]
        self.can_validate = bool(fixed)
        self.clock = _Clock()
        self.losses: dict[str, float] = {}

    @property
    def finished(self) -> bool:
        return self.progress.step >= self.config.steps

    def batches(self) -> Any:
        """Batches from the next step to the last, each on this worker's device; waiting for them is timed."""
        stream = CropStream(
            self.reader,
            self.config.crops,
            targets=self.config.targets,
            seed=self.config.seed,
            rank=self.rank,
            world_size=self.world,
            start_step=self.progress.step,
            num_steps=self.config.steps,
        )
        pinned = self.device.type == "cuda"
        loader = iter(crop_loader(stream, num_loader_processes=self.config.num_loader_processes, pin_memory=pinned))
        for _ in range(self.config.steps - self.progress.step):
            with self.clock.waiting():
                batch: Batch = next(loader).to(self.device, non_blocking=True)
            yield batch

    def step(self, batch: Batch) -> None:
        losses = self.model.step(batch)
        self.progress = with_fields(self.progress, step=self.progress.step + 1)
        if self.board is not None and self.clock.shall_tell():
            self._tell(losses)

    def due(self) -> bool:
        return self.progress.step % self.config.validate_every == 0 or self.finished

    def validate_and_report(self) -> None:
        """Validate on all ranks, then hand metrics and (from rank 0) a checkpoint to Ray Train; every rank must call."""
        metrics = self._validated()
        seconds = self.progress.training_seconds + self.clock.lap()
        self.progress = with_fields(self.progress, metrics=metrics, training_seconds=seconds)
        name = f"step-{self.progress.step:08d}"
        reported: dict[str, Any] = {"step": self.progress.step, "score": metrics.get("validation/sdr", 0.0), **metrics}
        if self.rank != 0:
            ray.train.report(reported, checkpoint_dir_name=name)
            return
        self._write_scalars(metrics)
        with tempfile.TemporaryDirectory(prefix="cyclesep-checkpoint-") as folder:
            checkpoints.save(Path(folder), self.model, self.config, self.progress)
            ray.train.report(reported, checkpoint=ray.train.Checkpoint.from_directory(folder), checkpoint_dir_name=name)

    def close(self) -> None:
        if self.writer is not None:
            self.writer.close()

    def _restored(self) -> Progress | None:
        checkpoint = ray.train.get_checkpoint()
        if checkpoint is not None:
            with checkpoint.as_directory() as folder:
                return checkpoints.load_state(Path(folder), self.model)
        if self.config.start_from is not None:
            return checkpoints.load_state(checkpoints.find(self.config.start_from), self.model)
        return None

    def _validated(self) -> dict[str, float]:
        if not self.can_validate:
            return {}
        total = torch.zeros(len(self.config.targets), 4, dtype=torch.float64, device=self.device)
        if self.validation:
            total += validation.validate(self.model.ema_separator, self.validation)
        if self.world > 1:
            torch.distributed.all_reduce(total)
        return validation.summarise(total.cpu(), self.config.targets)

    def _tell(self, losses: dict[str, float | Tensor]) -> None:
        self.losses = {name: float(value) for name, value in losses.items()}
        rates = self.clock.rates(self.config.crops.batch_size)
        shown = ShownProgress(step=self.progress.step, losses=self.losses, metrics=self.progress.metrics, **rates)
        self.board.tell.remote(shown)
        if self.writer is not None:
            for name, value in {**self.losses, "speed/crops_per_second": rates["crops_per_second"], "speed/data_wait": rates["data_wait"]}.items():
                self.writer.add_scalar(name, value, self.progress.step)

    def _write_scalars(self, metrics: dict[str, float]) -> None:
        assert self.writer is not None
        for name, value in metrics.items():
            self.writer.add_scalar(name, value, self.progress.step)
        self.writer.flush()
        if self.board is not None:
            rates = self.clock.rates(self.config.crops.batch_size)
            self.board.tell.remote(ShownProgress(step=self.progress.step, losses=self.losses, metrics=metrics, **rates))
        with (self.folder / "metrics.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": self.progress.step, **self.losses, **metrics}) + "\n")


class _Clock:
    """Where the time of a worker goes."""

    def __init__(self) -> None:
        self._started = self._told = self._lap = time.monotonic()
        self._waited = 0.0
        self._steps = 0

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Count the block as waiting for data."""
        began = time.monotonic()
        yield
        self._waited += time.monotonic() - began
        self._steps += 1

    def shall_tell(self, every_seconds: float = 1.0) -> bool:
        """Whether the last telling is so long ago; asking resets nothing, `rates` does."""
        return time.monotonic() - self._told >= every_seconds

    def rates(self, batch_size: int) -> dict[str, float]:
        """Crops per second over all workers and the share of time spent waiting, since the last call."""
        seconds = max(time.monotonic() - self._told, 1e-9)
        rates = {"crops_per_second": self._steps * batch_size / seconds, "data_wait": self._waited / seconds}
        self._told, self._waited, self._steps = time.monotonic(), 0.0, 0
        return rates

    def lap(self) -> float:
        """Seconds since the last lap."""
        now = time.monotonic()
        seconds, self._lap = now - self._lap, now
        return seconds


def _mean_over_ranks(value: Tensor) -> Tensor:
    mean = value.detach().clone()
    torch.distributed.all_reduce(mean)
    return mean / torch.distributed.get_world_size()


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
            known = _known_cause(failure)
            if known is not None:
                raise known from failed
        raise TrainingError(f"training failed: {_last_line(str(failed))}") from failed
    except ray.train.ControllerError as failed:
        raise TrainingError(f"the workers could not be started or kept: {_last_line(str(failed))}") from failed


def _known_cause(failure: BaseException | None) -> CyclesepError | None:
    """The error of ours inside what Ray wraps around it."""
    while failure is not None:
        if isinstance(failure, CyclesepError):
            return failure
        failure = getattr(failure, "_base_exc", None) or getattr(failure, "cause", None) or failure.__cause__
    return None


def _refuse_impossible(config: TrainConfig) -> None:
    manifest = ShardReader(config.shards).manifest
    known = sorted({stem for track in manifest.tracks for stem in track.stems} - {"mixture"})
    missing = [target for target in config.targets if target not in known]
    if missing:
        raise ConfigError(f"targets: {config.shards} holds no stem {missing[0]!r}; it holds {', '.join(known)}")
    CropStream(ShardReader(config.shards), config.crops, targets=config.targets, world_size=config.num_workers)
    resources = ray.cluster_resources()
    cpus = config.num_workers * config.cpus_per_worker
    if cpus > resources.get("CPU", 0):
        raise ConfigError(
            f"num_workers={config.num_workers} with cpus_per_worker={config.cpus_per_worker:g} needs {cpus:g} CPUs and the "
            f"cluster has {resources.get('CPU', 0):g}; lower one of them"
        )
    if config.use_gpu and config.num_workers > resources.get("GPU", 0):
        raise ConfigError(
            f"use_gpu=true with num_workers={config.num_workers} needs as many GPUs and the cluster has "
            f"{resources.get('GPU', 0):g}; lower num_workers, or leave use_gpu out"
        )


def _claim(folder: Path, config: TrainConfig) -> None:
    """Write the config into a new run folder, or see that an old one was made with the same settings."""
    file = folder / checkpoints.CONFIG
    if not file.exists():
        files.write_text(file, settings.to_yaml(config))
        return
    if config.start_from is not None:
        raise ConfigError(f"name: the run {folder} exists, and start_from begins a new one; give it another name=")
    before = settings.load(TrainConfig, [file])
    now = with_fields(config, **{name: getattr(before, name) for name in _MAY_CHANGE})
    if now != with_fields(before, storage=config.storage):
        differing = [name for name, value in _flat(settings.to_dict(now)) if dict(_flat(settings.to_dict(before))).get(name) != value]
        raise ConfigError(
            f"name: the run {folder} was started with other settings ({', '.join(differing)}); "
            f"give this one another name=, or take those of {file}"
        )
    files.write_text(file, settings.to_yaml(config))


# What a run may be continued with differently: how long, where and on how many machines, none of which changes a step.
_MAY_CHANGE = (
    "steps", "shards", "start_from", "num_workers", "use_gpu", "cpus_per_worker", "num_loader_processes",
    "validate_every", "num_validation_crops", "num_checkpoints", "max_failures",
)  # fmt: skip


def _flat(values: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def _use_gpu(config: TrainConfig) -> bool:
    available: float = ray.cluster_resources().get("GPU", 0)
    return available >= config.num_workers if config.use_gpu is None else config.use_gpu


def _with_absolute_paths(config: TrainConfig) -> TrainConfig:
    """Workers run in a folder of their own."""
    start_from = config.start_from and str(Path(config.start_from).resolve())
    return with_fields(
        config,
        shards=str(Path(config.shards).resolve()),
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
