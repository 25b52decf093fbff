"""What all trials of a search are measured on: the same crops, and how good the mixture itself would be there."""

import hashlib
from dataclasses import dataclass

import numpy as np
from torch import Tensor, nn
from typing_extensions import override

from cyclesep.config import settings
from cyclesep.data.crops.config import CropConfig
from cyclesep.data.crops.dataset import validation_crops
from cyclesep.data.shards.manifest import MIXTURE
from cyclesep.data.shards.reading import ShardReader
from cyclesep.errors import ConfigError
from cyclesep.training import validation
from cyclesep.training.config import TrainConfig
from cyclesep.tuning.space import Space


@dataclass(frozen=True, kw_only=True)
class ValidationBaseline:
    """The validation crops of a search in short."""

    digest: str
    """SHA-256 of their samples."""
    mixture_sdr: float
    """dB, if the mixture is taken as the estimate of each target."""
    num_crops: int


class _MixtureItself(nn.Module):
    """A separator that gives back the mixture, for each of the targets."""

    def __init__(self, targets: int) -> None:
        super().__init__()
        self.targets = targets

    @override
    def forward(self, mixture: Tensor) -> Tensor:
        return mixture.unsqueeze(1).expand(-1, self.targets, -1, -1)


def read_yardstick(base: TrainConfig, space: Space) -> ValidationBaseline:
    """Read the validation crops and score the mixture on them.

    Raises ConfigError if there is no truth to validate against, or if the space holds a setting of crops that would
    change them: then trials could not be compared.
    """
    reader = ShardReader(base.shards)
    missing = [target for target in base.targets if target not in reader.manifest.stems]
    if missing:
        known = ", ".join(sorted(set(reader.manifest.stems) - {MIXTURE}))
        raise ConfigError(f"train.targets: {base.shards} holds no stem {missing[0]!r}; it holds {known}")
    crops = _crops(reader, base, base.crops)
    if crops is None:
        raise ConfigError(
            f"train.shards: the valid split of {base.shards} holds no music whose stems are known, so that trials "
            "could not be compared; give shards with a valid split"
        )
    digest = _digest(crops)
    for parameter in space.parameters:
        if not parameter.name.startswith("crops."):
            continue
        for value in parameter.values:
            changed = _crops(reader, base, settings.replace(base, {parameter.name: value}).crops)
            if changed is None or _digest(changed) != digest:
                raise ConfigError(
                    f"space.{parameter.name}: changes the validation crops, so that trials could not be compared; "
                    f"search once for each value: train.{parameter.name}="
                )
    mixtures, targets = crops
    sums = validation.validate(_MixtureItself(len(base.targets)), mixtures, targets, batch_size=base.crops.batch_size)
    metrics = validation.summarise(sums, base.targets)
    if not metrics:
        raise ConfigError(
            f"train.targets: a target is silent in all {len(mixtures)} validation crops of {base.shards}; "
            "raise train.num_validation_crops"
        )
    return ValidationBaseline(digest=digest, mixture_sdr=metrics["validation/sdr"], num_crops=len(mixtures))


def _crops(reader: ShardReader, base: TrainConfig, crops: CropConfig) -> tuple[Tensor, Tensor] | None:
    return validation_crops(reader, crops, targets=base.targets, count=base.num_validation_crops)


def _digest(crops: tuple[Tensor, Tensor]) -> str:
    digest = hashlib.sha256()
    for tensor in crops:
        digest.update(np.ascontiguousarray(tensor.numpy()).tobytes())
    return digest.hexdigest()
