"""BSS Eval compared with museval 0.4.1, and input on which museval fails."""

import tracemalloc
from collections.abc import Callable

import museval
import numpy as np
import pytest
import scipy.signal
import stempeg
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from cyclesep.errors import ScoringError
from cyclesep.metrics import bss_eval, energies, evaluate
from cyclesep.metrics.distortion_filters import Conditioning
from cyclesep.metrics.sources import Sources, each_alone

Signals = NDArray[np.float64]
WINDOW = 8000
AGREEMENT_DB = 1e-5


def on_16_bits(signals: Signals) -> Signals:
    return np.rint(signals * 32768) / 32768


def noise(sources: int, samples: int, channels: int, seed: int = 0) -> Signals:
    return on_16_bits(0.1 * np.random.default_rng(seed).standard_normal((sources, samples, channels)))


def leaking(references: Signals, seed: int = 1) -> Signals:
    """Return estimates that contain some of the other sources and some noise."""
    rng = np.random.default_rng(seed)
    mixing = np.eye(len(references)) + 0.15 * rng.standard_normal((len(references),) * 2)
    estimates = np.einsum("jk,ktc->jtc", mixing, references) + 0.005 * rng.standard_normal(references.shape)
    return on_16_bits(estimates)


@pytest.fixture(scope="module")
def excerpt() -> Signals:
    """Drums, bass, other and vocals of stempeg's excerpt of real music, decoded to 16 bits as musdb does."""
    stems, _ = stempeg.read_stems(stempeg.example_stem_path(), ffmpeg_format="s16le")
    return np.asarray(stems[1:, 22050 : 22050 + 50000], dtype=np.float64)


def difference_db(
    references: Signals, estimates: Signals, **framing: object
) -> tuple[float, NDArray[np.float64], NDArray[np.float64]]:
    """Return the largest difference from museval among values up to 60 dB; shapes and NaN frames must be equal."""
    ours = np.stack(evaluate(references, estimates, **framing))
    theirs = np.stack(museval.evaluate(references, estimates, **framing))
    assert ours.shape == theirs.shape
    np.testing.assert_array_equal(np.isnan(ours), np.isnan(theirs))
    compared = np.isfinite(theirs) & (theirs <= 60)
    return float(np.abs(ours[compared] - theirs[compared]).max(initial=0.0)), ours, theirs


def conditioning_of(references: Signals, estimates: Signals) -> Conditioning:
    sources = Sources(signals=tuple(x.T for x in (*references, *estimates)), num_references=len(references))
    (scores,) = bss_eval.score_sources(sources, (each_alone(len(references)),), win=WINDOW, hop=WINDOW)
    return scores.conditioning


def delayed(references: Signals) -> Signals:
    return 0.7 * np.roll(references, 37, axis=1)


def test_four_real_stems_equal_museval(excerpt: Signals) -> None:
    four = excerpt[:, :26000]
    assert difference_db(four, leaking(four), win=13000, hop=13000)[0] < AGREEMENT_DB


def test_the_mixture_as_every_estimate_equals_museval(excerpt: Signals) -> None:
    two = excerpt[[0, 3], :40000]
    mixture = on_16_bits(np.repeat(two.sum(axis=0, keepdims=True) / 2, 2, axis=0))
    assert difference_db(two, mixture, win=16000, hop=16000)[0] < AGREEMENT_DB


@pytest.mark.parametrize("spoil", [leaking, delayed], ids=["leaking", "delayed"])
@pytest.mark.parametrize(("sources", "channels"), [(1, 1), (1, 2), (2, 1), (2, 3), (3, 1)])
def test_noise_of_any_sources_and_channels_equals_museval(
    sources: int, channels: int, spoil: Callable[[Signals], Signals]
) -> None:
    references = noise(sources, 20000, channels)
    assert difference_db(references, spoil(references), win=WINDOW, hop=WINDOW)[0] < AGREEMENT_DB


