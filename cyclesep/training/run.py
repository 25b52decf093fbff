"""A training run before it starts: resolving its folder, separator and devices, and checking its settings."""

import logging
from dataclasses import dataclass, replace

import ray

from cyclesep.audio.stem_names import MIXTURE
from cyclesep.checkpoints.metadata import CONFIG_FILE, read_metadata
from cyclesep.checkpoints.run_folder import RunFolder, find_checkpoint, resolve_folder
from cyclesep.config import settings
from cyclesep.data.crops.pairing import validation_sampler
from cyclesep.data.shards.reading import ShardReader
from cyclesep.errors import ConfigError
from cyclesep.storage.path import StoragePath
from cyclesep.storage.uri import absolute_uri
from cyclesep.training.config import TrainConfig
from cyclesep.training.dry_run import dry_run_step

# From this sample rate in Hz, runs on GPUs use the larger separator by default.
TFSEP_MIN_RATE = 32000

# Settings that may differ when a run is resumed: its length (which stretches a cosine schedule), place and machines.
# The shards may have moved; the digest in each checkpoint shows whether they are the same.
_MAY_CHANGE = (
    "output_dir", "steps", "shards", "init_from", "num_workers", "use_gpu", "scale_up_timeout_minutes",
    "cpus_per_worker", "num_dataloader_workers", "validate_every", "num_validation_crops", "num_sample_crops", "logger",
    "keep_checkpoints", "max_failures", "method.gradient_accumulation_steps",
)  # fmt: skip

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Run:
    """A checked training run."""

    config: TrainConfig
    """With the separator resolved; written to the run folder."""
    worker_config: TrainConfig
    """The same with absolute locations: workers run in other working directories."""
    folder: RunFolder
    use_gpu: bool
    gpus_per_worker: float = 1.0
    """Fraction of a GPU that each worker reserves if `use_gpu` is set."""

    @property
    def resources_per_worker(self) -> dict[str, float]:
        """Ray resources of each worker."""
        gpus = {"GPU": self.gpus_per_worker} if self.use_gpu else {}
        return {"CPU": self.config.cpus_per_worker, **gpus}


def prepare_run(config: TrainConfig, reader: ShardReader, *, gpus_per_worker: float = 1.0) -> Run:
    """Resolve a config for the shards of `reader` and the connected Ray cluster, and check it.

    Raises ConfigError for settings that do not fit the shards, the cluster, each other or the existing run of that
    name, CheckpointError if `init_from` cannot be loaded, ShardError if crops cannot be read.
    """
    folder = RunFolder(StoragePath.of(config.output_dir).child(config.name))
    use_gpu = _gpus() >= config.num_workers if config.use_gpu is None else config.use_gpu
    config = with_default_separator(config, folder, sample_rate=reader.manifest.sample_rate, use_gpu=use_gpu)
    check_targets(config, reader)
    check_same_audio(folder, config.shards, reader.manifest.digest)
    check_init_from(config)
    dry_run_step(config, reader)
    check_cluster(config)
    warn_without_validation(config, reader)
    return Run(
        config=config,
        worker_config=with_absolute_uris(config),
        folder=folder,
        use_gpu=use_gpu,
        gpus_per_worker=gpus_per_worker,
    )


def create_or_resume(folder: RunFolder, config: TrainConfig) -> None:
    """Write the config into the folder of a run; raise ConfigError if the existing run has other settings."""
    before = _existing_config(folder)
    if before is not None:
        _check_same_settings(folder, before, config)
    folder.path.write_text(CONFIG_FILE, settings.to_yaml(config))


def with_default_separator(config: TrainConfig, folder: RunFolder, *, sample_rate: int, use_gpu: bool) -> TrainConfig:
    """Set the separator if the config has none: that of the existing run, or the default for rate (Hz) and device."""
    if config.method.separator.name is not None:
        return config
    before = _existing_config(folder)
    if before is not None:
        name = before.method.separator.name
    else:
        name = "tfsep" if use_gpu and sample_rate >= TFSEP_MIN_RATE else "waveunet"
    return settings.replace(config, {"method.separator.name": name})


def with_absolute_uris(config: TrainConfig) -> TrainConfig:
    """Return the config with absolute locations."""
    init_from = config.init_from and absolute_uri(resolve_folder(config.init_from).uri)
    return replace(
        config, shards=absolute_uri(config.shards), output_dir=absolute_uri(config.output_dir), init_from=init_from
    )


