"""Loss functions against values computed by hand."""

import math

import pytest
import torch
from torch import Tensor

from cyclesep.cyclegan import losses
from cyclesep.cyclegan.config import AdversarialForm
from cyclesep.cyclegan.distributed import Reducer

torch.set_num_threads(1)

FORMS = ("lsgan", "relativistic", "hinge")


def test_l1_is_the_mean_absolute_difference() -> None:
    assert losses.l1(torch.tensor([1.0, -2.0, 4.0]), torch.tensor([0.0, 0.0, 1.0])).item() == pytest.approx(2.0)


def test_si_sdr_of_a_tenth_of_orthogonal_noise_is_20_db_at_any_gain() -> None:
    time = torch.arange(1000) / 1000
    signal, noise = torch.sin(20 * math.pi * time), torch.cos(20 * math.pi * time)
    for gain in (0.1, 1.0, 7.0):
        loss = losses.negative_si_sdr(gain * (signal + 0.1 * noise)[None], signal[None])
        assert loss.item() == pytest.approx(-20.0, abs=0.01)


@pytest.mark.parametrize("level", [0.0, 1e-3, 1.0])
def test_si_sdr_ignores_silent_references(level: float) -> None:
    rng = torch.Generator().manual_seed(0)
    reference = torch.stack([torch.randn(100, generator=rng), torch.zeros(100)])
    estimate = (reference + level * torch.randn(2, 100, generator=rng)).requires_grad_()
    loss = losses.negative_si_sdr(estimate, reference)
    alone = losses.negative_si_sdr(estimate[:1], reference[:1])
    assert loss.item() == pytest.approx(alone.item() / 2)
    loss.backward()
    assert estimate.grad is not None
    assert estimate.grad.isfinite().all()
    assert estimate.grad[1].abs().max() == 0


def test_magnitudes_of_a_steady_tone_peak_at_half_its_windowed_amplitude() -> None:
    # Bin 8 of 64: amplitude 1 has magnitude sum(hann)/2 = 64/4, divided by sqrt(64).
    tone = torch.cos(2 * math.pi * 8 * torch.arange(640) / 64)[None]
    middle = losses.magnitudes(tone, 64)[0, :, 20]
    assert middle.argmax().item() == 8
    assert middle[8].item() == pytest.approx(16 / 8, rel=1e-4)


def test_spectral_loss_of_a_tone_at_half_amplitude_is_half_of_its_mean_magnitude() -> None:
    tone = torch.cos(2 * math.pi * 8 * torch.arange(4096) / 64)[None]
    expected = 0.5 * torch.stack([losses.magnitudes(tone, n).mean() for n in (64, 256)]).mean()
    found = losses.spectral(0.5 * tone, tone, windows=(64, 256))
    assert found.item() == pytest.approx(expected.item(), rel=0.01)


def test_spectral_loss_ignores_polarity_and_has_a_gradient_at_silence() -> None:
    noise = torch.randn(1, 2048)
    assert losses.spectral(-noise, noise).item() == 0.0
    silence = torch.zeros(1, 2048, requires_grad=True)
    losses.spectral(silence, noise).backward()
    assert silence.grad is not None
    assert silence.grad.isfinite().all()


def test_spectral_loss_accepts_signals_shorter_than_its_windows() -> None:
    assert losses.spectral(torch.ones(1, 1, 1, 10), torch.zeros(1, 1, 1, 10)).isfinite()


def test_lsgan_by_hand() -> None:
    real, fake = [torch.tensor([1.0, 0.0])], [torch.tensor([0.5, 1.0])]
    assert losses.discriminator_loss("lsgan", real, fake).item() == pytest.approx((0.5 + 0.625) / 2)
    assert losses.generator_loss("lsgan", fake).item() == pytest.approx(0.125)


def test_hinge_by_hand() -> None:
    real, fake = [torch.tensor([2.0, 0.5])], [torch.tensor([-2.0, 0.0])]
    assert losses.discriminator_loss("hinge", real, fake).item() == pytest.approx((0.25 + 0.5) / 2)
    assert losses.generator_loss("hinge", fake).item() == pytest.approx(1.0)


def test_relativistic_by_hand() -> None:
    # real - mean fake - 1 = (0.5, -1.5); fake - mean real + 1 = (0.5, 0.5)
    real, fake = [torch.tensor([2.0, 0.0])], [torch.tensor([0.5, 0.5])]
    assert losses.discriminator_loss("relativistic", real, fake).item() == pytest.approx((1.25 + 0.25) / 2)
    # real - mean fake + 1 = (2.5, 0.5); fake - mean real - 1 = (-1.5, -1.5)
    assert losses.generator_loss("relativistic", fake, real).item() == pytest.approx((3.25 + 2.25) / 2)


