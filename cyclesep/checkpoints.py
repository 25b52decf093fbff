"""Checkpoints: a folder that separates, scores or resumes with no other argument, and holds data only, never code.

separator.safetensors   the weights that are shipped: the moving average of the separator's
training_state.pt       all weights, optimizers and counters, for an exact resume (tensors and numbers only)
config.yaml             the resolved config of the run
progress.json           step, metrics, and what they were made from and on: the checkpoint's card
"""

import difflib
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

from cyclesep import files, settings
from cyclesep.cyclegan import CycleGAN
from cyclesep.errors import CheckpointError, ConfigError
from cyclesep.generators import SeparatorConfig, build_separator

WEIGHTS, STATE, CONFIG, PROGRESS = "separator.safetensors", "training_state.pt", "config.yaml", "progress.json"
RUN = "run.json"
# Where `cyclesep train` puts runs unless it is told otherwise, and where the name of a run is looked up.
RUNS = "runs"


@dataclass(frozen=True, kw_only=True)
class Progress:
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


def save(folder: Path, model: CycleGAN, config: object, progress: Progress) -> None:
    """Write a checkpoint into `folder`; each file appears whole or not at all, progress.json last."""
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in model.ema_separator.state_dict().items()}
    with files.replacing(folder / WEIGHTS) as partial:
        save_file(weights, partial)
    with files.replacing(folder / STATE) as partial:
        torch.save(model.state_dict(), partial)
    files.write_text(folder / CONFIG, settings.to_yaml(config))
    files.write_text(folder / PROGRESS, json.dumps(asdict(progress), indent=2) + "\n")


def load_state(folder: Path, model: CycleGAN) -> Progress:
    """Put a checkpoint's whole training state into `model`; raises CheckpointError if it does not fit."""
    progress = read_progress(folder)
    try:
        state = torch.load(folder / STATE, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as problem:
        # What torch says of a damaged file tells about torch.
        told = _short(problem) if isinstance(problem, OSError) else "it cannot be unpacked"
        raise CheckpointError(
            f"{folder / STATE}: is missing or damaged ({told}); copy the checkpoint again"
        ) from problem
    try:
        model.load_state_dict(state)
    except (RuntimeError, KeyError, ValueError) as problem:
        raise CheckpointError(
            f"{folder / STATE}: does not fit the networks of this config ({_short(problem)}); "
            f"use the config.yaml beside it"
        ) from problem
    return progress


def load_separator(path: Path | str, device: torch.device | str = "cpu") -> LoadedSeparator:
    """The separator of a checkpoint folder, or of the best checkpoint of a run folder, on `device`.

    Raises CheckpointError for a folder that is not a checkpoint, or whose weights are damaged or of another network.
    """
    folder = find(path)
    progress = read_progress(folder)
    module = build_separator(
        _separator_config(folder),
        targets=len(progress.targets),
        channels=progress.channels,
        sample_rate=progress.sample_rate,
    )
    weights = folder / WEIGHTS
    try:
        module.load_state_dict(load_file(weights))
    except (OSError, safetensors.SafetensorError) as problem:
        raise CheckpointError(
            f"{weights}: is missing or damaged ({_short(problem)}); copy the checkpoint again"
        ) from problem
    except RuntimeError as problem:
        raise CheckpointError(
            f"{weights}: does not fit the network in {CONFIG} beside it ({_short(problem)})"
        ) from problem
    return LoadedSeparator(
        module=module.to(device).eval(),
        targets=progress.targets,
        sample_rate=progress.sample_rate,
        channels=progress.channels,
        digest=hashlib.sha256(weights.read_bytes()).hexdigest(),
        path=folder,
    )


def find(path: Path | str) -> Path:
    """The checkpoint folder that `path` means: itself, or the best one of the run folder that it is.

    The name of a run alone means the one below `runs`. Raises CheckpointError if there is none.
    """
    path = run_folder(path)
    if (path / PROGRESS).is_file():
        return path
    if (path / RUN).is_file():
        return path / _best(path / RUN)
    raise CheckpointError(f"{path}: is neither a checkpoint nor a finished run; {_remedy(path)}")


def run_folder(path: Path | str) -> Path:
    """A path as it is, or below `runs` if it is the name of a run there and nothing of that name lies here."""
    path = Path(path)
    named = Path(RUNS) / path
    return named if len(path.parts) == 1 and not path.exists() and named.is_dir() else path


def _best(file: Path) -> str:
    best = _read_json(file).get("best")
    if not isinstance(best, str) or not files.is_name(best):
        raise CheckpointError(f"{file}: best is {best!r} and no folder beside it; copy the run again")
    return best


def read_progress(folder: Path) -> Progress:
    """progress.json of a checkpoint folder."""
    try:
        progress = settings.build(Progress, _read_json(folder / PROGRESS))
    except ConfigError as problem:
        raise CheckpointError(
            f"{folder / PROGRESS}: was written by another version of cyclesep ({problem})"
        ) from problem
    for target in progress.targets:
        # Targets become names of files.
        if not files.is_name(target):
            raise CheckpointError(f"{folder / PROGRESS}: target {target!r} is no name; get the checkpoint elsewhere")
    return progress


def write_run(folder: Path, *, best: str, last: str) -> None:
    """Write run.json, by which a run folder stands for its best checkpoint; both names are folders inside it."""
    files.write_text(folder / RUN, json.dumps({"best": best, "last": last}, indent=2) + "\n")


def _remedy(path: Path) -> str:
    """What to give in place of `path`: a run of a similar name, if it is the name of one."""
    runs = sorted(each.parent.name for each in Path(RUNS).glob(f"*/{RUN}"))
    if len(path.parts) > 1 or path.exists() or not runs:
        return f"give a folder that holds {PROGRESS} or {RUN}"
    near = difflib.get_close_matches(path.name, runs, n=1)
    return f"did you mean {near[0]}?" if near else f"runs here: {', '.join(runs)}"


def _separator_config(folder: Path) -> SeparatorConfig:
    try:
        values = yaml.safe_load((folder / CONFIG).read_text(encoding="utf-8"))
        return settings.build(SeparatorConfig, values["cyclegan"]["separator"])
    except (OSError, yaml.YAMLError, KeyError, TypeError) as problem:
        raise CheckpointError(
            f"{folder / CONFIG}: is missing or damaged ({_short(problem)}); copy the checkpoint again"
        ) from problem
    except ConfigError as problem:
        raise CheckpointError(f"{folder / CONFIG}: was written by another version of cyclesep ({problem})") from problem


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as problem:
        raise CheckpointError(
            f"{path}: is missing or damaged ({_short(problem)}); copy the checkpoint again"
        ) from problem


def _short(problem: BaseException) -> str:
    if isinstance(problem, OSError) and problem.strerror:
        return problem.strerror
    return " ".join(str(problem).split())[:160]
