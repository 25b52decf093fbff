"""WaveGAN discriminator: operations and logits of the original notebook, its last layer as a matrix product."""

import pytest
import torch
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.notebook_step import NotebookDiscriminator
from benchmarks.step_baselines import copy_weights
from cyclesep.models.discriminators.wavegan import MatrixConv, WaveGANDiscriminator

torch.set_num_threads(1)


@pytest.mark.parametrize("network", [WaveGANDiscriminator(1, width=64, max_shift=2), NotebookDiscriminator(64)])
def test_width_64_has_as_many_multiplications_as_the_original(network: torch.nn.Module) -> None:
    inputs = (
        (torch.zeros(1, 1, 16384), None) if isinstance(network, WaveGANDiscriminator) else (torch.zeros(1, 1, 16384),)
    )
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network(*inputs)
    assert counter.get_total_flops() / 2e6 == pytest.approx(845, abs=1)


def test_logits_without_phase_shuffle_equal_the_notebook() -> None:
    torch.manual_seed(0)
    ours, theirs = WaveGANDiscriminator(1, width=8, max_shift=0).double(), NotebookDiscriminator(8).double()
    copy_weights(ours, theirs)
    windows = torch.randn(3, 1, 16384, dtype=torch.float64)
    logits = ours(windows, torch.Generator())[-1]
    torch.testing.assert_close(logits.flatten(1), theirs(windows), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("num_frames", [1, 24, 65])
def test_matrix_conv_equals_conv1d(num_frames: int) -> None:
    torch.manual_seed(0)
    layer = MatrixConv(3, 5, 25, 4, padding=11).double()
    hidden = torch.randn(2, 3, num_frames + 3, dtype=torch.float64, requires_grad=True)
    plain = functional.conv1d(hidden, layer.weight, layer.bias, stride=4, padding=11)
    torch.testing.assert_close(layer(hidden), plain, rtol=1e-12, atol=1e-12)
    inputs = [hidden, layer.weight, layer.bias]
    expected = torch.autograd.grad(plain.square().sum(), inputs)
    found = torch.autograd.grad(layer(hidden).square().sum(), inputs)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
