"""How much of the other sounds is left in an estimate: the scale-invariant signal-to-interference ratio."""

import torch
from torch import Tensor

from cyclesep import checkpoints
from cyclesep.data.crops.dataset import validation_crops
from cyclesep.data.shards.reading import ShardReader
from cyclesep.storage.path import StoragePath
from cyclesep.training.config import TrainConfig
from cyclesep.training.validation import SILENCE_POWER


def sir(checkpoint: StoragePath, config: TrainConfig) -> float:
    """Mean SI-SIR in dB of a checkpoint's separator over the validation crops of a run, all targets alike."""
    crops = validation_crops(
        ShardReader(config.shards), config.crops, targets=config.targets, count=config.num_validation_crops
    )
    assert crops is not None
    mixtures, targets = crops
    separator = checkpoints.load_separator(checkpoint.uri).module
    with torch.no_grad():
        estimates = torch.cat([separator(part) for part in mixtures.split(config.crops.batch_size)])
    ratios = si_sir(targets.double(), mixtures.double().unsqueeze(1) - targets.double(), estimates.double())
    sounding = targets.square().mean(dim=(2, 3)) > SILENCE_POWER
    return float(ratios[sounding].mean())


def si_sir(target: Tensor, others: Tensor, estimate: Tensor) -> Tensor:
    """SI-SIR in dB over the last two axes (channels, time) of `(crops, targets, channels, time)`.

    The estimate is projected onto the plane that target and others span; its part along the target is signal, the rest
    of it in the plane is interference (Le Roux et al. 2019, "SDR - half-baked or well done?").
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
