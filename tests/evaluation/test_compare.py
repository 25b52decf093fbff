"""Comparison of evaluations: significance of differences, and warnings."""

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
    group: str = PAIR,
    references: str = "r",
    frame_seconds: float = 1.0,
    first_track: int = 0,
) -> str:
    """Write an evaluation with one SDR of vocals per track; return its folder."""
    rows = tuple(
        TrackRow(
            system=system,
            track_id=f"song {number:02}",
            split="test",
            target="vocals",
            scoring_group=group,
            values={"SDR": value},
            references=f"{references}{number}",
        )
        for system, values in systems.items()
        for number, value in enumerate(values, start=first_track)
    )
    TrackScores(rows=rows).write(folder / "tracks.parquet")
    named = [{"name": name, "kind": (kinds or {}).get(name, "SeparatorSystem"), "checkpoint": ""} for name in systems]
    summary = {"version": "1", "config": {"frame_seconds": frame_seconds}, "systems": named}
    (folder / "summary.json").write_text(json.dumps(summary))
    return str(folder)


def compared(tmp_path: Path, first: Sequence[float], second: Sequence[float], **settings: object) -> Difference:
    runs = write_run(tmp_path / "a", {"separator": first}), write_run(tmp_path / "b", {"separator": second})
    (difference,) = compare(CompareConfig(runs=runs, **settings)).differences  # type: ignore[arg-type]
    return difference


def test_a_significant_difference_of_two_tenths_is_below_min_effect_db(tmp_path: Path) -> None:
    gain = np.random.default_rng(1).normal(0.2, 0.05, 50)
    difference = compared(tmp_path, BASE, BASE + gain)
    assert difference.p < 1e-6
    assert difference.low > 0.15
    assert (difference.verdict, difference.reason) == ("within noise", "< 0.3 dB")
    assert difference.difference == pytest.approx(np.median(gain))


def test_a_large_median_with_large_variance_is_within_noise(tmp_path: Path) -> None:
    gain = np.random.default_rng(2).normal(0.4, 4.0, 20)
    difference = compared(tmp_path, BASE[:20], BASE[:20] + gain)
    assert (difference.verdict, difference.reason) == ("within noise", "tracks vary")


@pytest.mark.parametrize(("gain", "verdict"), [(1.0, "better"), (-1.0, "worse")])
def test_one_decibel_on_nearly_all_tracks_is_significant(tmp_path: Path, gain: float, verdict: str) -> None:
    second = BASE + gain + np.random.default_rng(3).normal(0, 0.5, 50)
    difference = compared(tmp_path, BASE, second)
    assert (difference.verdict, difference.reason) == (verdict, "")
    assert difference.low < difference.difference < difference.high
    assert difference.low * difference.high > 0


def test_five_tracks_are_too_few_for_any_difference(tmp_path: Path) -> None:
    difference = compared(tmp_path, BASE[:5], BASE[:5] + 10)
    assert (difference.verdict, difference.reason) == ("within noise", "few tracks")


def test_a_run_compared_with_itself_is_equal(tmp_path: Path) -> None:
    difference = compared(tmp_path, BASE, BASE)
    assert (difference.difference, difference.low, difference.high, difference.p) == (0.0, 0.0, 0.0, 1.0)
    assert (difference.verdict, difference.reason) == ("within noise", "equal")


def test_seven_tracks_suffice_for_one_question_but_not_for_four(tmp_path: Path) -> None:
    values = BASE[:7]
    gains = {name: values + 2 + 0.1 * np.arange(7) for name in "bcde"}
    assert compared(tmp_path, values, gains["b"]).verdict == "better"
    run = write_run(tmp_path / "many", {"a": values, **gains})
    differences = compare(CompareConfig(runs=(run,))).differences
    assert [(d.p, d.verdict, d.reason) for d in differences] == [(2 / 2**7, "within noise", "few tracks")] * 4


def test_few_of_a_hundred_equal_pairs_are_called_different(tmp_path: Path) -> None:
    rng = np.random.default_rng(4)
    verdicts = []
    for number in range(100):
        noise = rng.normal(0, 2.0, (2, 30))
        place = tmp_path / str(number)
        verdicts.append(
            compared(place, BASE[:30] + noise[0], BASE[:30] + noise[1], min_effect_db=0, bootstrap_samples=500).verdict
        )
    # A test at 5 % expects five; the probability of twelve or more is below 0.5 %.
    assert verdicts.count("within noise") > 88


