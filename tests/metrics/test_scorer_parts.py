"""The parts of the exact scorer: frames, correlations, block-Toeplitz systems, fallback solutions."""

import museval
import numpy as np
import pytest
from numpy.typing import NDArray

from cyclesep.errors import ScoringError
from cyclesep.metrics import block_toeplitz, distortion_filters
from cyclesep.metrics.correlations import Correlator, exact_unit
from cyclesep.metrics.distortion_filters import Conditioning
from cyclesep.metrics.framing import frame_spans, tiling
from cyclesep.metrics.sources import Pairing, Sources, are_on_grid, each_alone

LAGS = 24
Real = NDArray[np.float64]


def signals(channels: int, samples: int = 1000, seed: int = 0) -> Real:
    return np.random.default_rng(seed).standard_normal((channels, samples))


def correlations(references: Real, everything: Real, lags: int = LAGS) -> Real:
    """Compute the correlations by their definition, one product at a time."""
    found = np.zeros((lags, len(references), len(everything)))
    for a in range(lags):
        found[a] = references[:, : references.shape[1] - a] @ everything[:, a:].T
    return found


def correlator(everything: Real, num_references: int) -> Correlator:
    return Correlator(
        sources=Sources(signals=tuple(row[None] for row in everything), num_references=num_references), lags=LAGS
    )


@pytest.mark.parametrize("length", [1, 9, 10, 11, 25, 100])
@pytest.mark.parametrize(("win", "hop"), [(10, 10), (10, 3), (4, 7), (2.5, 1.25), (np.inf, np.inf), (np.inf, 5)])
def test_frames_equal_museval_s(length: int, win: float, hop: float) -> None:
    theirs = [(frame.start, frame.stop) for frame in museval.metrics.Framing(win, hop, length)]
    assert frame_spans(length, win, hop) == theirs


@pytest.mark.parametrize(("win", "hop"), [(10, 10), (10, 3), (4, 7), (200, 200)])
def test_tiles_cover_each_sample_once(win: int, hop: int) -> None:
    tiles = tiling(frame_spans(103, win, hop), 103, 16)
    assert [sample for start, stop in tiles for sample in range(start, stop)] == list(range(103))


def test_adjoining_frames_are_their_own_tiles() -> None:
    frames = frame_spans(103, 10, 10)
    assert tiling(frames, 103, 16) == [*frames, (100, 103)]


@pytest.mark.parametrize("samples", [5, LAGS, 700, 5000])
def test_blocked_correlations_equal_the_definition(samples: int) -> None:
    everything = signals(3, samples)
    statistics = correlator(everything, 2).spans([(0, samples)], (each_alone(1),))
    expected = correlations(everything[:2], everything, min(LAGS, samples))
    np.testing.assert_allclose(statistics.correlations[0, : len(expected)], expected, atol=1e-11)
    np.testing.assert_allclose(statistics.estimate_products[0], everything[2:] @ everything[2:].T)


