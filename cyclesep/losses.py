"""Losses under their names: adversarial in three forms, regression on waveforms and on spectrograms.

Everything is computed in float32. Adversarial losses take one tensor of logits per sub-network and average over them.
"""

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

AdversarialForm = Literal["lsgan", "relativistic", "hinge"]
Reducer = Callable[[Tensor], Tensor]
Judgement = list[list[Tensor]]

EPSILON = 1e-8
SPECTRAL_WINDOWS = (256, 512, 1024, 2048)


def identity(value: Tensor) -> Tensor:
    """The mean over the ranks of a run that has one."""
    return value


def l1(estimate: Tensor, reference: Tensor) -> Tensor:
    """Mean absolute difference."""
    return (estimate - reference).abs().mean()


def negative_si_sdr(estimate: Tensor, reference: Tensor) -> Tensor:
    """Minus the scale-invariant signal-to-distortion ratio in dB, mean over all but time (the last axis).

    Le Roux et al., "SDR - half-baked or well done?", 2019. Silent references give a finite, flat value.
    """
    estimate = estimate - estimate.mean(dim=-1, keepdim=True)
    reference = reference - reference.mean(dim=-1, keepdim=True)
    scale = (estimate * reference).sum(-1, keepdim=True) / (reference.square().sum(-1, keepdim=True) + EPSILON)
    projected = scale * reference
    signal, distortion = projected.square().sum(-1), (estimate - projected).square().sum(-1)
    return -10 * torch.log10((signal + EPSILON) / (distortion + EPSILON)).mean()


def spectral(estimate: Tensor, reference: Tensor, windows: Sequence[int] = SPECTRAL_WINDOWS) -> Tensor:
    """Mean absolute difference of magnitude spectrograms, averaged over window lengths (in samples).

    Spectra are scaled by 1/sqrt(window), which makes the magnitudes of noise independent of the window.
    """
    return torch.stack([l1(magnitudes(estimate, n), magnitudes(reference, n)) for n in windows]).mean()


def magnitudes(waveform: Tensor, n_fft: int) -> Tensor:
    """Magnitude spectrogram `(signals, bins, frames)` by a Hann window with a hop of a quarter of it."""
    flat = waveform.float().flatten(0, -2)
    flat = functional.pad(flat, (0, max(0, n_fft - flat.shape[-1])))
    window = torch.hann_window(n_fft, device=flat.device)
    spectrum = torch.stft(flat, n_fft, n_fft // 4, window=window, normalized=True, return_complex=True)
    # abs() of a complex zero has no gradient; a floor 80 dB below unit noise has.
    return (spectrum.real.square() + spectrum.imag.square() + EPSILON).sqrt()


def feature_matching(real: Judgement, fake: Judgement) -> Tensor:
    """Mean absolute difference of feature maps relative to the real ones' mean size; logits are left out."""
    distances = [
        l1(fake_map.float(), real_map.float()) / (real_map.float().abs().mean() + EPSILON)
        for real_maps, fake_maps in zip(real, fake, strict=True)
        for real_map, fake_map in zip(real_maps[:-1], fake_maps[:-1], strict=True)
    ]
    return torch.stack(distances).mean()


def discriminator_loss(
    form: AdversarialForm, real: Sequence[Tensor], fake: Sequence[Tensor], mean_over_ranks: Reducer = identity
) -> Tensor:
    """What a discriminator minimises: real logits up, fake logits down; averaged over its sub-networks.

    lsgan: Mao et al. 2017; hinge: Lim & Ye 2017; relativistic: the average least-squares form of
    Jolicoeur-Martineau 2018, whose means are taken over all ranks.
    """
    pairs = zip(real, fake, strict=True)
    return torch.stack([_one_discriminator_loss(form, r.float(), f.float(), mean_over_ranks) for r, f in pairs]).mean()


def generator_loss(
    form: AdversarialForm,
    fake: Sequence[Tensor],
    real: Sequence[Tensor] | None = None,
    mean_over_ranks: Reducer = identity,
) -> Tensor:
    """What a generator minimises: fake logits up (and real ones down, which only the relativistic form looks at)."""
    if form == "relativistic":
        assert real is not None, "the relativistic form compares with real logits"
        pairs = zip(fake, real, strict=True)
        return torch.stack([_relativistic(f.float(), r.float(), mean_over_ranks) for f, r in pairs]).mean()
    if form == "lsgan":
        return torch.stack([(logits.float() - 1).square().mean() for logits in fake]).mean()
    return torch.stack([-logits.float().mean() for logits in fake]).mean()


def _one_discriminator_loss(form: AdversarialForm, real: Tensor, fake: Tensor, mean_over_ranks: Reducer) -> Tensor:
    if form == "relativistic":
        return _relativistic(real, fake, mean_over_ranks)
    if form == "lsgan":
        return ((real - 1).square().mean() + fake.square().mean()) / 2
    return (functional.relu(1 - real).mean() + functional.relu(1 + fake).mean()) / 2


def _relativistic(up: Tensor, down: Tensor, mean_over_ranks: Reducer) -> Tensor:
    """(E[(up - E down - 1)^2] + E[(down - E up + 1)^2]) / 2, as two variances and the distance of two means.

    In this form the gradient of each rank's share, averaged over ranks as DDP does, is the gradient of the whole.
    """
    mean_up, mean_down = _global_mean(up, mean_over_ranks), _global_mean(down, mean_over_ranks)
    spread = (up - mean_up.detach()).square().mean() + (down - mean_down.detach()).square().mean()
    return spread / 2 + (mean_up - mean_down - 1).square()


def _global_mean(values: Tensor, mean_over_ranks: Reducer) -> Tensor:
    """The mean over all ranks by value, over this rank by gradient."""
    own = values.mean()
    return own + (mean_over_ranks(own.detach()) - own.detach())