@pytest.mark.parametrize(
    ("win", "hop"), [(6000, 2000), (4000, 7000), (5000.5, 2500.25), (np.inf, np.inf), (20000, 100), (50000, 50000)]
)
def test_any_window_and_hop_equal_museval(win: float, hop: float) -> None:
    references = noise(2, 20000, 1)
    assert difference_db(references, leaking(references), win=win, hop=hop)[0] < AGREEMENT_DB


def test_framewise_filters_of_v3_equal_museval() -> None:
    references = noise(2, 20000, 1)
    references[0, 8000:16000] = 0
    assert difference_db(references, leaking(references), win=WINDOW, hop=6000, mode="v3")[0] < AGREEMENT_DB


def test_silent_frames_are_nan_as_in_museval() -> None:
    references = noise(3, 40000, 2)
    references[0, 8000:16000] = 0
    references[1, 20000:33000] = 0
    difference, ours, _ = difference_db(references, leaking(references), win=WINDOW, hop=WINDOW)
    assert difference < AGREEMENT_DB
    assert np.isnan(ours[0, 0]).tolist() == [False, True, False, True, False]


def test_a_band_limited_16_bit_source_equals_museval() -> None:
    low = scipy.signal.butter(8, 0.2, output="sos")
    references = on_16_bits(scipy.signal.sosfilt(low, noise(2, 24000, 2), axis=1))
    assert difference_db(references, leaking(references), win=WINDOW, hop=WINDOW)[0] < AGREEMENT_DB


@pytest.mark.parametrize("length", [15000, 25000], ids=["shorter", "longer"])
def test_estimates_of_another_length_are_padded_or_cut_as_by_museval(length: int) -> None:
    references = noise(2, 20000, 1)
    estimates = leaking(noise(2, 25000, 1))[:, :length]
    assert difference_db(references, estimates, win=WINDOW, hop=WINDOW)[0] < AGREEMENT_DB