@pytest.mark.parametrize("form", FORMS)
def test_sub_networks_have_equal_weight_for_any_number_of_logits(form: AdversarialForm) -> None:
    real, fake = [torch.ones(1), torch.zeros(50)], [torch.zeros(1), torch.ones(50)]
    alone = [losses.discriminator_loss(form, [r], [f]).item() for r, f in zip(real, fake, strict=True)]
    assert losses.discriminator_loss(form, real, fake).item() == pytest.approx(sum(alone) / 2)


def test_feature_matching_is_relative_and_excludes_logits() -> None:
    real = [[torch.full((4,), 2.0), torch.tensor([9.0])], [torch.full((2,), 10.0), torch.tensor([9.0])]]
    fake = [[torch.full((4,), 1.0), torch.tensor([0.0])], [torch.full((2,), 8.0), torch.tensor([0.0])]]
    assert losses.feature_matching(real, fake).item() == pytest.approx((0.5 + 0.2) / 2)


def test_feature_matching_averages_feature_magnitudes_over_ranks() -> None:
    real, fake = [[torch.full((4,), 2.0), torch.ones(1)]], [[torch.full((4,), 1.0), torch.ones(1)]]
    found = losses.feature_matching(real, fake, mean_over_ranks=lambda sizes: 2 * sizes)
    assert found.item() == pytest.approx(1 / 4)


@pytest.mark.parametrize("num_samples", [10, 1000])
def test_the_gradient_penalty_of_a_linear_score_is_its_squared_slope_for_any_length(num_samples: int) -> None:
    waveform = torch.randn(3, 2, num_samples, requires_grad=True)
    # The mean logits of two sub-networks are 3 and 5 times the mean of a crop: 4 times on average.
    penalty = losses.gradient_penalty(waveform, [3 * waveform, 5 * waveform])
    assert penalty.item() == pytest.approx(16.0)


def test_the_gradient_penalty_of_a_squared_score_and_its_gradient_by_hand() -> None:
    waveform = torch.full((1, 1, 4), 2.0, requires_grad=True)
    slope = torch.tensor(3.0, requires_grad=True)
    # The derivative of the mean of 3 x^2 over 4 samples is 3 * 2 * 2 / 4 = 3 for each: 4 * 3^2 * 4.
    penalty = losses.gradient_penalty(waveform, [slope * waveform.square()])
    assert penalty.item() == pytest.approx(144.0)
    penalty.backward()
    assert slope.grad is not None
    assert slope.grad.item() == pytest.approx(2 * 144.0 / 3.0)


@pytest.mark.parametrize("form", FORMS)
def test_half_batches_on_two_ranks_have_the_loss_and_gradient_of_the_whole_batch(form: AdversarialForm) -> None:
    torch.manual_seed(0)
    whole_real, whole_fake = torch.randn(8, dtype=torch.float64), torch.randn(8, dtype=torch.float64)
    whole_real.requires_grad_()
    whole_fake.requires_grad_()
    whole_loss = losses.discriminator_loss(form, [whole_real], [whole_fake])
    expected = torch.autograd.grad(whole_loss, [whole_real, whole_fake])
    total, found = 0.0, []
    for half in (slice(0, 4), slice(4, 8)):
        real, fake = whole_real[half].detach().requires_grad_(), whole_fake[half].detach().requires_grad_()
        loss = losses.discriminator_loss(form, [real], [fake], _mean_over(whole_real, whole_fake, real, fake))
        total += loss.item() / 2
        found.append(torch.autograd.grad(loss, [real, fake]))
    assert total == pytest.approx(whole_loss.item(), rel=1e-5)
    for index, gradient in enumerate(expected):
        # Data-parallel training averages the gradients of the ranks.
        torch.testing.assert_close(torch.cat([each[index] for each in found]) / 2, gradient, rtol=1e-5, atol=1e-7)


def _mean_over(whole_real: Tensor, whole_fake: Tensor, real: Tensor, fake: Tensor) -> Reducer:
    """Return a fake all-reduce that maps this rank's means to the means of all ranks."""
    means = {real.mean().item(): whole_real.mean(), fake.mean().item(): whole_fake.mean()}

    def mean_over_ranks(value: Tensor) -> Tensor:
        return means[value.item()].detach()

    return mean_over_ranks