@pytest.mark.parametrize("samples", [60, 3000])
def test_correlations_of_16_bit_samples_are_exact(samples: int) -> None:
    whole = np.rint(signals(3, samples) * 6000)
    rows = tuple(row[None] / 32768 for row in whole)
    sources = Sources(signals=rows, num_references=2, steps=32768.0)
    part = Correlator(sources=sources, lags=LAGS)
    expected = correlations(whole[:2], whole)
    np.testing.assert_array_equal(part.spans([(0, samples)], (each_alone(1),)).correlations[0] * 2.0**30, expected)
    tiles = [(0, samples // 2), (samples // 2, samples)]
    added = part.across_boundaries(tiles) + part.spans(tiles, (each_alone(1),)).correlations.sum(axis=0)
    np.testing.assert_array_equal(added * 2.0**30, expected)


def test_sums_beyond_the_precision_of_an_fft_are_not_rounded() -> None:
    sources = Sources(signals=(np.zeros((1, 3)),) * 2, num_references=1, steps=32768.0)
    assert exact_unit(sources, 1e4) == 2.0**-30
    assert exact_unit(sources, 1e6) is None
    assert exact_unit(Sources(signals=(np.zeros((1, 3)),) * 2, num_references=1), 1.0) is None


def test_the_16_bit_grid_is_detected() -> None:
    whole = np.rint(signals(1, 9000) * 6000) / 32768
    assert are_on_grid((whole, whole.astype(np.float32)), 32768.0)
    between = whole.copy()
    between[0, 8999] += 1e-9
    assert not are_on_grid((whole, between), 32768.0)
    assert not are_on_grid((whole.astype(np.int64),), 32768.0)


@pytest.mark.parametrize("tile", [7, LAGS, 300])
def test_tiles_and_their_boundaries_sum_to_the_whole(tile: int) -> None:
    everything = signals(3)
    part = correlator(everything, 2)
    tiles = [(start, min(start + tile, 1000)) for start in range(0, 1000, tile)]
    added = part.across_boundaries(tiles) + part.spans(tiles, (each_alone(1),)).correlations.sum(axis=0)
    np.testing.assert_allclose(added, correlations(everything[:2], everything), atol=1e-11)


def test_toeplitz_product_and_solution_equal_the_dense_ones() -> None:
    system = correlations(signals(3), signals(3))
    right = np.random.default_rng(1).standard_normal((LAGS, 3, 2))
    dense = block_toeplitz.dense(system, 0.5)
    np.testing.assert_array_equal(dense, dense.T)
    product = block_toeplitz.multiply(system, 0.5, right)
    np.testing.assert_allclose(product.reshape(-1, 2), dense @ right.reshape(-1, 2), rtol=1e-11)
    solution = block_toeplitz.factorise(system, 0.5).solve(right)
    np.testing.assert_allclose(solution.reshape(-1, 2), np.linalg.solve(dense, right.reshape(-1, 2)), rtol=1e-9)


def test_the_factor_is_the_cholesky_factor() -> None:
    system = correlations(signals(2), signals(2))
    factor = block_toeplitz.factorise(system, 0.0)
    upper = np.linalg.cholesky(block_toeplitz.dense(system, 0.0)).T
    np.testing.assert_allclose(factor.rows[0], upper[:2], atol=1e-12)
    np.testing.assert_allclose(np.abs(factor.rows[-1]), np.abs(upper[-2:, -2:]), rtol=1e-10, atol=1e-12)


def test_factorising_an_indefinite_system_raises() -> None:
    system = correlations(signals(2), signals(2))
    system[1] *= 50
    with pytest.raises(np.linalg.LinAlgError):
        block_toeplitz.factorise(system, 0.0)


def solved(gram: Real, right: Real, duplicates: list[int]) -> distortion_filters.Solution:
    return distortion_filters.solve(gram, right, duplicates, distortion_filters.WELL_CONDITIONED)


def test_a_known_filter_is_recovered_exactly() -> None:
    references = signals(2)
    estimate = np.zeros((1, 1000))
    estimate[0, 5:] = 0.8 * references[1, :-5]
    solution = solved(correlations(references, references), correlations(references, estimate), duplicates=[0, 1])
    assert solution.conditioning == Conditioning.EXACT
    expected = np.zeros((LAGS, 2, 1))
    expected[5, 1] = 0.8
    np.testing.assert_allclose(solution.filters, expected, atol=0.02)


def test_identical_channels_are_deduplicated() -> None:
    one = signals(1)
    both, estimate = np.concatenate([one, one]), 0.5 * one
    solution = solved(correlations(both, both), correlations(both, estimate), duplicates=[0, 0])
    assert solution.conditioning == Conditioning.DEDUPLICATED
    np.testing.assert_allclose(solution.filters.sum(axis=1)[:, 0], [0.5] + [0] * (LAGS - 1), atol=1e-9)
    assert not solution.filters[:, 1].any()


def test_proportional_channels_project_as_one_channel() -> None:
    one = signals(1)
    both, estimate = np.concatenate([one, 0.3 * one]), 0.5 * one
    solution = solved(correlations(both, both), correlations(both, estimate), duplicates=[0, 1])
    summed = solution.filters[:, 0, 0] + 0.3 * solution.filters[:, 1, 0]
    np.testing.assert_allclose(summed, [0.5] + [0] * (LAGS - 1), atol=1e-6)


def test_an_indefinite_system_falls_back_to_lu_and_a_zero_system_gives_zero_filters() -> None:
    indefinite = correlations(signals(2), signals(2))
    indefinite[1] *= 50
    right = np.random.default_rng(0).standard_normal((LAGS, 2, 1))
    solution = solved(indefinite, right, duplicates=[0, 1])
    assert solution.conditioning == Conditioning.LU
    np.testing.assert_allclose(
        block_toeplitz.dense(indefinite, 0.0) @ solution.filters.reshape(-1), right.reshape(-1), rtol=1e-6
    )
    silent = solved(np.zeros((LAGS, 1, 1)), np.zeros((LAGS, 1, 1)), duplicates=[0])
    assert not silent.filters.any()


def test_sources_read_zeros_outside_the_track_and_after_the_end_of_a_signal() -> None:
    signals = (np.array([[1, 2, 3]], dtype=np.int16), np.array([[4.0]]), np.array([[5, 6, 7, 8]]))
    sources = Sources(signals=signals, num_references=1)
    block = np.full((3, 6), 9.0)
    sources.read(-2, 4, block)
    np.testing.assert_array_equal(block, [[0, 0, 1, 2, 3, 0], [0, 0, 4, 0, 0, 0], [0, 0, 5, 6, 7, 0]])
    sources.read(5, 7, block[:, :2])
    assert not block[:, :2].any()


def test_floating_samples_are_rounded_to_the_grid_even_above_full_scale() -> None:
    samples = np.array([[0.49, -1.26, 1.5]])
    for signal in (samples, samples.astype(np.float32)):
        block = np.empty((1, 3))
        Sources(signals=(signal,), num_references=1, steps=4.0).read(0, 3, block)
        np.testing.assert_array_equal(block, [[0.5, -1.25, 1.5]])


def test_sources_with_different_channels_raise_scoring_error() -> None:
    with pytest.raises(ScoringError, match="all must have the same number"):
        Sources(signals=(np.zeros((1, 3)), np.zeros((2, 3))), num_references=1)


def test_duplicates_are_bit_identical_channels_and_equal_sums() -> None:
    a, b = signals(2, 9000)
    sources = Sources(signals=tuple(np.stack(pair) for pair in ((a, a), (b, a), (b, b), (a, b))), num_references=3)
    assert each_alone(3).duplicates(sources, (0, 9000)) == [0, 0, 2, 0, 2, 2]
    summed = Pairing(references=((0, 2), (1,)), estimates=((0,), (0,)))
    assert summed.duplicates(sources, (0, 9000)) == [0, 0, 2, 3]


def test_channels_that_differ_in_one_sample_are_not_duplicates() -> None:
    a = signals(1, 9000)[0]
    other = a.copy()
    other[8999] += 1e-16 + abs(other[8999]) * 1e-15
    sources = Sources(signals=(np.stack([a, other]),) * 2, num_references=1)
    assert each_alone(1).duplicates(sources, (0, 9000)) == [0, 1]
    assert each_alone(1).duplicates(sources, (0, 8999)) == [0, 0]
