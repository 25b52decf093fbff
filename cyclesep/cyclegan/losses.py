"""Losses under their names: adversarial in three forms, regression on waveforms and on spectrograms.

Everything is computed in float32 at least. Adversarial losses take one tensor of logits per sub-network and average
over them.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from cyclesep.cyclegan.config import AdversarialForm
from cyclesep.cyclegan.distributed import Reducer, identity

FeatureMaps = list[list[Tensor]]

EPSILON = 1e-8
SPECTRAL_WINDOWS = (256, 512, 1024, 2048)


def l1(estimate: Tensor, reference: Tensor) -> Tensor:
    """Mean absolute difference."""
    return (estimate - reference).abs().mean()


def negative_si_sdr(estimate: Tensor, reference: Tensor) -> Tensor:
    """Minus the scale-invariant signal-to-distortion ratio in dB, mean over all but time (the last axis).

    Le Roux et al., "SDR - half-baked or well done?", 2019. A silent reference counts as 0 dB, without a gradient.
    """
    is_audible = reference.square().sum(-1) > EPSILON
    estimate = estimate - estimate.mean(dim=-1, keepdim=True)
    reference = reference - reference.mean(dim=-1, keepdim=True)
    scale = (estimate * reference).sum(-1, keepdim=True) / (reference.square().sum(-1, keepdim=True) + EPSILON)
    projected = scale * reference
    signal, distortion = projected.square().sum(-1), (estimate - projected).square().sum(-1)
    ratio = torch.log10((signal + EPSILON) / (distortion + EPSILON))
    return -10 * torch.where(is_audible, ratio, 0.0).mean()


def spectral(estimate: Tensor, reference: Tensor, windows: Sequence[int] = SPECTRAL_WINDOWS) -> Tensor:
    """Mean absolute difference of magnitude spectrograms, averaged over window lengths (in samples).

    Spectra are scaled by 1/sqrt(window), which makes the magnitudes of noise independent of the window.
    """
    return torch.stack([l1(magnitudes(estimate, n), magnitudes(reference, n)) for n in windows]).mean()


def magnitudes(waveform: Tensor, n_fft: int) -> Tensor:
    """Magnitude spectrogram `(signals, bins, frames)` by a Hann window with a hop of a quarter of it."""
    flat = full(waveform).flatten(0, -2)
    flat = functional.pad(flat, (0, max(0, n_fft - flat.shape[-1])))
    window = torch.hann_window(n_fft, dtype=flat.dtype, device=flat.device)
    spectrum = torch.stft(flat, n_fft, n_fft // 4, window=window, normalized=True, return_complex=True)
    # abs() of a complex zero has no gradient; a floor 80 dB below unit noise has.
    return (spectrum.real.square() + spectrum.imag.square() + EPSILON).sqrt()


def full(values: Tensor) -> Tensor:
    """`values` in float32, or in float64 if that is what they are in."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def feature_matching(real: FeatureMaps, fake: FeatureMaps, mean_over_ranks: Reducer = identity) -> Tensor:
    """Mean absolute difference of feature maps relative to the real ones' mean size; logits are left out."""
    pairs = [
        (full(real_map), full(fake_map))
        for real_maps, fake_maps in zip(real, fake, strict=True)
        for real_map, fake_map in zip(real_maps[:-1], fake_maps[:-1], strict=True)
    ]
    sizes = mean_over_ranks(torch.stack([real_map.detach().abs().mean() for real_map, _ in pairs]))
    distances = torch.stack([l1(fake_map, real_map) for real_map, fake_map in pairs])
    return (distances / (sizes + EPSILON)).mean()


def gradient_penalty(waveform: Tensor, logits: Sequence[Tensor]) -> Tensor:
    """R1: the mean squared gradient of a crop's mean logit with respect to its waveform `(batch, channels, time)`.

    Mescheder et al., "Which training methods for GANs do actually converge?", 2018. The squared gradient is summed over
    a crop and multiplied by its number of samples: the mean of many logits changes by little per sample, and the
    penalty must not depend on how long crops are. Half of gamma is its weight.
    """
    score = torch.stack([full(each).flatten(1).mean(1).sum() for each in logits]).mean()
    (gradient,) = torch.autograd.grad(score, waveform, create_graph=True)
    return gradient.square().flatten(1).mean(1).mean() * waveform[0].numel() ** 2


def discriminator_loss(
    form: AdversarialForm, real: Sequence[Tensor], fake: Sequence[Tensor], mean_over_ranks: Reducer = identity
) -> Tensor:
    """What a discriminator minimises: real logits up, fake logits down; averaged over its sub-networks.

    lsgan: Mao et al. 2017; hinge: Lim & Ye 2017; relativistic: the average least-squares form of
    Jolicoeur-Martineau 2018, whose means are taken over all ranks.
    """
    pairs = zip(real, fake, strict=True)
    return torch.stack([_one_discriminator_loss(form, full(r), full(f), mean_over_ranks) for r, f in pairs]).mean()


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
        return torch.stack([_relativistic(full(f), full(r), mean_over_ranks) for f, r in pairs]).mean()
    if form == "lsgan":
        return torch.stack([(full(logits) - 1).square().mean() for logits in fake]).mean()
    return torch.stack([-full(logits).mean() for logits in fake]).mean()


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
