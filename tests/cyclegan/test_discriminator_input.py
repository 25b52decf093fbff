"""Normalization of discriminator inputs: level and band, computed by hand."""

import math

import pytest
import torch
from torch import Tensor

from cyclesep.cyclegan.config import DiscriminatorInputConfig
from cyclesep.cyclegan.discriminator_input import limit_band, normalize_level, normalize_pair
from cyclesep.cyclegan.recipes import DiscriminatorPair

RATE = 16000


def tone(hertz: float, amplitude: float = 1.0) -> Tensor:
    time = torch.arange(16000) / RATE
    return amplitude * torch.sin(2 * math.pi * hertz * time)[None, None]


def power(waveform: Tensor) -> float:
    return float(waveform.square().mean())


def test_loud_and_quiet_recordings_are_scaled_to_the_same_level() -> None:
    assert power(normalize_level(tone(440, 3.0))) == pytest.approx(1.0, rel=0.01)
    assert power(normalize_level(tone(440, 0.5))) == pytest.approx(1.0, rel=0.03)


def test_recordings_far_below_the_mixtures_stay_quiet() -> None:
    # Power 0.01^2 / 2, divided by itself plus 0.05^2.
    assert power(normalize_level(tone(440, 0.01))) == pytest.approx(5e-5 / (5e-5 + 2.5e-3), rel=1e-3)


def test_tones_inside_the_band_pass_and_tones_outside_do_not() -> None:
    for hertz in (150, 1000, 3800):
        torch.testing.assert_close(limit_band(tone(hertz), (100, 4000), RATE), tone(hertz), rtol=0, atol=2e-3)
    for hertz in (20, 49, 4300, 7000):
        assert power(limit_band(tone(hertz), (100, 4000), RATE)) < 1e-6


def test_the_gain_is_one_half_in_the_middle_of_the_lower_edge() -> None:
    assert power(limit_band(tone(75), (100, 4000), RATE)) == pytest.approx(0.5 / 4, rel=1e-3)


def test_an_upper_limit_above_nyquist_still_removes_the_top_of_the_spectrum() -> None:
    assert power(limit_band(tone(7500), (40, 16000), RATE)) == pytest.approx(0.5, rel=1e-3)
    assert power(limit_band(tone(7995), (40, 16000), RATE)) < 0.01


@pytest.mark.parametrize(
    ("band", "paired", "limited"),
    [("unpaired", True, False), ("unpaired", False, True), ("always", True, True), ("never", False, False)],
)
def test_the_band_is_limited_for_the_configured_batches(band: str, paired: bool, limited: bool) -> None:
    config = DiscriminatorInputConfig(band_limit=band, band_hz=(100, 4000))
    pair = DiscriminatorPair(real=tone(1000), fake=tone(7000), also_fake=tone(7000))
    found = normalize_pair(config, pair, paired=paired, sample_rate=RATE)
    assert power(found.real) == pytest.approx(1.0, rel=0.01)
    assert found.also_fake is not None
    for fake in (found.fake, found.also_fake):
        assert power(fake) == pytest.approx(0.0 if limited else 1.0, abs=0.01)


def test_band_limited_recordings_equal_full_band_ones_after_normalization() -> None:
    torch.manual_seed(0)
    full = torch.randn(1, 1, 16000)
    cut = limit_band(full, (1, 5000), RATE)
    config = DiscriminatorInputConfig(band_hz=(40, 4500))
    found = normalize_pair(config, DiscriminatorPair(real=full, fake=3 * cut), paired=False, sample_rate=RATE)
    torch.testing.assert_close(found.real, found.fake, rtol=0, atol=0.01)


def test_normalization_is_differentiable() -> None:
    fake = tone(1000).requires_grad_()
    found = normalize_pair(
        DiscriminatorInputConfig(), DiscriminatorPair(real=tone(500), fake=fake), paired=False, sample_rate=RATE
    )
    found.fake.square().sum().backward()
    assert fake.grad is not None
    assert fake.grad.isfinite().all()
