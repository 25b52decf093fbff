"""Scores of oracle masks, the mixture and the rule-based separator."""

import numpy as np
import pytest
import stempeg

from cyclesep.audio.audio_io import Waveform
from cyclesep.errors import ScoringError
from cyclesep.metrics import oracles, usdr
from cyclesep.metrics.oracles import OracleMask, mixture_as_estimate, separate_by_oracle, separate_by_rules

STEMS = ("drums", "bass", "other", "vocals")
MASKS: tuple[OracleMask, ...] = ("IRM1", "IRM2", "IBM", "MWF")


@pytest.fixture(scope="module")
def track() -> dict[str, Waveform]:
    """Two seconds of stempeg's real excerpt with a mixture that is the sum of its stems."""
    stems, rate = stempeg.read_stems(stempeg.example_stem_path(), ffmpeg_format="s16le")
    parts = {
        name: Waveform(samples=np.float32(stem[44100:132300].T), sample_rate=int(rate))
        for name, stem in zip(STEMS, stems[1:], strict=True)
    }
    mixture = np.sum([stem.samples for stem in parts.values()], axis=0, dtype=np.float32)
    return {"mixture": Waveform(samples=mixture, sample_rate=int(rate)), **parts}


def mean_usdr(track: dict[str, Waveform], estimates: dict[str, Waveform]) -> float:
    return float(np.mean([usdr(track[name].samples, estimates[name].samples) for name in STEMS]))


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("channels", [1, 2])
def test_oracles_beat_the_rule_based_baselines_by_3_db(
    mask: OracleMask, channels: int, track: dict[str, Waveform]
) -> None:
    track = {
        name: Waveform(samples=wave.samples[:channels], sample_rate=wave.sample_rate) for name, wave in track.items()
    }
    floor = mean_usdr(track, separate_by_rules(track["mixture"]))
    assert mean_usdr(track, separate_by_oracle(mask, track)) > floor + 3


def test_the_rule_based_separator_beats_the_scaled_mixture(track: dict[str, Waveform]) -> None:
    blind = mean_usdr(track, separate_by_rules(track["mixture"]))
    for divisor in (1.0, 2.0, 4.0):
        assert blind > mean_usdr(track, mixture_as_estimate(track["mixture"], STEMS, divisor=divisor))


def test_block_processing_equals_processing_the_whole_track(
    track: dict[str, Waveform], monkeypatch: pytest.MonkeyPatch
) -> None:
    def all_of_them() -> list[dict[str, Waveform]]:
        masks = [separate_by_oracle(mask, track) for mask in MASKS]
        return [*masks, separate_by_rules(track["mixture"])]

    whole = all_of_them()
    # 2 s are 173 frames.
    monkeypatch.setattr(oracles, "BLOCK_FRAMES", 50)
    for one, other in zip(whole, all_of_them(), strict=True):
        assert list(one) == list(other)
        for name in one:
            np.testing.assert_allclose(other[name].samples, one[name].samples, rtol=0, atol=1e-7)


@pytest.mark.parametrize("mask", ["IRM1", "IRM2", "MWF"])
def test_estimates_of_soft_masks_sum_to_the_mixture(mask: OracleMask, track: dict[str, Waveform]) -> None:
    estimates = separate_by_oracle(mask, track)
    total = np.sum([estimates[name].samples for name in STEMS], axis=0)
    assert usdr(track["mixture"].samples, total) > 50


@pytest.mark.parametrize("rate", [8000, 16000, 48000])
@pytest.mark.parametrize("channels", [1, 2])
def test_rule_based_estimates_sum_to_the_mixture_at_any_rate(rate: int, channels: int) -> None:
    samples = np.random.default_rng(0).standard_normal((channels, 9001)).astype(np.float32)
    estimates = separate_by_rules(Waveform(samples=samples, sample_rate=rate))
    assert list(estimates) == ["vocals", "drums", "bass", "other"]
    np.testing.assert_allclose(sum(wave.samples for wave in estimates.values()), samples, atol=1e-5)


def test_a_track_shorter_than_a_window_keeps_its_length() -> None:
    stem = Waveform(samples=np.ones((1, 100), dtype=np.float32), sample_rate=44100)
    (estimate,) = separate_by_oracle("IRM2", {"vocals": stem}).values()
    np.testing.assert_allclose(estimate.samples, stem.samples, atol=1e-4)


def test_silence_stays_silence_without_a_warning(recwarn: pytest.WarningsRecorder) -> None:
    silence = Waveform(samples=np.zeros((2, 9000), dtype=np.float32), sample_rate=44100)
    for mask in MASKS:
        assert not any(wave.samples.any() for wave in separate_by_oracle(mask, {"a": silence, "b": silence}).values())
    assert not any(wave.samples.any() for wave in separate_by_rules(silence).values())
    assert not recwarn.list


@pytest.mark.parametrize(("divisor", "share", "rest"), [(1.0, 1.0, 1.0), (2.0, 0.5, 0.5), (4.0, 0.25, 0.75)])
def test_mixture_as_estimate_divides_the_mixture(divisor: float, share: float, rest: float) -> None:
    mixture = Waveform(samples=np.ones((1, 10), dtype=np.float32), sample_rate=8000)
    estimates = mixture_as_estimate(mixture, ("vocals", "drums"), divisor=divisor)
    assert {name: float(wave.samples[0, 0]) for name, wave in estimates.items()} == {
        "vocals": share,
        "drums": share,
        "accompaniment": rest,
    }


def test_invalid_oracle_arguments_raise_scoring_error(track: dict[str, Waveform]) -> None:
    with pytest.raises(ScoringError, match="known: IRM1, IRM2, IBM, MWF"):
        separate_by_oracle("IRM3", track)  # type: ignore[arg-type]
    with pytest.raises(ScoringError, match="needs references"):
        separate_by_oracle("IRM1", {"mixture": track["mixture"]})
    with pytest.raises(ScoringError, match="at least 1"):
        mixture_as_estimate(track["mixture"], STEMS, divisor=0.5)
    short = Waveform(samples=track["bass"].samples[:, :100], sample_rate=44100)
    with pytest.raises(ScoringError, match="they must be equal"):
        separate_by_oracle("IRM1", {"mixture": track["mixture"], "bass": short})
