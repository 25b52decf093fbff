"""STFT by convolutions: equal to torch's FFT, alone and inside networks."""

import copy

import pytest
import torch
from torch import Tensor

from cyclesep.models.separators.config import SeparatorConfig
from cyclesep.models.separators.separator import build_separator
from cyclesep.models.separators.stft import RealSpectrogram, Spectrogram, replace_spectrograms

torch.set_num_threads(1)

VARIANTS = (Spectrogram, RealSpectrogram)


def noise(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("n_fft", [256, 2048])
def test_both_variants_have_the_same_spectrum(n_fft: int) -> None:
    waveform = noise(2, 2, 5000)
    fast, real = Spectrogram(n_fft), RealSpectrogram(n_fft)
    expected = fast.spectrum(waveform)
    spectrum = real.spectrum(waveform)
    assert expected.shape == spectrum.shape[:-1] == (2, 2, -(-5000 // (n_fft // 4)) + 1, n_fft // 2 + 1)
    torch.testing.assert_close(torch.view_as_complex(spectrum.contiguous()), expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(real.real(spectrum), fast.real(expected), rtol=0, atol=1e-5)
    torch.testing.assert_close(real.imaginary(spectrum), fast.imaginary(expected), rtol=0, atol=1e-5)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("num_samples", [512, 5000])
def test_the_inverse_restores_the_waveform(variant: type[Spectrogram], num_samples: int) -> None:
    waveform, spectrogram = noise(2, 2, num_samples), variant(512)
    restored = spectrogram.waveform(spectrogram.spectrum(waveform))
    torch.testing.assert_close(restored[..., :num_samples], waveform, rtol=0, atol=1e-5)


def test_both_variants_invert_an_inconsistent_spectrum_alike() -> None:
    parts = noise(2, 1, 9, 257, 2)
    expected = Spectrogram(512).waveform(torch.view_as_complex(parts))
    torch.testing.assert_close(RealSpectrogram(512).waveform(parts), expected, rtol=0, atol=1e-4)


def test_i_times_i_is_minus_one_in_both_variants() -> None:
    i = torch.tensor([[0.0, 1.0]])
    for variant in VARIANTS:
        spectrogram = variant(256)
        square = spectrogram.multiply(spectrogram.from_parts(i), spectrogram.from_parts(i))
        assert (spectrogram.real(square).item(), spectrogram.imaginary(square).item()) == (-1.0, 0.0)


@pytest.mark.parametrize("levels", [0, 1])
@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("targets", [1, 2])
def test_a_network_without_complex_numbers_has_the_same_estimates(levels: int, channels: int, targets: int) -> None:
    torch.manual_seed(0)
    config = SeparatorConfig(name="tfsep", channels=8, depth=1, unet_levels=levels)
    separator = build_separator(config, targets=targets, channels=channels, sample_rate=8000).eval()
    real = replace_spectrograms(copy.deepcopy(separator))
    assert not any(type(each) is Spectrogram for each in real.modules())
    assert real.state_dict().keys() == separator.state_dict().keys()
    for shape in ((1, channels, 4000), (3, channels, 300)):
        with torch.inference_mode():
            expected, estimates = separator(noise(*shape)), real(noise(*shape))
        torch.testing.assert_close(estimates, expected, rtol=0, atol=1e-5 * float(expected.abs().max()))
