"""Audio on which museval's own scores are not reproducible: how close to museval ours are."""

import os
import subprocess
import sys
from pathlib import Path

import museval
import numpy as np
import pytest
import scipy.signal
import stempeg
from numpy.typing import NDArray

from cyclesep.metrics import bss_eval, distortion_filters, evaluate
from cyclesep.metrics.distortion_filters import Conditioning, Solution
from cyclesep.metrics.museval_equations import MusevalEquations
from cyclesep.metrics.sources import Sources, are_on_grid, each_alone

Signals = NDArray[np.float64]
WINDOW = 8000
SAMPLES = 16000
MUSEVAL = """
import sys, numpy, museval
found = {}
with numpy.load(sys.argv[1]) as cases:
    for name in {key.partition("|")[0] for key in cases}:
        signals = cases[name + "|references"], cases[name + "|estimates"]
        found[name] = numpy.stack(museval.evaluate(*signals, win=8000, hop=8000))
numpy.savez(sys.argv[2], **found)
"""


def on_16_bits(signals: Signals) -> Signals:
    return np.rint(signals * 32768) / 32768


def leaking(references: Signals) -> Signals:
    rng = np.random.default_rng(1)
    mixing = np.eye(len(references)) + 0.15 * rng.standard_normal((len(references),) * 2)
    return np.einsum("jk,ktc->jtc", mixing, references) + 0.005 * rng.standard_normal(references.shape)


def tones(phases: tuple[float, float]) -> Signals:
    """440 and 1000 Hz in stereo, the second channel softer and later."""
    time = 2 * np.pi * np.arange(SAMPLES) / 44100
    both = [np.stack([np.sin(f * time + phases[0]), 0.5 * np.sin(f * time + phases[1])], axis=1) for f in (440, 1000)]
    return on_16_bits(0.5 * np.stack(both))


def nearly_mono(stems: Signals) -> Signals:
    mono = on_16_bits(np.repeat(stems.mean(axis=2, keepdims=True), 2, axis=2))
    mono[0, ::1000, 1] += 1 / 32768
    mono[1, ::3000, 0] -= 1 / 32768
    return mono


def band_limited() -> Signals:
    noise = 0.1 * np.random.default_rng(0).standard_normal((2, SAMPLES, 2))
    return np.asarray(scipy.signal.sosfilt(scipy.signal.butter(8, 0.2, output="sos"), noise, axis=1))


def low_passed() -> Signals:
    noise = 0.1 * np.random.default_rng(2).standard_normal((2, SAMPLES, 2))
    return np.asarray(scipy.signal.sosfilt(scipy.signal.cheby1(2, 1, 0.2, output="sos"), noise, axis=1))


def scored(references: Signals, estimates: Signals) -> bss_eval.Scores:
    signals = tuple(x.T for x in (*references, *estimates))
    on_grid = are_on_grid(signals, 32768.0)
    sources = Sources(signals=signals, num_references=len(references), steps=32768.0 if on_grid else None)
    (scores,) = bss_eval.score_sources(sources, (each_alone(len(references)),), win=WINDOW, hop=WINDOW)
    return scores


def of_sensitive(pair: tuple[Signals, Signals]) -> Signals:
    """Return our four scores of audio that is reported as sensitive."""
    ours = scored(*pair)
    assert ours.conditioning == Conditioning.SENSITIVE
    return np.stack([ours.sdr, ours.isr, ours.sir, ours.sar])


