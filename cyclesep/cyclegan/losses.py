"""Loss functions: adversarial in three forms, feature matching, R1, and regression on waveforms and spectrograms.

All losses are computed in float32 or float64. Adversarial losses take one tensor of logits per sub-network and average
over sub-networks.
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
    """Return the mean absolute error."""
    return (estimate - reference).abs().mean()


def negative_si_sdr(estimate: Tensor, reference: Tensor) -> Tensor:
    """Return the negative scale-invariant SDR in dB, averaged over all axes but time (the last one).

    Le Roux et al., "SDR - half-baked or well done?", 2019. Unlike the metric in metrics/si_sdr.py, the loss subtracts
    the means, treats each channel by itself, limits the ratio by an epsilon, and counts silent references as 0 dB
    without a gradient.
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
    """Return the mean absolute error of magnitude spectrograms, averaged over window lengths (in samples)."""
    return torch.stack([l1(magnitudes(estimate, n), magnitudes(reference, n)) for n in windows]).mean()


def magnitudes(waveform: Tensor, n_fft: int) -> Tensor:
    """Return the magnitude spectrogram `(signals, bins, frames)` with a Hann window and a hop of a quarter of it.

    Spectra are scaled by 1/sqrt(n_fft), so the magnitudes of noise do not depend on the window length.
    """
    flat = full_precision(waveform).flatten(0, -2)
    flat = functional.pad(flat, (0, max(0, n_fft - flat.shape[-1])))
    window = torch.hann_window(n_fft, dtype=flat.dtype, device=flat.device)
    spectrum = torch.stft(flat, n_fft, n_fft // 4, window=window, normalized=True, return_complex=True)
    # The absolute value of a complex zero has no gradient; a floor 80 dB below unit noise has one.
    return (spectrum.real.square() + spectrum.imag.square() + EPSILON).sqrt()


def full_precision(values: Tensor) -> Tensor:
    """Convert half-precision values to float32; float32 and float64 are unchanged."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def feature_matching(real: FeatureMaps, fake: FeatureMaps, mean_over_ranks: Reducer = identity) -> Tensor:
    """Return the L1 distance of feature maps relative to the mean magnitude of the real ones; logits are excluded."""
    pairs = [
        (full_precision(real_map), full_precision(fake_map))
        for real_maps, fake_maps in zip(real, fake, strict=True)
        for real_map, fake_map in zip(real_maps[:-1], fake_maps[:-1], strict=True)
    ]
    sizes = mean_over_ranks(torch.stack([real_map.detach().abs().mean() for real_map, _ in pairs]))
    distances = torch.stack([l1(fake_map, real_map) for real_map, fake_map in pairs])
    return (distances / (sizes + EPSILON)).mean()


def gradient_penalty(waveform: Tensor, logits: Sequence[Tensor]) -> Tensor:
    """Return the R1 penalty: the mean squared gradient of a crop's mean logit w.r.t. `(batch, channels, time)`.

    Mescheder et al., "Which training methods for GANs do actually converge?", 2018. The squared gradient is summed over
    a crop and multiplied by its number of samples: the gradient of a mean logit per sample decreases with the length,
    and the penalty must not depend on it. The weight of the penalty is gamma / 2.
    """
    score = torch.stack([full_precision(each).flatten(1).mean(1).sum() for each in logits]).mean()
    (gradient,) = torch.autograd.grad(score, waveform, create_graph=True)
    return gradient.square().flatten(1).mean(1).mean() * waveform[0].numel() ** 2


def discriminator_loss(
    form: AdversarialForm, real: Sequence[Tensor], fake: Sequence[Tensor], mean_over_ranks: Reducer = identity
) -> Tensor:
    """Return the loss of a discriminator from its real and fake logits, averaged over its sub-networks.

    lsgan: Mao et al. 2017; hinge: Lim & Ye 2017; relativistic: the average least-squares form of
    Jolicoeur-Martineau 2018, with means over all ranks.
    """
    sub_networks = zip(real, fake, strict=True)
    losses = [_sub_network_loss(form, full_precision(r), full_precision(f), mean_over_ranks) for r, f in sub_networks]
    return torch.stack(losses).mean()


def generator_loss(
    form: AdversarialForm,
    fake: Sequence[Tensor],
    real: Sequence[Tensor] | None = None,
    mean_over_ranks: Reducer = identity,
) -> Tensor:
    """Return the adversarial loss of a generator from fake logits; the relativistic form also needs real logits."""
    if form == "relativistic":
        assert real is not None, "the relativistic form needs real logits"
        pairs = zip(fake, real, strict=True)
        losses = [_relativistic(full_precision(f), full_precision(r), mean_over_ranks) for f, r in pairs]
        return torch.stack(losses).mean()
    if form == "lsgan":
        return torch.stack([(full_precision(logits) - 1).square().mean() for logits in fake]).mean()
    return torch.stack([-full_precision(logits).mean() for logits in fake]).mean()


def _sub_network_loss(form: AdversarialForm, real: Tensor, fake: Tensor, mean_over_ranks: Reducer) -> Tensor:
    if form == "relativistic":
        return _relativistic(real, fake, mean_over_ranks)
    if form == "lsgan":
        return ((real - 1).square().mean() + fake.square().mean()) / 2
    return (functional.relu(1 - real).mean() + functional.relu(1 + fake).mean()) / 2


def _relativistic(up: Tensor, down: Tensor, mean_over_ranks: Reducer) -> Tensor:
    """Return (E[(up - E down - 1)^2] + E[(down - E up + 1)^2]) / 2.

    Written as two variances and the squared distance of two means. In this form the average over ranks of the gradients
    of each rank's share, which DDP computes, is the gradient of the loss of the whole batch.
    """
    mean_up, mean_down = _global_mean(up, mean_over_ranks), _global_mean(down, mean_over_ranks)
    spread = (up - mean_up.detach()).square().mean() + (down - mean_down.detach()).square().mean()
    return spread / 2 + (mean_up - mean_down - 1).square()


def _global_mean(values: Tensor, mean_over_ranks: Reducer) -> Tensor:
    """Return the mean over all ranks, with the gradient of this rank's mean."""
    own = values.mean()
    return own + (mean_over_ranks(own.detach()) - own.detach())
