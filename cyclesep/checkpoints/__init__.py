"""Checkpoints: a folder that separates, scores or resumes with no other argument, and holds data only, never code.

separator.safetensors   the weights that are shipped: the moving average of the separator's
training_state.pt       all weights, optimizers and counters, for an exact resume (tensors and numbers only)
config.yaml             the resolved config of the run
metadata.json           step, metrics, and what they were made from and on: the checkpoint's card

Wherever a checkpoint or a run is named, it may lie in S3; the files that are needed are then copied to this machine.
"""

import hashlib
import json
import pickle
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import safetensors
import torch
import yaml
from safetensors.torch import load_file, save_file
from torch import nn

from cyclesep.config import settings
from cyclesep.config.suggestions import did_you_mean
from cyclesep.cyclegan.model import CycleGAN
from cyclesep.errors import CheckpointError, ConfigError, ObjectNotFound
from cyclesep.models.separators.config import SeparatorConfig
from cyclesep.models.separators.separator import build_separator
from cyclesep.storage import atomic_io
from cyclesep.storage.path import StoragePath
from cyclesep.storage.uri import display_path, is_remote

WEIGHTS, STATE, CONFIG, METADATA = "separator.safetensors", "training_state.pt", "config.yaml", "metadata.json"
RUN = "run.json"
# What names of a run's checkpoints begin with.
STEP = "step-"
# Where `cyclesep train` puts runs unless it is told otherwise, and where the name of a run is looked up.
RUNS = "runs"


@dataclass(frozen=True, kw_only=True)
class CheckpointMetadata:
    """How far a run has come, and the card of what it has made."""

    step: int
    """Optimizer steps done."""
    targets: tuple[str, ...]
    """What the separator extracts, in the order of its outputs."""
    sample_rate: int
    """Hz at which the separator works."""
    channels: int
    """Audio channels in and out of the separator."""
    metrics: dict[str, float] = field(default_factory=dict)
    """The last validation and the losses at that step."""
    manifest_digest: str = ""
    """SHA-256 of the shards' manifest: which audio it was trained on."""
    commit: str = ""
    """Git commit of the code, with a plus sign if the tree had changes."""
    version: str = ""
    """Version of cyclesep."""
    hardware: str = ""
    """What it was trained on."""
    training_seconds: float = 0.0
    """Wall-clock seconds of training so far, over all resumes."""


@dataclass(frozen=True, kw_only=True)
class LoadedSeparator:
    """A separator ready for use, in evaluation mode."""

    module: nn.Module
    targets: tuple[str, ...]
    sample_rate: int
    channels: int
    digest: str
    path: Path
    """The checkpoint folder on this machine."""
    place: str
    """Where it lies: the path again, or s3://bucket/prefix."""


def save(folder: Path, model: CycleGAN, config: object, progress: CheckpointMetadata) -> None:
    """Write a checkpoint into `folder`; each file appears whole or not at all, metadata.json last."""
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in model.ema_separator.state_dict().items()}
    with atomic_io.replacing(folder / WEIGHTS) as partial:
        save_file(weights, partial)
    with atomic_io.replacing(folder / STATE) as partial:
        torch.save(model.state_dict(), partial)
    atomic_io.write_text(folder / CONFIG, settings.to_yaml(config))
    atomic_io.write_text(folder / METADATA, json.dumps(asdict(progress), indent=2) + "\n")