@pytest.fixture(scope="module")
def cases() -> dict[str, tuple[Signals, Signals]]:
    """References and estimates by name."""
    stems, _ = stempeg.read_stems(stempeg.example_stem_path(), ffmpeg_format="s16le")
    floats, _ = stempeg.read_stems(stempeg.example_stem_path())
    here = slice(22050, 22050 + SAMPLES)
    mono = nearly_mono(np.asarray(stems[1:3, here], dtype=np.float64))
    in_phase, shifted = tones((0.0, 0.0)), tones((0.0, 1.3))
    decoded = np.asarray(floats[1:3, here], dtype=np.float64)
    return {
        "nearly mono": (mono, on_16_bits(leaking(mono))),
        "tones": (in_phase, on_16_bits(leaking(in_phase))),
        "shifted tones": (shifted, on_16_bits(leaking(shifted))),
        "stems decoded to float": (decoded, leaking(decoded)),
        "low-passed float": (low_passed(), leaking(low_passed())),
        "band-limited float": (band_limited(), leaking(band_limited())),
    }


@pytest.fixture(scope="module")
def by_threads(
    cases: dict[str, tuple[Signals, Signals]], tmp_path_factory: pytest.TempPathFactory
) -> list[dict[str, Signals]]:
    """Return museval's scores with one BLAS thread and with two."""
    folder = tmp_path_factory.mktemp("museval")
    signals = {f"{name}|{kind}": x for name, pair in cases.items() for kind, x in zip(KINDS, pair, strict=True)}
    np.savez(folder / "cases.npz", **signals)
    running = [_museval(folder, threads) for threads in (1, 2)]
    assert [process.wait() for process in running] == [0, 0]
    found = []
    for threads in (1, 2):
        with np.load(folder / f"{threads}.npz") as results:
            found.append({name: results[name] for name in cases})
    return found


KINDS = ("references", "estimates")


def _museval(folder: Path, threads: int) -> "subprocess.Popen[bytes]":
    names = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")
    environment = os.environ | dict.fromkeys(names, str(threads))
    output = str(folder / f"{threads}.npz")
    return subprocess.Popen([sys.executable, "-c", MUSEVAL, str(folder / "cases.npz"), output], env=environment)


def museval_s_own_difference(pair: tuple[Signals, Signals], one: Signals, two: Signals) -> float:
    """In dB, between one and two BLAS threads, with the sources in another order, and with silence appended, none of
    which changes a score on paper."""
    frames = one.shape[2]
    swapped = np.stack(museval.evaluate(pair[0][::-1], pair[1][::-1], win=WINDOW, hop=WINDOW))[:, ::-1]
    longer = [np.pad(x, [(0, 0), (0, SAMPLES), (0, 0)]) for x in pair]
    appended = np.stack(museval.evaluate(*longer, win=WINDOW, hop=WINDOW))[:, :, :frames]
    return max(largest(one, other) for other in (two, swapped, appended))


def largest(one: Signals, other: Signals) -> float:
    """Return the largest difference among values up to 60 dB."""
    compared = np.isfinite(one) & (one <= 60)
    return float(np.abs(one - other)[compared].max())


@pytest.mark.parametrize("name", ["stems decoded to float", "low-passed float"])
def test_difference_from_museval_on_sensitive_float_audio_is_at_most_twice_that_between_its_threads(
    name: str, cases: dict[str, tuple[Signals, Signals]], by_threads: list[dict[str, Signals]]
) -> None:
    one, two = (found[name] for found in by_threads)
    assert largest(one, of_sensitive(cases[name])) < max(2 * largest(one, two), 1e-5)


def test_filters_of_sensitive_float_audio_equal_museval_s_bitwise(
    cases: dict[str, tuple[Signals, Signals]],
) -> None:
    references, estimates = cases["stems decoded to float"]
    sources = Sources(signals=tuple(x.T for x in (*references, *estimates)), num_references=2)
    equations = MusevalEquations(sources=sources, pairing=each_alone(2), span=(0, SAMPLES), lags=512)
    found = Solution(filters=np.zeros((512, 4, 4)), conditioning=Conditioning.SENSITIVE)
    gram, spectra = museval.metrics._compute_reference_correlations(references, 512)
    solve = museval.metrics._compute_projection_filters
    on_all = np.concatenate([solve(gram, spectra, estimate) for estimate in estimates], axis=3).reshape(4, 512, 4)
    np.testing.assert_array_equal(equations.replace_if_sensitive(found, range(2)).filters, on_all.transpose(1, 0, 2))
    on_own = solve(gram[1, 1], spectra[1], estimates[1]).transpose(1, 0, 2)
    np.testing.assert_array_equal(equations.replace_if_sensitive(found, range(1, 2)).filters, on_own)


