"""Separators: shapes for any length, level, mixture consistency, the ancestor's table."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from cyclesep import settings
from cyclesep.errors import ConfigError
from cyclesep.generators import Separator, SeparatorConfig, build_separator
from cyclesep.generators.seed import FoldedUpsampling, SeedGenerator
from cyclesep.generators.tfsep import TFSep, band_widths

torch.set_num_threads(1)

NAMES = ("waveunet", "tfsep", "seed")


def small(name: str, *, targets: int = 1, channels: int = 1, consistency: bool = True) -> Separator:
    torch.manual_seed(0)
    config = SeparatorConfig(name=name, width=8, depth=2, mixture_consistency=consistency)
    return build_separator(config, targets=targets, channels=channels, sample_rate=16000)


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("targets", "channels"), [(1, 1), (4, 1), (1, 2), (4, 2)])
def test_estimates_have_the_length_of_any_mixture(name: str, targets: int, channels: int) -> None:
    separator = small(name, targets=targets, channels=channels)
    for num_samples in (1, 3, 1023, 4096, 5001):
        estimates = separator(torch.randn(2, channels, num_samples))
        assert estimates.shape == (2, targets, channels, num_samples)
        assert estimates.isfinite().all()


@pytest.mark.parametrize("name", NAMES)
def test_gain_in_is_gain_out(name: str) -> None:
    separator, mixture = small(name), torch.randn(2, 1, 4096)
    torch.testing.assert_close(separator(0.01 * mixture), 0.01 * separator(mixture), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_silence_stays_silent(name: str) -> None:
    assert small(name)(torch.zeros(1, 1, 2000)).abs().max() < 1e-4


@pytest.mark.parametrize("name", NAMES)
def test_an_estimate_does_not_depend_on_the_rest_of_the_batch(name: str) -> None:
    separator, mixtures = small(name), torch.randn(3, 1, 2048)
    for module in (separator.train(), separator.eval()):
        torch.testing.assert_close(module(mixtures)[1:2], module(mixtures[1:2]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_estimates_of_several_targets_sum_to_the_mixture(name: str) -> None:
    mixture = torch.randn(2, 2, 3000)
    consistent = small(name, targets=4, channels=2)(mixture).sum(1)
    torch.testing.assert_close(consistent, mixture, rtol=0, atol=1e-5)
    free = small(name, targets=4, channels=2, consistency=False)(mixture).sum(1)
    assert (free - mixture).abs().max() > 0.1


def test_one_target_is_never_forced_to_be_the_mixture() -> None:
    mixture = torch.randn(1, 1, 3000)
    assert (small("waveunet")(mixture)[:, 0] - mixture).abs().max() > 0.1


@pytest.mark.parametrize("name", NAMES)
def test_every_parameter_gets_a_gradient(name: str) -> None:
    separator = small(name, targets=2, channels=2)
    separator(torch.randn(2, 2, 4096)).abs().mean().backward()
    for label, parameter in separator.named_parameters():
        assert parameter.grad is not None, label
        assert parameter.grad.abs().sum() > 0, label


@pytest.mark.parametrize("name", NAMES)
def test_equal_seeds_build_equal_networks(name: str) -> None:
    first, second = small(name).state_dict(), small(name).state_dict()
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_the_ancestor_at_width_64_has_the_parameters_of_its_table() -> None:
    # 5,924,225: group norms carry as many numbers as the ancestor's batch norms did.
    assert count(SeedGenerator(1, 1, width=64, depth=8)) == 5_924_225


def test_the_ancestor_does_the_multiplications_of_its_table_less_what_folding_saves() -> None:
    macs = 0

    def add(module: nn.Module, _: object, output: torch.Tensor) -> None:
        nonlocal macs
        assert isinstance(module, nn.Conv1d)
        taps, num_frames = module.kernel_size[0], output.shape[-1]
        if isinstance(module, FoldedUpsampling):
            taps, num_frames = 7 * 4, output.shape[-1] // 4
        macs += taps * module.in_channels * module.out_channels * num_frames

    network = SeedGenerator(1, 1, width=64, depth=8)
    for module in network.modules():
        if isinstance(module, nn.Conv1d):
            module.register_forward_hook(add)
    network(torch.zeros(1, 1, 16384))
    encoder, blocks = 25 * 64 * 4096 + 25 * 64 * 128 * 1024, 16 * 21 * 128 * 128 * 1024
    decoder = 25 * 128 * 64 * 4096 + 25 * 64 * 16384
    assert round((encoder + blocks + decoder) / 1e6) == pytest.approx(6719, abs=5)
    assert macs == encoder + blocks + decoder * 7 // 25


@pytest.mark.parametrize("num_frames", [1, 2, 17])
def test_folded_upsampling_equals_nearest_then_convolution(num_frames: int) -> None:
    torch.manual_seed(1)
    folded = FoldedUpsampling(3, 5).double()
    hidden = torch.randn(2, 3, num_frames, dtype=torch.float64, requires_grad=True)
    plain = functional.conv1d(hidden.repeat_interleave(4, dim=-1), folded.weight, folded.bias, padding=12)
    torch.testing.assert_close(folded(hidden), plain, rtol=1e-12, atol=1e-12)
    wanted = torch.autograd.grad(plain.square().sum(), [hidden, folded.weight])
    found = torch.autograd.grad(folded(hidden).square().sum(), [hidden, folded.weight])
    for ours, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("sample_rate", "n_fft"), [(16000, 1024), (22050, 1024), (44100, 2048), (48000, 2048)])
def test_the_spectrogram_window_is_about_46_ms(sample_rate: int, n_fft: int) -> None:
    assert TFSep(1, 1, width=8, depth=1, sample_rate=sample_rate).n_fft == n_fft


@pytest.mark.parametrize("n_fft", [256, 1024, 2048])
def test_bands_cover_every_bin_once(n_fft: int) -> None:
    assert sum(band_widths(n_fft)) == n_fft // 2 + 1


def test_a_mask_of_one_gives_back_the_mixture() -> None:
    network = TFSep(2, 1, width=8, depth=1, sample_rate=16000)
    for band_map in network.merge.maps:
        nn.init.zeros_(band_map.linear.weight)
        with torch.no_grad():
            # Outputs of a band: real then imaginary part of each channel's mask, bin by bin.
            parts = band_map.bias.unflatten(-1, (2, 2, -1))
            parts[..., 0, :], parts[..., 1, :] = 1, 0
    mixture = torch.randn(1, 2, 5001)
    torch.testing.assert_close(network(mixture), mixture, rtol=0, atol=1e-5)


def test_an_unknown_network_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="waveunet"):
        settings.build(SeparatorConfig, {"name": "wavenet"})
    with pytest.raises(ConfigError, match="width"):
        settings.build(SeparatorConfig, {"width": 0})
