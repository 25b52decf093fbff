"""Validation during training: fixed crops, the shipped (averaged) separator, SDR beside the mixture's own."""

import torch
from torch import Tensor, nn

# Crops whose target is quieter than this (mean power, about -60 dBFS) have no meaningful ratio and are left out.
SILENCE_POWER = 1e-6


def validate(separator: nn.Module, mixtures: Tensor, targets: Tensor, *, batch_size: int) -> Tensor:
    """Separate `mixtures` (crops, channels, time) and compare with `targets` (crops, targets, channels, time).

    Gives sums to be added over ranks, float64 (targets, 4): SDR, SI-SDR and the mixture's own SI-SDR in dB, and the
    number of crops in which the target sounds.
    """
    sums = torch.zeros(targets.shape[1], 4, dtype=torch.float64, device=targets.device)
    with torch.no_grad():
        for first in range(0, len(mixtures), batch_size):
            here = slice(first, first + batch_size)
            sums += _scores(mixtures[here], targets[here], separator(mixtures[here]))
    return sums


def summarise(sums: Tensor, names: tuple[str, ...]) -> dict[str, float]:
    """Means in dB under slash names, from sums over all ranks (targets, 4); empty when nothing could be compared."""
    counts = sums[:, 3]
    if not bool((counts > 0).all()):
        return {}
    means = sums[:, :3] / counts[:, None]
    metrics = {
        "validation/sdr": float(means[:, 0].mean()),
        "validation/si_sdr": float(means[:, 1].mean()),
        "validation/si_sdr_gain": float((means[:, 1] - means[:, 2]).mean()),
    }
    if len(names) > 1:
        metrics |= {f"validation/sdr/{name}": float(mean) for name, mean in zip(names, means[:, 0], strict=True)}
    return metrics


def _scores(mixture: Tensor, target: Tensor, estimate: Tensor) -> Tensor:
    mixture, target, estimate = mixture.double()[:, None].expand_as(target), target.double(), estimate.double()
    sounding = target.square().mean(dim=(2, 3)) > SILENCE_POWER
    rows = [
        sdr(target, estimate),
        si_sdr(target, estimate),
        si_sdr(target, mixture),
        torch.ones_like(sounding, dtype=torch.float64),
    ]
    return torch.stack([torch.where(sounding, row, 0.0).sum(dim=0) for row in rows], dim=1)


def sdr(target: Tensor, estimate: Tensor) -> Tensor:
    """10 log10 of target power over error power in dB, over the last two axes (channels, time)."""
    return _ratio_db(target, target - estimate)


def si_sdr(target: Tensor, estimate: Tensor) -> Tensor:
    """Scale-invariant SDR in dB over the last two axes (Le Roux et al. 2019, "SDR - half-baked or well done?")."""
    scale = (target * estimate).sum(dim=(-2, -1), keepdim=True) / target.square().sum(
        dim=(-2, -1), keepdim=True
    ).clamp_min(1e-20)
    return _ratio_db(scale * target, estimate - scale * target)


def _ratio_db(signal: Tensor, noise: Tensor) -> Tensor:
    floor = 1e-20
    power = signal.square().sum(dim=(-2, -1)).clamp_min(floor) / noise.square().sum(dim=(-2, -1)).clamp_min(floor)
    return 10 * torch.log10(power)