def check_targets(config: TrainConfig, reader: ShardReader) -> None:
    """Raise ConfigError for targets that the shards do not contain or that are repeated."""
    known = sorted(set(reader.manifest.stems) - {MIXTURE})
    missing = [target for target in config.targets if target not in known]
    if missing:
        raise ConfigError(f"targets: {config.shards} has no stem {missing[0]!r}; it has {', '.join(known)}")
    if len(set(config.targets)) < len(config.targets):
        raise ConfigError(f"targets: {', '.join(config.targets)} contains a stem twice; specify each stem once")


def check_init_from(config: TrainConfig) -> None:
    """Raise ConfigError if the checkpoint to start from has as many steps as the new run."""
    if config.init_from is None:
        return
    done = read_metadata(find_checkpoint(config.init_from)).step
    if done >= config.steps:
        raise ConfigError(f"steps={config.steps}: {config.init_from} already has {done} steps; increase steps")


def check_cluster(config: TrainConfig) -> None:
    """Raise ConfigError if the cluster has too few CPUs or GPUs and is not expected to grow."""
    if config.scale_up_timeout_minutes:
        return
    cpus, available = config.num_workers * config.cpus_per_worker, ray.cluster_resources().get("CPU", 0)
    if cpus > available:
        raise ConfigError(
            f"num_workers={config.num_workers} with cpus_per_worker={config.cpus_per_worker:g} needs {cpus:g} CPUs, "
            f"the cluster has {available:g}; lower one of them, or set scale_up_timeout_minutes if the cluster grows"
        )
    if config.use_gpu and config.num_workers > _gpus():
        raise ConfigError(
            f"use_gpu=true with num_workers={config.num_workers} needs as many GPUs, the cluster has {_gpus():g}; "
            "lower num_workers, omit use_gpu, or set scale_up_timeout_minutes if the cluster grows"
        )


def check_same_audio(folder: RunFolder, shards: str, manifest_digest: str) -> None:
    """Raise ConfigError if the last checkpoint of an existing run was trained on other audio than in the shards."""
    checkpoints = folder.checkpoints()
    before = read_metadata(checkpoints[-1]).manifest_digest if checkpoints else ""
    if before not in ("", manifest_digest):
        raise ConfigError(
            f"shards: {shards} contains other audio (manifest {manifest_digest[:12]}) than the run {folder.path.uri} "
            f"was trained on ({before[:12]}); use the original shards, or start a new run from this one: "
            f"init_from={folder.path.uri} name=..."
        )


def warn_without_validation(config: TrainConfig, reader: ShardReader) -> None:
    """Log a warning if the valid split has no track with the targets."""
    num_samples = round(config.crops.crop_seconds * reader.manifest.sample_rate)
    valid = reader.manifest.split("valid")
    if validation_sampler(valid, config.crops, targets=config.targets, num_samples=num_samples) is None:
        _log.warning(
            "%s: no track of the valid split has references for %s, so there is no validation and the last checkpoint "
            "counts as the best; to validate, ingest some tracks with stems into the valid split",
            config.shards,
            " and ".join(config.targets),
        )


def _check_same_settings(folder: RunFolder, before: TrainConfig, config: TrainConfig) -> None:
    if config.init_from not in (None, before.init_from):
        raise ConfigError(f"name: the run {folder.path.uri} exists, and init_from starts a new run; set another name=")
    differing = [name for name in settings.differences(before, config) if name not in _MAY_CHANGE]
    if differing:
        raise ConfigError(
            f"name: the run {folder.path.uri} was started with other settings ({', '.join(differing)}); "
            f"set another name=, or use the settings in {folder.path.file_uri(CONFIG_FILE)}"
        )


def _existing_config(folder: RunFolder) -> TrainConfig | None:
    """Return the config of an existing run, None for a new one."""
    if not folder.is_started:
        return None
    with folder.path.reading(CONFIG_FILE) as file:
        try:
            return settings.load(TrainConfig, [file])
        except ConfigError as problem:
            raise ConfigError(str(problem).replace(str(file), folder.path.file_uri(CONFIG_FILE))) from problem


def _gpus() -> float:
    return float(ray.cluster_resources().get("GPU", 0))