def load_state(path: Path | str | StoragePath, model: CycleGAN) -> CheckpointMetadata:
    """Put the whole training state of a checkpoint, or of a run's best one, into `model`.

    Raises CheckpointError if there is none or it does not fit.
    """
    folder = located(path)
    progress = read_metadata(folder)
    told = folder.file_uri(STATE)
    try:
        state = torch.load(folder.local_path(STATE) / STATE, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as problem:
        # What torch says of a damaged file tells about torch.
        why = _short(problem) if isinstance(problem, OSError) else "it cannot be unpacked"
        raise CheckpointError(f"{told}: is missing or damaged ({why}); copy the checkpoint again") from problem
    try:
        model.load_state_dict(state)
    except (RuntimeError, KeyError, ValueError) as problem:
        raise CheckpointError(
            f"{told}: does not fit the networks of this config ({_short(problem)}); use the config.yaml beside it"
        ) from problem
    return progress


def load_separator(path: Path | str | StoragePath, device: torch.device | str = "cpu") -> LoadedSeparator:
    """The separator of a checkpoint folder, or of the best checkpoint of a run folder, on `device`.

    Raises CheckpointError for a folder that is not a checkpoint, or whose weights are damaged or of another network.
    """
    folder = located(path)
    progress = read_metadata(folder)
    module = build_separator(
        _separator_config(folder),
        targets=len(progress.targets),
        channels=progress.channels,
        sample_rate=progress.sample_rate,
    )
    told = folder.file_uri(WEIGHTS)
    here = folder.local_path(WEIGHTS, CONFIG, METADATA)
    try:
        module.load_state_dict(load_file(here / WEIGHTS))
    except (OSError, safetensors.SafetensorError) as problem:
        raise CheckpointError(
            f"{told}: is missing or damaged ({_short(problem)}); copy the checkpoint again"
        ) from problem
    except RuntimeError as problem:
        raise CheckpointError(
            f"{told}: does not fit the network in {CONFIG} beside it ({_short(problem)})"
        ) from problem
    return LoadedSeparator(
        module=module.to(device).eval(),
        targets=progress.targets,
        sample_rate=progress.sample_rate,
        channels=progress.channels,
        digest=hashlib.sha256((here / WEIGHTS).read_bytes()).hexdigest(),
        path=here,
        place=folder.uri,
    )


def find(path: Path | str | StoragePath) -> Path:
    """The checkpoint folder that `path` means, on this machine; see `located`.

    Of one in S3 it holds all but the training state.
    """
    return located(path).local_path(WEIGHTS, CONFIG, METADATA)


def located(path: Path | str | StoragePath) -> StoragePath:
    """The checkpoint that `path` means: itself, or the best one of the run folder that it is.

    The name of a run alone means the one below `runs`. Raises CheckpointError if there is none.
    """
    folder = run_folder(path)
    if folder.has_file(METADATA):
        return folder
    if folder.has_file(RUN):
        return folder.child(_best(folder))
    raise CheckpointError(f"{folder.uri}: is neither a checkpoint nor a finished run; {_remedy(folder)}")


def run_folder(path: Path | str | StoragePath) -> StoragePath:
    """A place as it is, or below `runs` if it is the name of a run there and nothing of that name lies here."""
    if isinstance(path, StoragePath):
        return path
    if is_remote(path):
        return StoragePath.of(path)
    path = Path(path)
    named = Path(RUNS) / path
    return StoragePath.of(str(named if len(path.parts) == 1 and not path.exists() and named.is_dir() else path))


def _best(run: StoragePath) -> str:
    best = _read_json(run, RUN).get("best")
    if not isinstance(best, str) or not atomic_io.is_name(best):
        raise CheckpointError(f"{run.file_uri(RUN)}: best is {best!r} and no folder beside it; copy the run again")
    return best


def read_metadata(folder: Path | str | StoragePath) -> CheckpointMetadata:
    """metadata.json of a checkpoint folder."""
    folder = run_folder(folder)
    told = folder.file_uri(METADATA)
    try:
        progress = settings.build(CheckpointMetadata, _read_json(folder, METADATA))
    except ConfigError as problem:
        raise CheckpointError(f"{told}: was written by another version of cyclesep ({problem})") from problem
    for target in progress.targets:
        # Targets become names of files.
        if not atomic_io.is_name(target):
            raise CheckpointError(f"{told}: target {target!r} is no name; get the checkpoint elsewhere")
    return progress


def steps_of(run: StoragePath) -> list[str]:
    """Names of a run's checkpoints, the earliest first."""
    return [name for name in run.folders() if name.startswith(STEP) and run.child(name).has_file(METADATA)]


def write_run(folder: Path | str | StoragePath, *, best: str, last: str) -> None:
    """Write run.json, by which a run folder stands for its best checkpoint; both names are folders inside it."""
    run_folder(folder).write_text(RUN, json.dumps({"best": best, "last": last}, indent=2) + "\n")


def _remedy(folder: StoragePath) -> str:
    """Suggest the name of an existing run if the path is a plain name, else describe a valid folder."""
    runs = sorted(each.parent.name for each in Path(RUNS).glob(f"*/{RUN}"))
    if "/" in display_path(folder.uri) or Path(folder.uri).exists() or not runs:
        return f"give a folder that holds {METADATA} or {RUN}"
    return did_you_mean(folder.name, runs, label="runs here")


def _separator_config(folder: StoragePath) -> SeparatorConfig:
    told = folder.file_uri(CONFIG)
    try:
        values = yaml.safe_load(folder.read_text(CONFIG))
        return settings.build(SeparatorConfig, values["method"]["separator"])
    except (ObjectNotFound, yaml.YAMLError, KeyError, TypeError) as problem:
        raise CheckpointError(
            f"{told}: is missing or damaged ({_short(problem)}); copy the checkpoint again"
        ) from problem
    except ConfigError as problem:
        raise CheckpointError(f"{told}: was written by another version of cyclesep ({problem})") from problem


def _read_json(folder: StoragePath, name: str) -> dict[str, Any]:
    try:
        return dict(json.loads(folder.read_text(name)))
    except (ObjectNotFound, ValueError, TypeError) as problem:
        told = f"{folder.file_uri(name)}: is missing or damaged ({_short(problem)})"
        raise CheckpointError(f"{told}; copy the checkpoint again") from problem


def _short(problem: BaseException) -> str:
    if isinstance(problem, ObjectNotFound):
        return "there is no such file"
    if isinstance(problem, OSError) and problem.strerror:
        return problem.strerror
    return " ".join(str(problem).split())[:160]