def test_24_bits_without_as_museval_differ_by_at_most_a_hundredth_of_a_db(
    cases: dict[str, tuple[Signals, Signals]],
) -> None:
    grid = 2.0**23
    references = np.rint(cases["stems decoded to float"][0] * grid + np.random.default_rng(3).normal(size=(SAMPLES, 2)))
    signals = references / grid, leaking(references / grid)
    as_museval, fast = (np.stack(evaluate(*signals, WINDOW, WINDOW, as_museval=how)) for how in (True, False))
    assert 1e-5 < largest(as_museval, fast) < 1e-2
    np.testing.assert_array_equal(as_museval[0], fast[0])


@pytest.mark.parametrize("name", ["nearly mono", "shifted tones"])
def test_difference_from_museval_is_at_most_twice_its_difference_from_itself(
    name: str, cases: dict[str, tuple[Signals, Signals]], by_threads: list[dict[str, Signals]]
) -> None:
    one, two = (found[name] for found in by_threads)
    ours = of_sensitive(cases[name])
    assert largest(one, ours) < max(2 * museval_s_own_difference(cases[name], one, two), 1e-5)
    assert largest(one[:1], ours[:1]) < 1e-10


@pytest.mark.parametrize("name", ["band-limited float", "tones"])
def test_audio_on_which_museval_is_unstable_is_reported_as_regularized_and_agrees_in_sdr(
    name: str, cases: dict[str, tuple[Signals, Signals]], by_threads: list[dict[str, Signals]]
) -> None:
    one, two = (found[name] for found in by_threads)
    assert museval_s_own_difference(cases[name], one, two) > 1.0
    ours = scored(*cases[name])
    assert ours.conditioning == Conditioning.REGULARIZED
    np.testing.assert_allclose(ours.sdr, one[0], rtol=0, atol=1e-8)


def test_the_same_audio_on_16_bits_equals_museval() -> None:
    references = on_16_bits(band_limited())
    estimates = on_16_bits(leaking(references))
    ours, theirs = evaluate(references, estimates, WINDOW, WINDOW), museval.evaluate(references, estimates, 8000, 8000)
    assert scored(references, estimates).conditioning == Conditioning.EXACT
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5)


def test_energies_equal_museval_s_for_the_same_filters_on_band_limited_float_audio(
    cases: dict[str, tuple[Signals, Signals]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The difference is in the last bits of the normal equations, not in the energies computed from the filters."""
    references, estimates = cases["band-limited float"]
    spectra = museval.metrics._compute_reference_correlations(references, 512)
    solve = museval.metrics._compute_projection_filters
    on_all = np.concatenate([solve(*spectra, estimate) for estimate in estimates], axis=3)
    found = [on_all.reshape(4, 512, 4)]
    found += [solve(spectra[0][j, j], spectra[1][j], estimates[j]) for j in range(2)]
    solutions = iter(Solution(filters=x.transpose(1, 0, 2), conditioning=Conditioning.LU) for x in found)
    monkeypatch.setattr(distortion_filters, "solve", lambda *_: next(solutions))
    ours = np.stack(evaluate(references, estimates, WINDOW, WINDOW))
    theirs = np.stack(museval.evaluate(references, estimates, win=WINDOW, hop=WINDOW))
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5)


def test_a_track_of_one_sample_has_a_score() -> None:
    one = np.full((2, 1, 1), 0.5)
    sdr, _, _, _ = evaluate(one, 0.9 * one)
    np.testing.assert_allclose(sdr, 20.0)
