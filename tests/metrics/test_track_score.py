"""Scores of whole tracks: scoring groups as in museval.eval_mus_track, decoding once, museval's stores."""

import collections
import json
from pathlib import Path
from types import SimpleNamespace

import musdb
import museval
import numpy as np
import pytest
import torch

from cyclesep.audio.audio_io import Waveform
from cyclesep.errors import ScoringError
from cyclesep.metrics import (
    TrackScore,
    eval_mus_track,
    evaluate,
    score_track,
    si_sdr,
    to_museval_json,
    to_track_store,
    usdr,
    write_museval_json,
)
from cyclesep.training import validation

RATE = 4000
STEMS = ("vocals", "drums", "bass", "other")


def wave(samples: np.ndarray, rate: int = RATE) -> Waveform:
    return Waveform(samples=np.atleast_2d(samples).astype(np.float32), sample_rate=rate)


def stems(seed: int, scale: float = 0.1, seconds: float = 3.5, channels: int = 1) -> dict[str, Waveform]:
    rng = np.random.default_rng(seed)
    shape = (channels, round(seconds * RATE))
    return {name: wave(np.rint(scale * rng.standard_normal(shape) * 32768) / 32768) for name in STEMS}


REFERENCES = stems(0)
ESTIMATES = {
    name: wave(stem.samples + noise.samples)
    for (name, stem), noise in zip(REFERENCES.items(), stems(1, 0.03).values(), strict=True)
}
ROUNDED = [
    {name: wave(np.rint(stem.samples * 32768.0) / 32768) for name, stem in stems.items()}
    for stems in (REFERENCES, ESTIMATES)
]
ACCOMPANIMENT = wave(sum(ESTIMATES[name].samples for name in STEMS[1:]))


def musdb_track(references: dict[str, Waveform]) -> SimpleNamespace:
    """A musdb track as museval reads it."""
    sources = {name: SimpleNamespace(audio=stem.samples.T.astype(np.float64)) for name, stem in references.items()}
    sums = {
        name: SimpleNamespace(audio=sum(sources[part].audio for part in parts))
        for name, parts in {"accompaniment": STEMS[1:], "linear_mixture": STEMS}.items()
    }
    targets = collections.OrderedDict([*sources.items(), *sums.items()])
    return SimpleNamespace(name="A - B", subset="test", rate=RATE, targets=targets)


def companies(score: TrackScore) -> list[tuple[str, tuple[str, ...]]]:
    return [(target.target, target.scoring_group) for target in score.targets]


@pytest.mark.parametrize(
    "names",
    [
        STEMS,
        STEMS[:2],
        (*STEMS, "accompaniment"),
        ("vocals", "accompaniment"),
        ("drums", "accompaniment"),
        ("drums", "bass", "accompaniment"),
        ("vocals", "linear_mixture"),
        ("vocals", "drums", "accompaniment", "linear_mixture", "no target"),
    ],
)
def test_eval_mus_track_writes_the_json_of_museval(names: tuple[str, ...], tmp_path: Path) -> None:
    sums = {"accompaniment": ACCOMPANIMENT, "linear_mixture": ACCOMPANIMENT, "no target": ACCOMPANIMENT}
    estimates = {name: (ESTIMATES | sums)[name].samples.T for name in names}
    rounded = {name: np.rint(audio * 32768.0) / 32768 for name, audio in estimates.items()}
    track = musdb_track(REFERENCES)
    ours = eval_mus_track(track, estimates, output_dir=tmp_path)
    theirs = museval.eval_mus_track(track, rounded)
    assert isinstance(ours, museval.TrackStore)
    ours.validate()
    mine, wanted = (
        ours.df.sort_values(["target", "metric", "time"]),
        theirs.df.sort_values(["target", "metric", "time"]),
    )
    assert mine[["target", "metric", "time", "track"]].values.tolist() == (
        wanted[["target", "metric", "time", "track"]].values.tolist()
    )
    np.testing.assert_allclose(mine["score"].astype(float), wanted["score"].astype(float), rtol=0, atol=2.1e-5)
    assert (tmp_path / "test" / "A - B.json").read_text() == ours.json


def test_each_source_of_a_musdb_track_is_decoded_once() -> None:
    decoded: list[str] = []

    class Stem(musdb.Source):
        @property
        def audio(self) -> np.ndarray:
            decoded.append(self.name)
            return REFERENCES[self.name].samples.T

    track = musdb_track(REFERENCES)
    sources = {name: Stem(None, name=name) for name in STEMS}
    made_of = {**{name: (name,) for name in STEMS}, "accompaniment": STEMS[1:], "linear_mixture": STEMS}
    targets = {name: musdb.Target(track, [sources[part] for part in parts]) for name, parts in made_of.items()}
    estimates = {
        name: wave.samples.T for name, wave in (ESTIMATES | dict.fromkeys(list(made_of)[4:], ACCOMPANIMENT)).items()
    }
    expected = eval_mus_track(track, estimates).json
    track.targets = targets
    assert eval_mus_track(track, estimates).json == expected
    assert sorted(decoded) == sorted(STEMS)


