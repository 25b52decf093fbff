"""The folder of a run: the same name goes on where it stopped, other settings need another name."""

from dataclasses import replace
from pathlib import Path

from cyclesep import checkpoints, files, settings
from cyclesep.errors import ConfigError
from cyclesep.training.config import TrainConfig

# From this sample rate (Hz) on a run on GPUs is for quality, unless told otherwise.
QUALITY_RATE = 32000


def claim(folder: Path, config: TrainConfig) -> None:
    """Write the config into a new run folder, or see that an old one was made with the same settings."""
    file = folder / checkpoints.CONFIG
    if not file.exists():
        files.write_text(file, settings.to_yaml(config))
        return
    before = settings.load(TrainConfig, [file])
    if config.start_from not in (None, before.start_from):
        raise ConfigError(f"name: the run {folder} exists, and start_from begins a new one; give it another name=")
    old = dict(settings.flat(settings.to_dict(before)))
    now = settings.replace(config, {name: old[name] for name in _MAY_CHANGE})
    if now != replace(before, storage=config.storage):
        differing = [name for name, value in settings.flat(settings.to_dict(now)) if old.get(name) != value]
        raise ConfigError(
            f"name: the run {folder} was started with other settings ({', '.join(differing)}); "
            f"give this one another name=, or take those of {file}"
        )
    files.write_text(file, settings.to_yaml(config))


def with_separator(config: TrainConfig, folder: Path, *, sample_rate: int, use_gpu: bool) -> TrainConfig:
    """Name the separator where nobody did: the one the run began with, else the best that its machines can train."""
    if config.cyclegan.separator.name is not None:
        return config
    file = folder / checkpoints.CONFIG
    if file.exists():
        name = settings.load(TrainConfig, [file]).cyclegan.separator.name
    else:
        name = "tfsep" if use_gpu and sample_rate >= QUALITY_RATE else "waveunet"
    return settings.replace(config, {"cyclegan.separator.name": name})


def refuse_other_audio(folder: Path, shards: str, manifest_digest: str) -> None:
    """Raise ConfigError if the last checkpoint of a run was trained on other audio than the shards now hold."""
    done = sorted(folder.glob(f"step-*/{checkpoints.PROGRESS}"))
    before = checkpoints.read_progress(done[-1].parent).manifest_digest if done else ""
    if before not in ("", manifest_digest):
        raise ConfigError(
            f"shards: {shards} holds other audio (manifest {manifest_digest[:12]}) than what the run {folder} was "
            f"trained on ({before[:12]}); give that, or start a new run from this one: start_from={folder} name=..."
        )


# What a run may be continued with differently: how long (which stretches a cosine schedule), where, and on how many
# machines. The shards may have moved; the digest in each checkpoint tells whether they are the same.
_MAY_CHANGE = (
    "steps", "shards", "start_from", "num_workers", "use_gpu", "wait_minutes", "cpus_per_worker",
    "num_loader_processes", "validate_every", "num_validation_crops", "num_sample_crops", "track_with",
    "num_checkpoints", "max_failures", "cyclegan.accumulate",
)  # fmt: skip
