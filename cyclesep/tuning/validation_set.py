"""The validation crops of a search: the mixture's score on them, and SI-SIR of a checkpoint."""

import hashlib
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from typing_extensions import override

from cyclesep.audio.stem_names import MIXTURE
from cyclesep.checkpoints.loaded_separator import load_separator
from cyclesep.config import settings
from cyclesep.data.crops.config import CropConfig
from cyclesep.data.crops.dataset import validation_crops
from cyclesep.data.shards.reading import ShardReader
from cyclesep.errors import ConfigError
from cyclesep.storage.path import StoragePath
from cyclesep.training import validation
from cyclesep.training.config import TrainConfig
from cyclesep.tuning.space import Space


@dataclass(frozen=True, kw_only=True)
class ValidationBaseline:
    """Identity of the validation crops, and the score of the unprocessed mixture on them."""

    digest: str
    """SHA-256 of the samples of the crops."""
    mixture_sdr: float
    """Mean SDR in dB with the mixture as the estimate of each target."""
    num_crops: int


class _MixtureAsEstimate(nn.Module):
    """A separator that returns the mixture for each target."""

    def __init__(self, targets: int) -> None:
        super().__init__()
        self.targets = targets

    @override
    def forward(self, mixture: Tensor) -> Tensor:
        return mixture.unsqueeze(1).expand(-1, self.targets, -1, -1)


def read_validation_baseline(base: TrainConfig, space: Space) -> ValidationBaseline:
    """Read the validation crops and score the mixture on them.

    Raises ConfigError if the shards have no references to validate against, or if the space contains a setting that
    changes the crops, since trials would not be comparable.
    """
    reader = ShardReader(base.shards)
    missing = [target for target in base.targets if target not in reader.manifest.stems]
    if missing:
        known = ", ".join(sorted(set(reader.manifest.stems) - {MIXTURE}))
        raise ConfigError(f"train.targets: {base.shards} has no stem {missing[0]!r}; its stems are {known}")
    crops = _crops(reader, base, base.crops)
    if crops is None:
        raise ConfigError(
            f"train.shards: the valid split of {base.shards} has no tracks with stems, so trials cannot be compared; "
            "specify shards with a valid split"
        )
    digest = _digest(crops)
    _check_crops_unchanged(reader, base, space, digest)
    mixtures, targets = crops
    sums = validation.validate(
        _MixtureAsEstimate(len(base.targets)), mixtures, targets, batch_size=base.crops.batch_size
    )
    metrics = validation.summarize(sums, base.targets)
    if not metrics:
        raise ConfigError(
            f"train.targets: a target is silent in all {len(mixtures)} validation crops of {base.shards}; "
            "raise train.num_validation_crops"
        )
    return ValidationBaseline(digest=digest, mixture_sdr=metrics["validation/sdr"], num_crops=len(mixtures))


def mean_si_sir(checkpoint: StoragePath, config: TrainConfig) -> float:
    """Return the mean SI-SIR in dB of a checkpoint's separator over the validation crops and targets of a run."""
    crops = validation_crops(
        ShardReader(config.shards), config.crops, targets=config.targets, count=config.num_validation_crops
    )
    assert crops is not None
    mixtures, targets = crops
    separator = load_separator(checkpoint.uri).module
    with torch.no_grad():
        estimates = torch.cat([separator(part) for part in mixtures.split(config.crops.batch_size)])
    ratios = si_sir(targets.double(), mixtures.double().unsqueeze(1) - targets.double(), estimates.double())
    active = targets.square().mean(dim=(2, 3)) > validation.SILENCE_POWER
    return float(ratios[active].mean())


def si_sir(target: Tensor, others: Tensor, estimate: Tensor) -> Tensor:
    """Return the scale-invariant signal-to-interference ratio in dB over the last two axes (channels, time).

    Inputs are `(crops, targets, channels, time)`. The estimate is projected onto the plane spanned by target and
    others: its component along the target is the signal, the remainder in the plane is interference (Le Roux et al.
    2019, "SDR - half-baked or well done?").
    """
    target, others, estimate = (each.flatten(-2) for each in (target, others, estimate))
    basis = torch.stack([target, others], dim=-1)
    gram = basis.mT @ basis
    ridge = 1e-12 * gram.diagonal(dim1=-2, dim2=-1).amax(-1)[..., None, None] * torch.eye(2, dtype=gram.dtype)
    weights = torch.linalg.solve(gram + ridge, basis.mT @ estimate.unsqueeze(-1))
    in_plane = (basis @ weights).squeeze(-1)
    energy = target.square().sum(-1, keepdim=True).clamp_min(1e-20)
    signal = (target * estimate).sum(-1, keepdim=True) / energy * target
    floor = 1e-20
    ratio = signal.square().sum(-1).clamp_min(floor) / (in_plane - signal).square().sum(-1).clamp_min(floor)
    return 10 * torch.log10(ratio)


def _check_crops_unchanged(reader: ShardReader, base: TrainConfig, space: Space, digest: str) -> None:
    """Raise ConfigError if a parameter of the space changes the validation crops."""
    for parameter in space.parameters:
        if not parameter.name.startswith("crops."):
            continue
        for value in parameter.values:
            changed = _crops(reader, base, settings.replace(base, {parameter.name: value}).crops)
            if changed is None or _digest(changed) != digest:
                raise ConfigError(
                    f"space.{parameter.name}: changes the validation crops, so trials cannot be compared; "
                    f"run one search per value, with train.{parameter.name}="
                )


def _crops(reader: ShardReader, base: TrainConfig, crops: CropConfig) -> tuple[Tensor, Tensor] | None:
    return validation_crops(reader, crops, targets=base.targets, count=base.num_validation_crops)


def _digest(crops: tuple[Tensor, Tensor]) -> str:
    digest = hashlib.sha256()
    for tensor in crops:
        digest.update(np.ascontiguousarray(tensor.numpy()).tobytes())
    return digest.hexdigest()
