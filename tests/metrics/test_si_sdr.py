"""SI-SDR and uSDR compared with hand-computed numbers."""

import numpy as np
import pytest

from cyclesep.errors import ScoringError
from cyclesep.metrics import si_sdr, usdr


def orthogonal(power_ratio: float) -> tuple[np.ndarray, np.ndarray]:
    """A stereo reference, and a distortion orthogonal to it whose energy is that fraction of the reference's."""
    reference = np.tile([[1.0, 1.0, -1.0, -1.0], [2.0, 2.0, -2.0, -2.0]], 1000)
    distortion = np.tile([[1.0, -1.0, 1.0, -1.0], [2.0, -2.0, 2.0, -2.0]], 1000)
    return reference, distortion * np.sqrt(power_ratio)


def test_usdr_of_a_tenth_missing_is_20_db() -> None:
    reference, _ = orthogonal(1.0)
    assert usdr(reference, 0.9 * reference) == pytest.approx(20.0)


def test_usdr_of_half_the_mixture_of_two_equal_sources_is_3_db() -> None:
    reference, other = orthogonal(1.0)
    assert usdr(reference, reference + other) == pytest.approx(0.0, abs=1e-9)
    assert usdr(reference, (reference + other) / 2) == pytest.approx(10 * np.log10(2))


@pytest.mark.parametrize("scale", [1e-3, 1.0, -40.0])
def test_si_sdr_does_not_depend_on_the_scale(scale: float) -> None:
    reference, distortion = orthogonal(0.01)
    assert si_sdr(reference, scale * (reference + distortion)) == pytest.approx(20.0)


def test_si_sdr_is_precise_at_140_db() -> None:
    reference, distortion = orthogonal(1e-14)
    assert si_sdr(reference, reference + distortion) == pytest.approx(140.0, abs=1e-3)


def test_a_perfect_estimate_is_infinite() -> None:
    reference, _ = orthogonal(1.0)
    assert si_sdr(reference, 2 * reference) == usdr(reference, reference) == np.inf


def test_a_silent_reference_is_nan_and_a_silent_estimate_has_0_db_of_usdr() -> None:
    reference, _ = orthogonal(1.0)
    silence = np.zeros_like(reference)
    assert np.isnan([si_sdr(silence, reference), usdr(silence, reference), si_sdr(reference, silence)]).all()
    assert usdr(reference, silence) == 0.0


def test_int16_does_not_overflow_and_blocks_do_not_matter() -> None:
    rng = np.random.default_rng(0)
    reference = rng.integers(-32768, 32767, (2, 600_000), dtype=np.int16)
    estimate = rng.integers(-32768, 32767, (2, 600_000), dtype=np.int16)
    s, y = reference.astype(float), estimate.astype(float)
    assert usdr(reference, estimate) == pytest.approx(10 * np.log10((s**2).sum() / ((y - s) ** 2).sum()))


def test_different_shapes_raise_scoring_error() -> None:
    with pytest.raises(ScoringError, match="crop or pad"):
        usdr(np.zeros((2, 10)), np.zeros((2, 11)))