def test_the_bootstrap_interval_has_its_nominal_coverage() -> None:
    rng = np.random.default_rng(5)
    num_covered = 0
    for _ in range(200):
        low, high = bootstrap_interval(rng.normal(0.7, 1.0, 40), bootstrap_samples=400)
        num_covered += low <= 0.7 <= high
    # 95 % of 200 is 190, with a standard deviation of 3.1; the bootstrap interval of a median is slightly too narrow.
    assert 178 <= num_covered <= 199


def test_the_interval_does_not_depend_on_the_block_size(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(6).normal(1, 1, 30)
    whole = bootstrap_interval(values, bootstrap_samples=1000)
    monkeypatch.setattr("cyclesep.evaluation.compare._BLOCK_VALUES", 64)
    assert bootstrap_interval(values, bootstrap_samples=1000) == whole


def test_holm_multiplies_the_smallest_p_by_their_number_and_is_monotonic() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


def test_a_single_p_value_equals_wilcoxon(tmp_path: Path) -> None:
    second = BASE + np.random.default_rng(7).normal(0.3, 1.0, 50)
    difference = compared(tmp_path, BASE, second)
    assert difference.p == difference.p_holm == pytest.approx(scipy.stats.wilcoxon(second - BASE).pvalue)


def test_only_common_tracks_are_compared_and_the_others_listed(tmp_path: Path) -> None:
    first = write_run(tmp_path / "a", {"separator": BASE[:20]})
    values = [*(BASE[2:19] + 1), float("nan"), 3.0, 4.0]
    second = write_run(tmp_path / "b", {"separator": values}, first_track=2)
    result = compare(CompareConfig(runs=(first, second)))
    (difference,) = result.differences
    assert (difference.tracks, difference.difference) == (17, pytest.approx(1.0))
    assert any(
        "2 tracks have scores in A only and are excluded: song 00, song 01" in warning for warning in result.warnings
    )
    assert any(
        "2 tracks have scores in B only and are excluded: song 20, song 21" in warning for warning in result.warnings
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"references": "other"}, "the references of 50 tracks differ"),
        ({"frame_seconds": 2.0}, "frames of 1.0 s and 2.0 s"),
    ],
)
def test_other_references_or_frames_give_a_warning(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    runs = write_run(tmp_path / "a", {"x": BASE}), write_run(tmp_path / "b", {"x": BASE}, **changes)  # type: ignore[arg-type]
    (warning,) = compare(CompareConfig(runs=runs)).warnings
    assert message in warning


def test_scoring_groups_are_not_mixed(tmp_path: Path) -> None:
    runs = (
        write_run(tmp_path / "a", {"x": BASE}),
        write_run(tmp_path / "b", {"x": BASE}, group="vocals+drums+bass+other"),
    )
    with pytest.raises(ConfigError, match="no target and track in common"):
        compare(CompareConfig(runs=runs))


def test_the_separator_of_each_run_or_all_systems_of_a_single_run_are_compared(tmp_path: Path) -> None:
    kinds = {"mixture": "MixtureBaseline", "separator": "SeparatorSystem", "IRM2": "IdealMask"}
    systems = {"mixture": BASE - 5, "separator": BASE, "IRM2": BASE + 5}
    first = write_run(tmp_path / "a", systems, kinds=kinds)
    second = write_run(tmp_path / "b", systems, kinds=kinds)
    pair = compare(CompareConfig(runs=(first, second)))
    assert [each.system for each in pair.systems] == ["separator", "separator"]
    single = compare(CompareConfig(runs=(first,)))
    assert [(d.label, d.verdict) for d in single.differences] == [("B", "better"), ("C", "better")]
    selected = compare(CompareConfig(runs=(first, second), systems=("IRM2", "mixture")))
    assert selected.differences[0].difference == pytest.approx(-10.0)


def test_the_json_contains_the_verdict(tmp_path: Path) -> None:
    runs = write_run(tmp_path / "a", {"x": BASE}), write_run(tmp_path / "b", {"x": BASE + 1})
    plain = json.loads(compare(CompareConfig(runs=runs)).to_json())
    assert plain["differences"][0]["verdict"] == "better"
    assert [each["label"] for each in plain["systems"]] == ["A", "B"]


@pytest.mark.parametrize(
    ("runs", "systems", "message"),
    [
        (("a", "nowhere"), (), "nowhere: is not an output folder of `cyclesep evaluate`"),
        (("a", "b"), ("y",), "'y' not found in a; available: x"),
        (("a", "b", "a"), ("x", "x"), "2 names for 3 runs"),
        (("a",), (), "has only one system"),
    ],
)
def test_invalid_runs_and_systems_raise_errors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, runs: tuple[str, ...], systems: tuple[str, ...], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a", "b"):
        write_run(tmp_path / name, {"x": BASE})
    with pytest.raises((ConfigError, ScoringError), match=message):
        compare(CompareConfig(runs=runs, systems=systems))
