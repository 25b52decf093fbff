"""The folder of a run: the same name goes on where it stopped, other settings need another name."""

from dataclasses import replace

from cyclesep.checkpoints.metadata import CONFIG_FILE, read_metadata
from cyclesep.checkpoints.run_folder import RunFolder
from cyclesep.config import settings
from cyclesep.config.nesting import flatten
from cyclesep.errors import ConfigError
from cyclesep.storage.path import StoragePath
from cyclesep.training.config import TrainConfig

# From this sample rate (Hz) on a run on GPUs is for quality, unless told otherwise.
QUALITY_RATE = 32000


def create_or_resume(folder: StoragePath, config: TrainConfig) -> None:
    """Write the config into a new run folder, or see that an old one was made with the same settings."""
    before = _before(folder)
    if before is None:
        folder.write_text(CONFIG_FILE, settings.to_yaml(config))
        return
    if config.init_from not in (None, before.init_from):
        told = f"name: the run {folder.uri} exists, and init_from begins a new one"
        raise ConfigError(f"{told}; give it another name=")
    old = dict(flatten(settings.to_dict(before)))
    now = settings.replace(config, {name: old[name] for name in _MAY_CHANGE})
    if now != replace(before, output_dir=config.output_dir):
        differing = [name for name, value in flatten(settings.to_dict(now)) if old.get(name) != value]
        raise ConfigError(
            f"name: the run {folder.uri} was started with other settings ({', '.join(differing)}); "
            f"give this one another name=, or take those of {folder.file_uri(CONFIG_FILE)}"
        )
    folder.write_text(CONFIG_FILE, settings.to_yaml(config))


def with_separator(config: TrainConfig, folder: StoragePath, *, sample_rate: int, use_gpu: bool) -> TrainConfig:
    """Name the separator where nobody did: the one the run began with, else the best that its machines can train."""
    if config.method.separator.name is not None:
        return config
    before = _before(folder)
    if before is not None:
        name = before.method.separator.name
    else:
        name = "tfsep" if use_gpu and sample_rate >= QUALITY_RATE else "waveunet"
    return settings.replace(config, {"method.separator.name": name})


def refuse_other_audio(folder: StoragePath, shards: str, manifest_digest: str) -> None:
    """Raise ConfigError if the last checkpoint of a run was trained on other audio than the shards now hold."""
    done = RunFolder(folder).checkpoints()
    before = read_metadata(done[-1]).manifest_digest if done else ""
    if before not in ("", manifest_digest):
        raise ConfigError(
            f"shards: {shards} holds other audio (manifest {manifest_digest[:12]}) than what the run {folder.uri} "
            f"was trained on ({before[:12]}); give that, or start a new run from this one: "
            f"init_from={folder.uri} name=..."
        )


def _before(folder: StoragePath) -> TrainConfig | None:
    """The config that a run began with; None for a new one."""
    if not folder.has_file(CONFIG_FILE):
        return None
    with folder.reading(CONFIG_FILE) as file:
        try:
            return settings.load(TrainConfig, [file])
        except ConfigError as problem:
            raise ConfigError(str(problem).replace(str(file), folder.file_uri(CONFIG_FILE))) from problem


# What a run may be continued with differently: how long (which stretches a cosine schedule), where, and on how many
# machines. The shards may have moved; the digest in each checkpoint tells whether they are the same.
_MAY_CHANGE = (
    "steps", "shards", "init_from", "num_workers", "use_gpu", "scale_up_timeout_minutes", "cpus_per_worker",
    "num_dataloader_workers", "validate_every", "num_validation_crops", "num_sample_crops", "logger",
    "keep_checkpoints", "max_failures", "method.gradient_accumulation_steps",
)  # fmt: skip
