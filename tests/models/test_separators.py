"""Separators: any length, level, mixture consistency, sizes of the original notebook."""

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.notebook_step import NotebookGenerator
from benchmarks.step_baselines import copy_weights
from cyclesep.config import settings
from cyclesep.errors import ConfigError
from cyclesep.models.separators.band_unet import apply_rotary
from cyclesep.models.separators.config import SeparatorConfig
from cyclesep.models.separators.separator import Separator, build_separator
from cyclesep.models.separators.tfsep import TFSep, band_widths
from cyclesep.models.separators.wavegan import FoldedUpsampling, WaveGANSeparator

torch.set_num_threads(1)

NAMES = ("waveunet", "tfsep", "wavegan")


def small(name: str, *, targets: int = 1, channels: int = 1, consistency: bool = True) -> Separator:
    torch.manual_seed(0)
    config = SeparatorConfig(name=name, channels=8, depth=2, mixture_consistency=consistency)
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
def test_estimates_scale_with_the_mixture(name: str) -> None:
    separator, mixture = small(name), torch.randn(2, 1, 4096)
    torch.testing.assert_close(separator(0.01 * mixture), 0.01 * separator(mixture), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_silence_has_silent_estimates(name: str) -> None:
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


def test_a_single_target_has_no_mixture_consistency() -> None:
    mixture = torch.randn(1, 1, 3000)
    assert (small("waveunet")(mixture)[:, 0] - mixture).abs().max() > 0.1


@pytest.mark.parametrize("name", NAMES)
def test_every_parameter_has_a_gradient(name: str) -> None:
    separator = small(name, targets=2, channels=2)
    separator(torch.randn(2, 2, 4096)).abs().mean().backward()
    for label, parameter in separator.named_parameters():
        assert parameter.grad is not None, label
        assert parameter.grad.abs().sum() > 0, label


@pytest.mark.parametrize("name", NAMES)
def test_equal_seeds_build_equal_networks(name: str) -> None:
    first, second = small(name).state_dict(), small(name).state_dict()
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_wavegan_of_width_64_has_as_many_parameters_as_the_original() -> None:
    # Group norms have as many parameters as the batch norms of the original.
    assert count(WaveGANSeparator(1, 1, width=64, depth=8)) == 5_924_225


def multiplications(module: nn.Module, shape: tuple[int, ...]) -> int:
    """Return the multiply-accumulate operations of a forward pass, without those on weights alone."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        module(torch.zeros(shape))
    return int(counter.get_total_flops()) // 2


@pytest.mark.parametrize("original_layers", [False, True])
def test_wavegan_has_the_multiplications_of_the_original_less_those_saved_by_folding(original_layers: bool) -> None:
    encoder, blocks = 25 * 64 * 4096 + 25 * 64 * 128 * 1024, 16 * 21 * 128 * 128 * 1024
    decoder = 25 * 128 * 64 * 4096 + 25 * 64 * 16384
    # 6719 million in the original table, which includes the addition of biases.
    assert (encoder + blocks + decoder) / 1e6 == pytest.approx(6719, abs=1)
    assert multiplications(NotebookGenerator(64), (1, 1, 16384)) == encoder + blocks + decoder
    network = WaveGANSeparator(1, 1, width=64, depth=8, original_layers=original_layers)
    # Folding the taps costs at most 7 x 4 operations for each of 25 taps, once, for any length.
    folding = 2 * 4 * 7 * 25 * (128 * 64 + 64)
    folded = encoder + blocks + decoder * 7 // 25
    assert folded <= multiplications(network, (1, 1, 16384)) <= folded + folding


def test_wavegan_with_original_layers_equals_the_network_of_the_notebook_with_gradients() -> None:
    torch.manual_seed(2)
    ours, theirs = (
        WaveGANSeparator(1, 1, width=8, depth=8, original_layers=True).double(),
        NotebookGenerator(8).double(),
    )
    copy_weights(ours, theirs)
    waveform = torch.randn(2, 1, 16384, dtype=torch.float64)
    torch.testing.assert_close(ours(waveform), theirs(waveform), rtol=1e-12, atol=1e-12)
    for network in (ours, theirs):
        network(waveform).square().sum().backward()
    # Biases before a batch norm have gradients of rounding only, so errors are relative to the largest gradient.
    largest = max(float(other.grad.abs().max()) for other in theirs.parameters())
    for own, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(own.grad / largest, other.grad / largest, rtol=0, atol=1e-12)


def test_original_layers_couple_windows_in_training_only() -> None:
    network, windows = WaveGANSeparator(1, 1, width=8, depth=1, original_layers=True), torch.randn(3, 1, 4096)
    assert not torch.allclose(network(windows)[:1], network(windows[:1]), rtol=1e-2)
    network.eval()
    torch.testing.assert_close(network(windows)[:1], network(windows[:1]), rtol=1e-4, atol=1e-6)


def test_original_layers_receive_unscaled_input() -> None:
    torch.manual_seed(0)
    config = SeparatorConfig(name="wavegan", channels=8, depth=1, original_layers=True)
    separator = build_separator(config, targets=1, channels=1, sample_rate=16000).eval()
    mixture = torch.randn(1, 1, 2048)
    torch.testing.assert_close(separator(mixture)[:, 0], separator.network(mixture))


def test_settings_of_another_network_raise() -> None:
    for changes in ({"name": "waveunet", "unet_levels": 2}, {"name": "tfsep", "original_layers": True}):
        with pytest.raises(ConfigError, match=f"only used by (tfsep|wavegan), but separator.name is {changes['name']}"):
            build_separator(SeparatorConfig(**changes), targets=1, channels=1, sample_rate=16000)


@pytest.mark.parametrize("num_frames", [1, 2, 17])
def test_folded_upsampling_equals_nearest_upsampling_and_convolution(num_frames: int) -> None:
    torch.manual_seed(1)
    folded = FoldedUpsampling(3, 5).double()
    assert {name: tuple(values.shape) for name, values in folded.state_dict().items()} == {
        "weight": (5, 3, 25),
        "bias": (5,),
    }
    hidden = torch.randn(2, 3, num_frames, dtype=torch.float64, requires_grad=True)
    plain = functional.conv1d(hidden.repeat_interleave(4, dim=-1), folded.weight, folded.bias, padding=12)
    torch.testing.assert_close(folded(hidden.unsqueeze(2)).squeeze(2), plain, rtol=1e-12, atol=1e-12)
    inputs = [hidden, folded.weight, folded.bias]
    expected = torch.autograd.grad(plain.square().sum(), inputs)
    found = torch.autograd.grad(folded(hidden.unsqueeze(2)).square().sum(), inputs)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("sample_rate", "n_fft"), [(16000, 1024), (22050, 1024), (44100, 2048), (48000, 2048)])
def test_the_spectrogram_window_is_about_46_ms(sample_rate: int, n_fft: int) -> None:
    assert TFSep(1, 1, width=8, depth=1, sample_rate=sample_rate).n_fft == n_fft


@pytest.mark.parametrize("n_fft", [256, 1024, 2048])
def test_bands_cover_every_bin_once(n_fft: int) -> None:
    assert sum(band_widths(n_fft)) == n_fft // 2 + 1


def test_large_tfsep_has_6_million_parameters_and_about_20_gmac_per_second_of_stereo() -> None:
    with torch.device("meta"):
        config = SeparatorConfig(name="tfsep", channels=64, depth=5, unet_levels=2)
        network = build_separator(config, targets=1, channels=2, sample_rate=44100).network
    assert count(network) == pytest.approx(6.4e6, rel=0.01)
    small_variant = TFSep(1, 1, width=32, depth=4, sample_rate=16000)
    assert count(small_variant) == 102_422
    quarter = TFSep(2, 1, width=16, depth=5, levels=2, sample_rate=44100)
    # Most operations are products of width by width: a quarter of the width needs a sixteenth of them.
    assert 16 * multiplications(quarter, (1, 2, 44100)) / 1e9 == pytest.approx(20, abs=4)


def large(*, targets: int = 1, channels: int = 2, sample_rate: int = 44100) -> Separator:
    torch.manual_seed(0)
    config = SeparatorConfig(name="tfsep", channels=8, depth=2, unet_levels=2)
    return build_separator(config, targets=targets, channels=channels, sample_rate=sample_rate)


@pytest.mark.parametrize(("targets", "channels", "sample_rate"), [(1, 1, 16000), (4, 2, 44100)])
def test_large_tfsep_accepts_any_length_rate_and_number_of_targets(
    targets: int, channels: int, sample_rate: int
) -> None:
    separator = large(targets=targets, channels=channels, sample_rate=sample_rate)
    for num_samples in (1, 2047, 5001):
        mixture = torch.randn(2, channels, num_samples)
        estimates = separator(mixture)
        assert estimates.shape == (2, targets, channels, num_samples)
        if targets > 1:
            torch.testing.assert_close(estimates.sum(1), mixture, rtol=0, atol=1e-4)


def test_every_parameter_of_large_tfsep_has_a_gradient() -> None:
    separator = large()
    separator(torch.randn(1, 2, 9000)).abs().mean().backward()
    for label, parameter in separator.named_parameters():
        assert parameter.grad is not None, label
        assert parameter.grad.abs().sum() > 0, label


def test_crops_of_a_batch_are_independent_in_large_tfsep() -> None:
    separator, mixtures = large(), torch.randn(3, 2, 6000)
    torch.testing.assert_close(separator(mixtures)[1:2], separator(mixtures[1:2]), rtol=1e-4, atol=1e-5)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("levels", [0, 2])
def test_tfsep_under_autocast_is_close_to_full_precision(levels: int) -> None:
    torch.manual_seed(0)
    config = SeparatorConfig(name="tfsep", channels=8, depth=1, unet_levels=levels)
    separator, mixture = build_separator(config, targets=1, channels=1, sample_rate=16000), torch.randn(2, 1, 6000)
    with torch.no_grad():
        full = separator(mixture)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            lower = separator(mixture)
    assert lower.dtype == torch.float32
    assert 0 < float((lower - full).square().mean() / full.square().mean()) < 1e-3


def test_rotary_positions_preserve_norms_and_depend_on_distance_only() -> None:
    torch.manual_seed(0)
    query, key = torch.randn(2, 16, dtype=torch.float64)
    queries, keys = apply_rotary(query.expand(50, 16)), apply_rotary(key.expand(50, 16))
    torch.testing.assert_close(queries.norm(dim=-1), query.norm().expand(50))
    scores = queries @ keys.mT
    torch.testing.assert_close(scores.diagonal(7), scores[0, 7].expand(43), rtol=1e-5, atol=1e-5)
    assert (scores[0] - scores[0, 0]).abs().max() > 0.1


def test_a_mask_of_one_reproduces_the_mixture() -> None:
    network = TFSep(2, 1, width=8, depth=1, sample_rate=16000)
    for band_map in network.merge.maps:
        nn.init.zeros_(band_map.linear.weight)
        with torch.no_grad():
            # Outputs of a band: real and imaginary part of each channel's mask, bin by bin.
            parts = band_map.bias.unflatten(-1, (2, 2, -1))
            parts[..., 0, :], parts[..., 1, :] = 1, 0
    mixture = torch.randn(1, 2, 5001)
    torch.testing.assert_close(network(mixture), mixture, rtol=0, atol=1e-5)


def test_an_unknown_network_raises_with_the_known_names() -> None:
    with pytest.raises(ConfigError, match="waveunet"):
        settings.build(SeparatorConfig, {"name": "wavenet"})
    with pytest.raises(ConfigError, match="channels"):
        settings.build(SeparatorConfig, {"channels": 0})
