"""Validation during training: SDR and SI-SDR of the averaged separator on fixed crops, compared with the mixture."""

from itertools import compress

import torch
from torch import Tensor, nn

# Crops whose target has less mean power than this (about -60 dBFS) have no meaningful ratio and are excluded.
SILENCE_POWER = 1e-6


def validate(separator: nn.Module, mixtures: Tensor, targets: Tensor, *, batch_size: int) -> Tensor:
    """Separate `mixtures` (crops, channels, time) and compare with `targets` (crops, targets, channels, time).

    Returns sums over crops, to be added over ranks, float64 (targets, 4): SDR, SI-SDR and SI-SDR of the mixture in dB,
    and the number of crops with an audible target.
    """
    sums = torch.zeros(targets.shape[1], 4, dtype=torch.float64, device=targets.device)
    with torch.no_grad():
        for first in range(0, len(mixtures), batch_size):
            crops = slice(first, first + batch_size)
            sums += _scores(mixtures[crops], targets[crops], separator(mixtures[crops]))
    return sums


def summarize(sums: Tensor, names: tuple[str, ...]) -> dict[str, float]:
    """Return means in dB by metric name, from sums over all ranks (targets, 4); empty if all targets are silent.

    A target that is silent in all crops has no metrics; the means over targets are those of the others.
    """
    audible = sums[:, 3] > 0
    if not bool(audible.any()):
        return {}
    means = sums[audible, :3] / sums[audible, 3:]
    metrics = {
        "validation/sdr": float(means[:, 0].mean()),
        "validation/si_sdr": float(means[:, 1].mean()),
        "validation/si_sdri": float((means[:, 1] - means[:, 2]).mean()),
    }
    if len(names) > 1:
        audible_names = compress(names, audible.tolist())
        metrics |= {
            f"validation/sdr/{name}": float(mean) for name, mean in zip(audible_names, means[:, 0], strict=True)
        }
    return metrics


def _scores(mixture: Tensor, target: Tensor, estimate: Tensor) -> Tensor:
    mixture, target, estimate = mixture.double()[:, None].expand_as(target), target.double(), estimate.double()
    audible = target.square().mean(dim=(2, 3)) > SILENCE_POWER
    rows = [
        sdr(target, estimate),
        si_sdr(target, estimate),
        si_sdr(target, mixture),
        torch.ones_like(audible, dtype=torch.float64),
    ]
    return torch.stack([torch.where(audible, row, 0.0).sum(dim=0) for row in rows], dim=1)


def sdr(target: Tensor, estimate: Tensor) -> Tensor:
    """Return target power over error power in dB, over the last two axes (channels, time)."""
    return _ratio_db(target, target - estimate)


def si_sdr(target: Tensor, estimate: Tensor) -> Tensor:
    """Return the scale-invariant SDR in dB over the last two axes (channels, time).

    J. Le Roux et al., "SDR: half-baked or well done?", ICASSP 2019; with floors that keep silence finite.
    """
    scale = (target * estimate).sum(dim=(-2, -1), keepdim=True) / target.square().sum(
        dim=(-2, -1), keepdim=True
    ).clamp_min(1e-20)
    return _ratio_db(scale * target, estimate - scale * target)


def _ratio_db(signal: Tensor, noise: Tensor) -> Tensor:
    floor = 1e-20
    power = signal.square().sum(dim=(-2, -1)).clamp_min(floor) / noise.square().sum(dim=(-2, -1)).clamp_min(floor)
    return 10 * torch.log10(power)
