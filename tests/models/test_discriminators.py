"""Discriminators: logits for any length, phase shuffle, spectral norm, sizes of the original notebook."""

import pytest
import torch
from torch import Tensor, nn

from cyclesep.models.discriminators.config import DiscriminatorConfig
from cyclesep.models.discriminators.discriminator import Discriminator, build_discriminator
from cyclesep.models.discriminators.wavegan import WaveGANDiscriminator, phase_shuffle

torch.set_num_threads(1)

NAMES = ("spectral", "waveform", "wavegan")


def small(name: str, *, channels: int = 1, **changes: object) -> Discriminator:
    torch.manual_seed(0)
    config = DiscriminatorConfig(name=name, channels=8, **changes)
    return build_discriminator(config, channels=channels, sample_rate=16000)


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("channels", [1, 2])
def test_any_length_gives_feature_maps_and_finite_logits(name: str, channels: int) -> None:
    discriminator = small(name, channels=channels)
    for num_samples in (5, 1000, 16384, 20001):
        for maps in discriminator(torch.randn(2, channels, num_samples), rng()):
            assert len(maps) >= 4
            assert maps[-1].shape[:2] == (2, 1)
            assert all(each.isfinite().all() for each in maps)


@pytest.mark.parametrize(("name", "subnetworks"), [("spectral", 3), ("waveform", 3), ("wavegan", 1)])
def test_number_of_resolutions(name: str, subnetworks: int) -> None:
    assert len(small(name)(torch.randn(1, 1, 4096))) == subnetworks


@pytest.mark.parametrize("name", NAMES)
def test_crops_of_a_batch_are_independent(name: str) -> None:
    discriminator, waveforms = small(name), torch.randn(3, 1, 16384)
    for together, alone in zip(discriminator(waveforms), discriminator(waveforms[1:2]), strict=True):
        torch.testing.assert_close(together[-1][1:2], alone[-1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("spectral_norm", [False, True])
def test_every_parameter_and_the_input_have_a_gradient(name: str, spectral_norm: bool) -> None:
    discriminator = small(name, spectral_norm=spectral_norm)
    waveform = torch.randn(2, 1, 16384, requires_grad=True)
    sum(maps[-1].square().sum() for maps in discriminator(waveform, rng())).backward()
    assert waveform.grad is not None
    assert waveform.grad.abs().sum() > 0
    for label, parameter in discriminator.named_parameters():
        assert parameter.grad is not None, label
        assert parameter.grad.abs().sum() > 0, label


def test_wavegan_of_width_64_has_as_many_parameters_as_the_original() -> None:
    discriminator = WaveGANDiscriminator(1, width=64, max_shift=2)
    assert sum(parameter.numel() for parameter in discriminator.parameters()) == 17_427_969


@pytest.mark.parametrize(("num_samples", "logits"), [(16384, 1), (17408, 2), (32768, 17)])
def test_wavegan_has_one_logit_per_window_and_more_for_longer_inputs(num_samples: int, logits: int) -> None:
    maps = WaveGANDiscriminator(1, width=8, max_shift=2)(torch.randn(1, 1, num_samples), None)
    assert maps[-1].shape == (1, 1, logits)


def test_phase_shuffle_uses_every_shift_up_to_its_limit() -> None:
    ramp = torch.arange(10.0).expand(2, 3, 10)
    starts = {float(shuffled[0, 0, 0]) for shuffled in (phase_shuffle(ramp, 2, rng(seed)) for seed in range(60))}
    # Reflection makes shifts to the left and right equal at the start; they differ at the end.
    ends = {float(shuffled[0, 0, -1]) for shuffled in (phase_shuffle(ramp, 2, rng(seed)) for seed in range(60))}
    assert starts == {0.0, 1.0, 2.0}
    assert ends == {7.0, 8.0, 9.0}


def test_phase_shuffle_reflects_at_the_edges() -> None:
    ramp = torch.arange(6.0).reshape(1, 1, 6)
    found = {tuple(phase_shuffle(ramp, 1, rng(seed)).flatten().tolist()) for seed in range(40)}
    assert found == {(0, 1, 2, 3, 4, 5), (1, 0, 1, 2, 3, 4), (1, 2, 3, 4, 5, 4)}


def test_wavegan_shuffles_phases_only_with_a_generator() -> None:
    discriminator, waveform = small("wavegan", phase_shuffle=2), torch.randn(1, 1, 16384)

    def logit(generator: torch.Generator | None) -> Tensor:
        return discriminator(waveform, generator)[0][-1]

    assert torch.equal(logit(None), logit(None))
    assert torch.equal(logit(rng(3)), logit(rng(3)))
    assert len({logit(rng(seed)).item() for seed in range(8)}) > 3


def test_spectral_norm_limits_the_gain_of_each_layer_to_one() -> None:
    discriminator = small("waveform", spectral_norm=True)
    for _ in range(60):
        discriminator(torch.randn(1, 1, 512))
    for module in discriminator.modules():
        if isinstance(module, nn.Conv1d):
            assert torch.linalg.matrix_norm(module.weight.flatten(1), 2).item() == pytest.approx(1.0, abs=0.05)


def test_spectra_of_unit_noise_have_equal_power_at_every_resolution() -> None:
    for network in small("spectral").networks:
        spectrum = network._spectrum(torch.randn(4, 1, 32768))
        # The power of a Hann-windowed bin, 3/8, is split into real and imaginary part.
        assert spectrum.square().mean().item() == pytest.approx(3 / 16, rel=0.05)
