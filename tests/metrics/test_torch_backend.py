"""BSS Eval by PyTorch equals BSS Eval by NumPy; a CPU stands for every device."""

import subprocess
import sys

import numpy as np
import pytest
import stempeg
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from cyclesep.audio.audio_io import Waveform
from cyclesep.errors import ScoringError
from cyclesep.metrics import evaluate, score_track, torch_backend

Signals = NDArray[np.float64]
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here"))]


def noise(sources: int, samples: int, channels: int, seed: int = 0) -> Signals:
    return np.rint(3000 * np.random.default_rng(seed).standard_normal((sources, samples, channels))) / 32768


def leaking(references: Signals) -> Signals:
    return references + 0.2 * np.roll(references, 1, axis=0) + noise(*references.shape, seed=7) / 16


def largest_difference(one: object, other: object) -> float:
    """In dB; the same values must be NaN or infinite."""
    a, b = np.stack(one), np.stack(other)  # type: ignore[call-overload]
    np.testing.assert_array_equal(np.isnan(a), np.isnan(b))
    np.testing.assert_array_equal(np.isposinf(a), np.isposinf(b))
    finite = np.isfinite(a)
    return float(np.abs(a[finite] - b[finite]).max(initial=0.0))


@pytest.mark.parametrize("device", DEVICES)
def test_noise_is_scored_alike_within_1e_8_db(device: str) -> None:
    references = noise(2, 20000, 2)
    estimates = leaking(references)
    by_numpy = evaluate(references, estimates, 6000, 4000)
    assert largest_difference(by_numpy, evaluate(references, estimates, 6000, 4000, device=device)) < 1e-8


@pytest.mark.parametrize("device", DEVICES)
def test_music_on_16_bits_is_scored_alike_within_1e_5_db_stems_and_pair(device: str) -> None:
    stems, rate = stempeg.read_stems(stempeg.example_stem_path(), ffmpeg_format="s16le")
    names = ("drums", "bass", "vocals")
    waves = {
        name: Waveform(samples=np.float32(stems[i, 30000:45000].T), sample_rate=int(rate))
        for name, i in zip(names, (1, 2, 4), strict=True)
    }
    guesses = {
        name: Waveform(samples=0.8 * wave.samples + 0.1 * waves["drums"].samples, sample_rate=wave.sample_rate)
        for name, wave in waves.items()
    }
    by_numpy = score_track(waves, guesses, frame_seconds=0.2)
    by_torch = score_track(waves, guesses, frame_seconds=0.2, device=device)
    assert [target.target for target in by_torch.targets] == [*names, "vocals", "accompaniment"]
    for ours, same in zip(by_numpy.targets, by_torch.targets, strict=True):
        assert ours.conditioning == same.conditioning
        assert largest_difference([*ours.frame_metrics().values()], [*same.frame_metrics().values()]) < 1e-5
        assert same.usdr == pytest.approx(ours.usdr, abs=1e-9)
        assert same.si_sdr == pytest.approx(ours.si_sdr, abs=1e-9)


@settings(max_examples=25, deadline=None)
@given(
    sources=st.integers(1, 3),
    channels=st.integers(1, 3),
    samples=st.integers(1, 1500),
    win=st.integers(50, 1600),
    hop=st.integers(50, 1600),
    filters_len=st.sampled_from([1, 8, 13]),
    mode=st.sampled_from(["v4", "v3"]),
    seed=st.integers(0, 99),
)
def test_drawn_shapes_are_scored_alike(
    sources: int, channels: int, samples: int, win: int, hop: int, filters_len: int, mode: str, seed: int
) -> None:
    references = noise(sources, samples, channels, seed)
    estimates = leaking(references)
    by_numpy = evaluate(references, estimates, win, hop, mode, filters_len=filters_len)
    by_torch = evaluate(references, estimates, win, hop, mode, filters_len=filters_len, device="cpu")
    compared = [np.where(values < 100, values, 100) for values in by_numpy]
    assert largest_difference(compared, [np.where(values < 100, values, 100) for values in by_torch]) < 1e-5


@pytest.mark.parametrize("case", ["silent frames", "silent estimate", "dual mono", "equal", "opposite channels"])
def test_what_is_special_is_special_on_any_device(case: str) -> None:
    references = noise(2, 12000, 2)
    estimates = leaking(references)
    if case == "silent frames":
        references[0, 2000:5000] = 0
    elif case == "silent estimate":
        estimates[1] = 0
    elif case == "dual mono":
        references[..., 1] = references[..., 0]
    elif case == "equal":
        estimates = references.copy()
    else:
        references[0, :, 1] = -references[0, :, 0]
    by_numpy, by_torch = (evaluate(references, estimates, 2000, 2000, device=device) for device in (None, "cpu"))
    compared = [[np.where(values < 100, values, np.inf) for values in scores] for scores in (by_numpy, by_torch)]
    assert largest_difference(*compared) < 1e-6


def test_small_batches_give_the_same_scores(monkeypatch: pytest.MonkeyPatch) -> None:
    references = noise(2, 30000, 1)
    at_once = evaluate(references, leaking(references), 3000, 3000, device="cpu")
    monkeypatch.setattr(torch_backend, "CPU_ROOM", torch_backend.Room(batch_bytes=1 << 17, kept_bytes=0))
    in_turns = evaluate(references, leaking(references), 3000, 3000, device="cpu")
    assert largest_difference(at_once, in_turns) < 1e-9


@pytest.mark.parametrize("samples", [np.int16, np.uint8, np.float16, np.float32])
def test_samples_of_any_type_are_scored_as_float64(samples: type) -> None:
    references = np.abs(noise(2, 3000, 1) * 300).astype(samples)
    estimates = np.abs(leaking(noise(2, 3000, 1)) * 300).astype(samples)
    by_numpy = evaluate(references.astype(float), estimates.astype(float), 1000, 1000)
    assert largest_difference(by_numpy, evaluate(references, estimates, 1000, 1000)) < 1e-10
    assert largest_difference(by_numpy, evaluate(references, estimates, 1000, 1000, device="cpu")) < 1e-8


@pytest.mark.parametrize("device", ["gpu", "cuda:99", "", "meta"])
def test_a_device_that_is_not_there_is_refused(device: str) -> None:
    with pytest.raises(ScoringError, match=f"device='{device}' cannot be used"):
        evaluate(noise(1, 100, 1), noise(1, 100, 1), device=device)


def test_without_a_device_pytorch_is_not_imported() -> None:
    code = (
        "import sys, numpy; from cyclesep.metrics import evaluate; "
        "evaluate(numpy.ones((1, 9, 1)), numpy.ones((1, 9, 1))); print('torch' in sys.modules)"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == "False"
