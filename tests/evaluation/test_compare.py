"""Runs side by side: what is called better, worse or noise, and what is warned of."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
import scipy.stats

from cyclesep.errors import ConfigError, ScoringError
from cyclesep.evaluation.compare import Difference, bootstrap_interval, compare, holm
from cyclesep.evaluation.config import CompareConfig
from cyclesep.evaluation.track_scores import TrackRow, TrackScores

PAIR = "vocals+accompaniment"
BASE = np.random.default_rng(0).normal(5.0, 3.0, 50)


def write_run(
    folder: Path,
    systems: Mapping[str, Sequence[float]],
    *,
    kinds: Mapping[str, str] | None = None,
    company: str = PAIR,
    references: str = "r",
    frame_seconds: float = 1.0,
    first_track: int = 0,
) -> str:
    """A results folder with one SDR of vocals for each track."""
    rows = tuple(
        TrackRow(
            system=system,
            track_id=f"song {number:02}",
            split="test",
            target="vocals",
            scoring_group=company,
            values={"SDR": value},
            references=f"{references}{number}",
        )
        for system, values in systems.items()
        for number, value in enumerate(values, start=first_track)
    )
    TrackScores(rows=rows).write(folder / "tracks.parquet")
    named = [{"name": name, "kind": (kinds or {}).get(name, "Separator"), "checkpoint": ""} for name in systems]
    about = {"version": "1", "config": {"frame_seconds": frame_seconds}, "systems": named}
    (folder / "summary.json").write_text(json.dumps(about))
    return str(folder)


def compared(tmp_path: Path, first: Sequence[float], second: Sequence[float], **settings: object) -> Difference:
    runs = write_run(tmp_path / "a", {"separator": first}), write_run(tmp_path / "b", {"separator": second})
    (difference,) = compare(CompareConfig(runs=runs, **settings)).differences  # type: ignore[arg-type]
    return difference


def test_two_tenths_that_every_track_agrees_on_are_still_within_the_noise_of_seeds(tmp_path: Path) -> None:
    gain = np.random.default_rng(1).normal(0.2, 0.05, 50)
    difference = compared(tmp_path, BASE, BASE + gain)
    assert difference.p < 1e-6
    assert difference.low > 0.15
    assert (difference.verdict, difference.because) == ("within noise", "< 0.3 dB")
    assert difference.difference == pytest.approx(np.median(gain))


def test_a_large_mean_that_the_tracks_do_not_agree_on_is_within_noise(tmp_path: Path) -> None:
    gain = np.random.default_rng(2).normal(0.4, 4.0, 20)
    difference = compared(tmp_path, BASE[:20], BASE[:20] + gain)
    assert (difference.verdict, difference.because) == ("within noise", "tracks vary")


@pytest.mark.parametrize(("gain", "verdict"), [(1.0, "better"), (-1.0, "worse")])
def test_one_decibel_on_nearly_all_tracks_is_more_than_noise(tmp_path: Path, gain: float, verdict: str) -> None:
    second = BASE + gain + np.random.default_rng(3).normal(0, 0.5, 50)
    difference = compared(tmp_path, BASE, second)
    assert (difference.verdict, difference.because) == (verdict, "")
    assert difference.low < difference.difference < difference.high
    assert difference.low * difference.high > 0


def test_five_tracks_are_too_few_to_tell_whatever_they_say(tmp_path: Path) -> None:
    difference = compared(tmp_path, BASE[:5], BASE[:5] + 10)
    assert (difference.verdict, difference.because) == ("within noise", "few tracks")


def test_a_run_against_itself_differs_by_nothing(tmp_path: Path) -> None:
    difference = compared(tmp_path, BASE, BASE)
    assert (difference.difference, difference.low, difference.high, difference.p) == (0.0, 0.0, 0.0, 1.0)
    assert (difference.verdict, difference.because) == ("within noise", "equal")


def test_seven_tracks_settle_one_question_and_not_four(tmp_path: Path) -> None:
    values = BASE[:7]
    gains = {name: values + 2 + 0.1 * np.arange(7) for name in "bcde"}
    assert compared(tmp_path, values, gains["b"]).verdict == "better"
    run = write_run(tmp_path / "many", {"a": values, **gains})
    differences = compare(CompareConfig(runs=(run,))).differences
    assert [(d.p, d.verdict, d.because) for d in differences] == [(2 / 2**7, "within noise", "few tracks")] * 4


def test_of_a_hundred_pairs_without_a_difference_few_are_called_one(tmp_path: Path) -> None:
    rng = np.random.default_rng(4)
    verdicts = []
    for number in range(100):
        noise = rng.normal(0, 2.0, (2, 30))
        place = tmp_path / str(number)
        verdicts.append(
            compared(place, BASE[:30] + noise[0], BASE[:30] + noise[1], min_effect_db=0, bootstrap_samples=500).verdict
        )
    # Five are expected of a test at 5 %; twelve or more come by chance in less than one of two hundred such tests.
    assert verdicts.count("within noise") > 88


def test_p_is_wilcoxon_s_and_the_interval_holds_the_median_as_often_as_it_says() -> None:
    rng = np.random.default_rng(5)
    held = 0
    for _ in range(200):
        low, high = bootstrap_interval(rng.normal(0.7, 1.0, 40), bootstrap_samples=400)
        held += low <= 0.7 <= high
    # 95 % of 200 is 190, give or take three standard deviations of 3.1; the bootstrap of a median is a little short.
    assert 178 <= held <= 199


def test_the_interval_is_the_same_however_its_draws_are_divided(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(6).normal(1, 1, 30)
    whole = bootstrap_interval(values, bootstrap_samples=1000)
    monkeypatch.setattr("cyclesep.evaluation.compare._BLOCK_VALUES", 64)
    assert bootstrap_interval(values, bootstrap_samples=1000) == whole


def test_holm_multiplies_the_smallest_p_by_their_number_and_never_falls() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


def test_the_p_of_one_question_is_wilcoxon_s(tmp_path: Path) -> None:
    second = BASE + np.random.default_rng(7).normal(0.3, 1.0, 50)
    difference = compared(tmp_path, BASE, second)
    assert difference.p == difference.p_holm == pytest.approx(scipy.stats.wilcoxon(second - BASE).pvalue)


def test_only_tracks_that_both_have_are_compared_and_the_others_named(tmp_path: Path) -> None:
    first = write_run(tmp_path / "a", {"separator": BASE[:20]})
    values = [*(BASE[2:19] + 1), float("nan"), 3.0, 4.0]
    second = write_run(tmp_path / "b", {"separator": values}, first_track=2)
    done = compare(CompareConfig(runs=(first, second)))
    (difference,) = done.differences
    assert (difference.tracks, difference.difference) == (17, pytest.approx(1.0))
    assert any("2 tracks have scores in A alone and are left out: song 00, song 01" in told for told in done.warnings)
    assert any("2 tracks have scores in B alone and are left out: song 20, song 21" in told for told in done.warnings)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"references": "other"}, "the references of 50 tracks differ"),
        ({"frame_seconds": 2.0}, "frames of 1.0 s against 2.0 s"),
    ],
)
def test_other_music_or_frames_are_warned_of(tmp_path: Path, changes: dict[str, object], told: str) -> None:
    runs = write_run(tmp_path / "a", {"x": BASE}), write_run(tmp_path / "b", {"x": BASE}, **changes)  # type: ignore[arg-type]
    (warning,) = compare(CompareConfig(runs=runs)).warnings
    assert told in warning


def test_the_same_target_in_another_company_is_not_compared(tmp_path: Path) -> None:
    runs = (
        write_run(tmp_path / "a", {"x": BASE}),
        write_run(tmp_path / "b", {"x": BASE}, company="vocals+drums+bass+other"),
    )
    with pytest.raises(ConfigError, match="no target and track in common"):
        compare(CompareConfig(runs=runs))


def test_of_each_run_its_separator_is_taken_and_of_a_single_one_everything(tmp_path: Path) -> None:
    kinds = {"mixture": "MixtureBaseline", "separator": "Separator", "IRM2": "IdealMask"}
    systems = {"mixture": BASE - 5, "separator": BASE, "IRM2": BASE + 5}
    first = write_run(tmp_path / "a", systems, kinds=kinds)
    second = write_run(tmp_path / "b", systems, kinds=kinds)
    pair = compare(CompareConfig(runs=(first, second)))
    assert [contender.system for contender in pair.contenders] == ["separator", "separator"]
    alone = compare(CompareConfig(runs=(first,)))
    assert [(d.label, d.verdict) for d in alone.differences] == [("B", "better"), ("C", "better")]
    chosen = compare(CompareConfig(runs=(first, second), systems=("IRM2", "mixture")))
    assert chosen.differences[0].difference == pytest.approx(-10.0)


def test_the_json_is_strict_and_tells_the_verdict(tmp_path: Path) -> None:
    runs = write_run(tmp_path / "a", {"x": BASE}), write_run(tmp_path / "b", {"x": BASE + 1})
    told = json.loads(compare(CompareConfig(runs=runs)).to_json())
    assert told["differences"][0]["verdict"] == "better"
    assert [contender["label"] for contender in told["contenders"]] == ["A", "B"]


@pytest.mark.parametrize(
    ("runs", "systems", "told"),
    [
        (("a", "nowhere"), (), "nowhere: is no folder that `cyclesep evaluate` wrote"),
        (("a", "b"), ("y",), "holds no 'y'; it holds x"),
        (("a", "b", "a"), ("x", "x"), "2 names for 3 runs"),
        (("a",), (), "holds one system only"),
    ],
)
def test_what_cannot_be_compared_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, runs: tuple[str, ...], systems: tuple[str, ...], told: str
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a", "b"):
        write_run(tmp_path / name, {"x": BASE})
    with pytest.raises((ConfigError, ScoringError), match=told):
        compare(CompareConfig(runs=runs, systems=systems))