def test_integer_samples_and_two_dimensions_equal_museval() -> None:
    references = np.rint(noise(2, 20000, 1)[..., 0] * 1000).astype(np.int64)
    difference, ours, _ = difference_db(references, references + references[::-1] // 4, win=WINDOW, hop=WINDOW)
    assert difference < AGREEMENT_DB
    assert ours.shape == (4, 2, 2)


def test_perfect_estimates_score_as_high_as_in_museval() -> None:
    references = noise(2, 20000, 2)
    _, ours, theirs = difference_db(references, references.copy(), win=WINDOW, hop=WINDOW)
    assert np.isposinf(ours[0]).all()
    assert np.isposinf(theirs[0]).all()
    assert (ours[1:] > 200).all()
    assert (theirs[1:] > 200).all()


@settings(max_examples=25, deadline=None)
@given(
    sources=st.integers(1, 5),
    channels=st.sampled_from([1, 2, 3, 6]),
    samples=st.integers(500, 2000),
    win=st.integers(150, 2500),
    hop=st.integers(50, 2500),
    filters_len=st.sampled_from([1, 8, 13, 32]),
    framewise=st.booleans(),
    seed=st.integers(0, 99),
)
def test_random_shapes_and_filter_lengths_equal_museval(
    sources: int, channels: int, samples: int, win: int, hop: int, filters_len: int, framewise: bool, seed: int
) -> None:
    references = noise(sources, samples, channels, seed)
    estimates = leaking(references, seed)
    mode = "v3" if framewise else "v4"
    # With fewer samples than unknowns every filter fits, and museval's is rounding noise.
    observed = min(win, samples) if framewise else samples
    filters_len = min(filters_len, max(1, observed // (2 * sources * channels)))
    ours = np.stack(evaluate(references, estimates, win, hop, mode, filters_len=filters_len))
    theirs = np.stack(
        museval.metrics.bss_eval(
            references, estimates, window=win, hop=hop, filters_len=filters_len, framewise_filters=framewise
        )[:4]
    )
    assert ours.shape == theirs.shape
    np.testing.assert_array_equal(np.isnan(ours), np.isnan(theirs))
    compared = np.isfinite(theirs) & (theirs <= 60)
    np.testing.assert_allclose(ours[compared], theirs[compared], rtol=0, atol=AGREEMENT_DB)


def test_dual_mono_equals_museval_and_is_deduplicated(excerpt: Signals) -> None:
    mono = on_16_bits(np.repeat(excerpt[:2, :24000].mean(axis=2, keepdims=True), 2, axis=2))
    assert difference_db(mono, leaking(mono), win=WINDOW, hop=WINDOW)[0] < 1e-4
    assert conditioning_of(mono, leaking(mono)) == Conditioning.DEDUPLICATED


def test_panned_mono_is_singular_and_regularized(excerpt: Signals) -> None:
    panned = 0.9 * excerpt[:2, :24000].mean(axis=2, keepdims=True) * [1, 0.7]
    estimates = leaking(panned)
    assert conditioning_of(panned, estimates) == Conditioning.REGULARIZED
    assert difference_db(panned, estimates, win=WINDOW, hop=WINDOW)[0] < 1e-3


def test_music_is_solved_exactly(excerpt: Signals) -> None:
    assert conditioning_of(excerpt[:2], leaking(excerpt[:2])) == Conditioning.EXACT


def test_too_few_equations_are_reported_as_underdetermined() -> None:
    unknowns = 2 * 512
    enough = noise(2, unknowns - 511 + 1, 1)
    assert conditioning_of(enough, leaking(enough)) == Conditioning.EXACT
    assert np.stack(evaluate(enough, leaking(enough)))[3].max() < 80
    few = enough[:, :-1]
    assert conditioning_of(few, leaking(few)) == Conditioning.UNDERDETERMINED
    assert np.stack(evaluate(few, leaking(few)))[3].min() > 150
    dual_mono = np.repeat(enough, 2, axis=2)
    assert conditioning_of(dual_mono, leaking(dual_mono)) == Conditioning.DEDUPLICATED


def test_v3_counts_the_equations_of_a_frame() -> None:
    references = noise(2, 600, 1)
    sources = Sources(signals=tuple(x.T for x in (*references, *leaking(references))), num_references=2)
    message = {
        win: bss_eval.score_sources(sources, (each_alone(2),), win=win, hop=win, mode="v3", filters_len=64)[0]
        for win in (65, 66)
    }
    assert message[65].conditioning == Conditioning.UNDERDETERMINED != message[66].conditioning


@pytest.mark.parametrize("silent", ["reference", "estimate", "opposite channels"])
def test_a_silent_signal_gives_nan_frames_and_no_error(silent: str) -> None:
    references, estimates = noise(2, 20000, 2), leaking(noise(2, 20000, 2))
    if silent == "reference":
        references[1] = 0
    elif silent == "estimate":
        estimates[0] = 0
    else:
        references[0, :, 1] = -references[0, :, 0]
    scores = np.stack(evaluate(references, estimates, WINDOW, WINDOW))
    assert scores.shape == (4, 2, 2)
    assert np.isnan(scores).all()


def test_a_single_source_has_infinite_sir() -> None:
    references = noise(1, 20000, 2)
    _, _, sir, _ = evaluate(references, leaking(references), WINDOW, WINDOW)
    assert np.isposinf(sir).all()


def test_fewer_samples_than_filter_taps_give_finite_scores() -> None:
    references = noise(2, 400, 1)
    scores = evaluate(references, leaking(references))
    assert all(values.shape == (2, 1) and np.isfinite(values).all() for values in scores)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_an_error_names_signal_and_position_of_a_non_finite_sample(value: float) -> None:
    estimates = noise(2, 5000, 1)
    estimates[1, 1234] = value
    with pytest.raises(ScoringError, match="estimate 1: 1 samples are NaN or infinite, the first at sample 1234"):
        evaluate(noise(2, 5000, 1), estimates)


@pytest.mark.parametrize(
    ("references", "estimates", "options", "message"),
    [
        (np.ones((2, 9, 1)), np.ones((3, 9, 1)), {}, "must be equal"),
        (np.ones((2, 9, 1)), np.ones((2, 8, 1)), {"padding": False}, "must be equal"),
        ([np.ones((9, 1)), np.ones((8, 1))], np.ones((2, 9, 1)), {}, "pad them"),
        (np.ones((2, 9, 1), dtype=complex), np.ones((2, 9, 1)), {}, "real numbers"),
        (np.ones((2, 9, 1)), np.ones((2, 9, 1)), {"hop": 0}, "positive"),
        (np.ones((2, 9, 1)), np.ones((2, 9, 1)), {"win": 4, "hop": np.inf}, "finite hop"),
        (np.ones((2, 9, 1)), np.ones((2, 9, 1)), {"mode": "v2"}, "v4"),
        (np.ones((2, 9, 1)), np.ones((2, 9, 1)), {"win": None}, "win=None and hop=44100: both must be positive"),
        (np.ones((2, 9, 1)), np.ones((2, 9, 1)), {"hop": "1"}, "hop='1': both must be positive"),
        (np.ones((2, 9, 1)), np.ones((2, 9, 1)), {"filters_len": 1.5}, "filters_len=1.5: must be a whole number"),
        (np.ones((2, 9, 1)), np.ones((2, 9, 1)), {"filters_len": 0}, "filters_len=0: must be a whole number"),
    ],
)
def test_invalid_arguments_raise_scoring_error(
    references: Signals, estimates: Signals, options: dict[str, object], message: str
) -> None:
    with pytest.raises(ScoringError, match=message):
        evaluate(references, estimates, **options)


def test_empty_input_gives_empty_output_as_in_museval() -> None:
    assert [values.shape for values in evaluate(np.empty((0, 100, 2)), np.empty((0, 100, 2)))] == [(0,)] * 4


def test_sdr_is_the_signal_to_noise_ratio_of_a_frame() -> None:
    references = noise(2, 16000, 2)
    sdr, _, _, _ = evaluate(references, 0.9 * references, WINDOW, WINDOW)
    np.testing.assert_allclose(sdr, 20.0, atol=1e-9)


def test_isr_of_a_scaled_estimate_depends_on_the_scale_only() -> None:
    references = noise(2, 16000, 1)
    _, isr, sir, sar = evaluate(references, 0.5 * references, WINDOW, WINDOW)
    np.testing.assert_allclose(isr, 20 * np.log10(2), atol=1e-6)
    assert min(sir.min(), sar.min()) > 200


def test_energies_by_correlations_equal_energies_by_convolution(
    excerpt: Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    estimates = leaking(excerpt)
    fast = np.stack(evaluate(excerpt, estimates, 20000, 15000))
    monkeypatch.setattr(energies, "TRUSTED_RATIO", np.inf)
    convolved = np.stack(evaluate(excerpt, estimates, 20000, 15000))
    np.testing.assert_allclose(fast, convolved, rtol=0, atol=1e-8)
    assert not np.array_equal(fast, convolved)


def test_frames_that_are_not_cached_are_recomputed(monkeypatch: pytest.MonkeyPatch) -> None:
    references = noise(2, 30000, 1)
    held = np.stack(evaluate(references, leaking(references), WINDOW, WINDOW))
    monkeypatch.setattr(bss_eval, "CACHED_BYTES", 0)
    np.testing.assert_array_equal(held, np.stack(evaluate(references, leaking(references), WINDOW, WINDOW)))


def test_memory_stays_below_300_mb_for_many_frames_of_four_stereo_stems() -> None:
    references = noise(4, 320 * 600, 2).astype(np.float32)
    estimates = references[::-1] * np.float32(0.2) + references
    tracemalloc.start()
    try:
        sdr, _, _, _ = evaluate(references, estimates, 600, 600)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert sdr.shape == (4, 320)
    assert peak < 300e6