def test_accompaniment_alone_of_a_musdb_track_has_the_scores_of_the_pair() -> None:
    estimates = {"accompaniment": ACCOMPANIMENT.samples.T, "vocals": ESTIMATES["vocals"].samples.T}
    pair = eval_mus_track(musdb_track(REFERENCES), estimates).df
    del estimates["vocals"]
    alone = eval_mus_track(musdb_track(REFERENCES), estimates).df
    assert alone.values.tolist() == pair[pair["target"] == "accompaniment"].values.tolist()


@pytest.mark.parametrize("estimates", [{}, {"foo": np.ones((9, 1))}])
def test_a_musdb_track_without_estimates_of_targets_raises_and_writes_nothing(
    estimates: dict[str, np.ndarray], tmp_path: Path
) -> None:
    with pytest.raises(ScoringError, match=r"A - B: none of the estimates \[.*\] is one of the targets"):
        eval_mus_track(musdb_track(REFERENCES), estimates, output_dir=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_four_stems_are_scored_together_and_vocals_with_the_sum_of_the_rest() -> None:
    score = score_track(REFERENCES, ESTIMATES)
    pair = ("vocals", "accompaniment")
    assert companies(score) == [*((name, STEMS) for name in STEMS), ("vocals", pair), ("accompaniment", pair)]
    given = score_track(REFERENCES, ESTIMATES | {"accompaniment": ACCOMPANIMENT})
    for ours, same in zip(score.targets, given.targets, strict=True):
        np.testing.assert_allclose(ours.sir, same.sir, atol=1e-6)
    assert score.names == (*STEMS, "accompaniment")
    assert score.of("vocals").scoring_group == pair
    assert score.of("drums").scoring_group == STEMS


def test_a_single_target_is_scored_with_the_given_accompaniment_or_alone() -> None:
    paired = score_track(REFERENCES, {"bass": ESTIMATES["bass"], "accompaniment": ACCOMPANIMENT})
    pair = ("bass", "accompaniment")
    assert companies(paired) == [("bass", pair), ("accompaniment", pair)]
    others = sum(REFERENCES[name].samples for name in STEMS if name != "bass")
    assert paired.of("accompaniment").usdr == pytest.approx(usdr(others, ACCOMPANIMENT.samples), abs=0.01)
    alone = score_track(REFERENCES, {"bass": ESTIMATES["bass"]})
    assert companies(alone) == [("bass", ("bass",))]
    np.testing.assert_array_equal(alone.of("bass").sdr, paired.of("bass").sdr)


def test_the_accompaniment_alone_is_scored_as_in_the_pair_with_vocals() -> None:
    pair = score_track(REFERENCES, {"vocals": ESTIMATES["vocals"], "accompaniment": ACCOMPANIMENT}).of("accompaniment")
    score = score_track(REFERENCES, {"accompaniment": ACCOMPANIMENT})
    assert companies(score) == [("accompaniment", ("vocals", "accompaniment"))]
    (alone,) = score.targets
    for metric, frames in alone.frame_metrics().items():
        np.testing.assert_allclose(frames, pair.frame_metrics()[metric], rtol=0, atol=1e-9)
    assert alone.track_metrics() == pair.track_metrics()
    assert np.isfinite(alone.sir).all()
    two_stems = {"vocals": REFERENCES["vocals"], "accompaniment": wave(sum(REFERENCES[n].samples for n in STEMS[1:]))}
    of_two = score_track(two_stems, {"accompaniment": ACCOMPANIMENT}).of("accompaniment")
    np.testing.assert_allclose(of_two.sir, alone.sir, rtol=0, atol=1e-9)


def test_accompaniment_is_not_derived_when_disabled_or_incomplete() -> None:
    assert score_track(REFERENCES, ESTIMATES, derive_accompaniment=False).names == STEMS
    three = {name: ESTIMATES[name] for name in STEMS[:3]}
    assert score_track(REFERENCES, three).names == STEMS[:3]


def test_whole_track_scores_are_those_of_the_rounded_audio() -> None:
    drums = score_track(REFERENCES, ESTIMATES).of("drums")
    rounded = np.rint(ESTIMATES["drums"].samples * 32768.0)
    assert drums.si_sdr == pytest.approx(si_sdr(REFERENCES["drums"].samples * 32768, rounded))
    assert drums.usdr == pytest.approx(usdr(REFERENCES["drums"].samples * 32768, rounded))


def test_content_below_16_bits_changes_no_score() -> None:
    rng = np.random.default_rng(9)
    below = {
        name: wave(stem.samples + 0.4 / 32768 * rng.uniform(-1, 1, stem.samples.shape))
        for name, stem in REFERENCES.items()
    }
    plain, trapped = score_track(REFERENCES, ESTIMATES), score_track(below, ESTIMATES)
    for ours, same in zip(plain.targets, trapped.targets, strict=True):
        np.testing.assert_array_equal(ours.sir, same.sir)


def test_values_above_full_scale_are_not_clipped() -> None:
    loud = {name: wave(8 * stem.samples) for name, stem in REFERENCES.items()}
    loud_estimates = {name: wave(8 * stem.samples) for name, stem in ESTIMATES.items()}
    quiet, scaled = score_track(REFERENCES, ESTIMATES), score_track(loud, loud_estimates)
    for ours, same in zip(quiet.targets, scaled.targets, strict=True):
        np.testing.assert_allclose(ours.sar, same.sar, atol=1e-3)
        assert ours.usdr == pytest.approx(same.usdr, abs=1e-3)


def test_window_and_hop_are_seconds_of_any_sample_rate() -> None:
    score = score_track(REFERENCES, ESTIMATES, frame_seconds=0.5, hop_seconds=0.25)
    assert len(score.of("bass").sdr) == 13
    assert (score.frame_seconds, score.hop_seconds, score.sample_rate) == (0.5, 0.25, RATE)
    assert len(score_track(REFERENCES, ESTIMATES).of("bass").sdr) == 3


def test_silent_frames_are_counted_without_an_error() -> None:
    silent = ESTIMATES | {"drums": wave(np.zeros((1, 14000)))}
    score = score_track(REFERENCES, silent)
    assert [target.nan_frames for target in score.targets] == [3, 3, 3, 3, 0, 0]
    assert np.isnan(score.of("drums").si_sdr)
    assert score.of("drums").usdr == 0.0


def test_estimates_are_padded_or_cut_to_the_longest_reference() -> None:
    shorter = {name: wave(stem.samples[:, :12000]) for name, stem in ESTIMATES.items()}
    padded = {name: wave(np.pad(stem.samples, [(0, 0), (0, 2000)])) for name, stem in shorter.items()}
    np.testing.assert_array_equal(
        score_track(REFERENCES, shorter).of("bass").sar, score_track(REFERENCES, padded).of("bass").sar
    )


def test_a_mixture_among_the_references_is_ignored() -> None:
    mixture = wave(sum(stem.samples for stem in REFERENCES.values()))
    assert score_track({"mixture": mixture, **REFERENCES}, ESTIMATES | {"mixture": mixture}).names[:4] == STEMS


@pytest.mark.parametrize("seconds", [np.inf, np.nan, 1e-4, 0.0, -1.0])
def test_an_empty_or_infinite_window_or_hop_raises_scoring_error(seconds: float) -> None:
    with pytest.raises(ScoringError, match=f"^frame_seconds={seconds}: must be finite and at least one sample at"):
        score_track(REFERENCES, ESTIMATES, frame_seconds=seconds)
    with pytest.raises(ScoringError, match=f"^hop_seconds={seconds}: "):
        score_track(REFERENCES, ESTIMATES, hop_seconds=seconds)


def test_a_window_longer_than_the_track_is_one_frame() -> None:
    score = score_track(REFERENCES, ESTIMATES, frame_seconds=1e6, derive_accompaniment=False)
    signals = [np.stack([stems[name].samples.T for name in STEMS]) for stems in ROUNDED]
    sdr, _, _, _ = evaluate(*signals, win=np.inf, hop=np.inf)
    np.testing.assert_allclose([target.sdr for target in score.targets], sdr, rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    ("estimates", "message"),
    [
        ({"piano": ESTIMATES["bass"]}, "Song: none of the estimates"),
        ({"bass": wave(np.full((1, 14000), np.nan))}, "Song: estimate 'bass': 14000 samples are NaN"),
        ({"bass": wave(np.ones((2, 14000)))}, "Song: estimate 'bass' is 4000 Hz with 2 channels"),
        ({"bass": wave(np.ones((1, 14000)), 8000)}, "Song: estimate 'bass' is 8000 Hz"),
    ],
)
def test_errors_name_track_and_stem(estimates: dict[str, Waveform], message: str) -> None:
    with pytest.raises(ScoringError, match=message):
        score_track(REFERENCES, estimates, track_id="Song")


def test_a_target_without_a_score_raises_scoring_error() -> None:
    with pytest.raises(ScoringError, match="'piano' was not scored"):
        score_track(REFERENCES, ESTIMATES).of("piano")


def test_museval_eval_store_reads_our_json_including_nan_frames(tmp_path: Path) -> None:
    references = {name: wave(stem.samples.copy()) for name, stem in REFERENCES.items()}
    references["bass"].samples[:, :RATE] = 0
    score = score_track(references, ESTIMATES, track_id="AC/DC - Song")
    path = write_museval_json(score, tmp_path)
    assert path == tmp_path / "test" / "AC_DC - Song.json"
    store = museval.EvalStore()
    store.add_eval_dir(str(tmp_path))
    medians = store.agg_frames_tracks_scores()
    for name in score.names:
        assert medians[name]["SDR"] == pytest.approx(float(np.nanmedian(score.of(name).sdr)), abs=1e-5)
    frames = {target["name"]: target["frames"] for target in json.loads(path.read_text())["targets"]}
    assert np.isnan(frames["drums"][0]["metrics"]["SDR"])
    assert frames["drums"][1]["time"] == 1.0


def test_track_store_and_json_agree_and_infinity_becomes_nan() -> None:
    score = score_track(REFERENCES, {"bass": REFERENCES["bass"]}, track_id="x")
    assert to_track_store(score).json == to_museval_json(score)
    assert np.isnan(json.loads(to_museval_json(score))["targets"][0]["frames"][0]["metrics"]["SDR"])


def test_full_scale_peaks_are_scored_on_the_grid_as_museval_does() -> None:
    loud = {name: wave(stem.samples.copy()) for name, stem in REFERENCES.items()}
    loud["bass"].samples[0, 100], loud["drums"].samples[0, 200] = -1.0, 1.0
    ours = score_track(loud, ESTIMATES, derive_accompaniment=False)
    references = np.stack([loud[name].samples.T for name in STEMS]).astype(np.float64)
    estimates = np.rint(np.stack([ESTIMATES[name].samples.T for name in STEMS]) * 32768.0) / 32768
    theirs = np.stack(museval.evaluate(references, estimates, win=RATE, hop=RATE))
    found = np.stack([[*target.frame_metrics().values()] for target in ours.targets], axis=1)
    np.testing.assert_allclose(found, theirs, rtol=0, atol=1e-5)


def test_the_pair_from_shared_products_equals_the_pair_scored_alone() -> None:
    shared = score_track(REFERENCES, ESTIMATES)
    stereo = [[stems["vocals"].samples.T, sum(stems[name].samples.T for name in STEMS[1:])] for stems in ROUNDED]
    by_itself = np.stack(evaluate(*stereo, win=RATE, hop=RATE))
    found = [[*shared.of(name).frame_metrics().values()] for name in ("vocals", "accompaniment")]
    np.testing.assert_allclose(np.stack(found, axis=1), by_itself, rtol=0, atol=1e-9)


@pytest.mark.parametrize("case", ["plain", "perfect", "scaled", "cancelling"])
def test_whole_track_scores_from_products_equal_those_from_audio(case: str) -> None:
    references, estimates = ({name: wave(stem.samples) for name, stem in stems.items()} for stems in ROUNDED)
    if case == "perfect":
        estimates["bass"] = references["bass"]
    elif case == "scaled":
        estimates["bass"] = wave(2 * references["bass"].samples)
    elif case == "cancelling":
        references["other"] = wave(-references["bass"].samples - references["drums"].samples)
    for target in score_track(references, estimates).targets:
        is_sum = target.target == "accompaniment"
        names = STEMS[1:] if is_sum else (target.target,)
        s, y = (sum(stems[name].samples.astype(np.float64) for name in names) for stems in (references, estimates))
        np.testing.assert_allclose([target.si_sdr, target.usdr], [si_sdr(s, y), usdr(s, y)], rtol=0, atol=1e-8)
    if case in ("perfect", "scaled"):
        assert score_track(references, estimates).of("bass").si_sdr == np.inf


@pytest.mark.parametrize("seconds", [0.001, 0.5])
def test_a_track_shorter_than_a_frame_is_one_frame(seconds: float) -> None:
    short = {name: wave(stem.samples[:, : round(seconds * RATE)]) for name, stem in REFERENCES.items()}
    score = score_track(short, ESTIMATES)
    assert [len(target.sdr) for target in score.targets] == [1] * 6
    assert all(np.isfinite(target.sdr).all() for target in score.targets)


def test_validation_during_training_reports_the_same_sdr() -> None:
    both = [[stems[name].samples for name in STEMS] for stems in (REFERENCES, ESTIMATES)]
    references, estimates = (torch.from_numpy(np.stack(signals)) for signals in both)
    sdr, _, _, _ = evaluate(*(np.stack(signals).transpose(0, 2, 1) for signals in both), win=np.inf, hop=np.inf)
    np.testing.assert_allclose(validation.sdr(references.double(), estimates.double()), sdr[:, 0], rtol=0, atol=1e-8)
