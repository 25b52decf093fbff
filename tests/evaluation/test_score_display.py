"""Tables of scores: medians over frames, then over tracks, for people and for programs."""

import json

import numpy as np
import pytest
from rich.console import Console

from cyclesep.evaluation import compare, score_display
from cyclesep.evaluation.compare import Contender
from cyclesep.evaluation.config import CompareConfig
from cyclesep.evaluation.track_scores import TrackRow, TrackScores, rows_of
from cyclesep.metrics import ScoreTable, TargetScore, TrackScore

NAN = float("nan")


def target_score(target: str, sdr: list[float], *, company: tuple[str, ...] = (), si_sdr: float = 3.0) -> TargetScore:
    frames = np.array(sdr)
    return TargetScore(
        target=target,
        scoring_group=company or (target,),
        sdr=frames,
        isr=frames + 1,
        sir=frames + 2,
        sar=frames + 3,
        si_sdr=si_sdr,
        usdr=si_sdr + 1,
        conditioning="exact",
    )


def track_score(track_id: str, *targets: TargetScore) -> TrackScore:
    return TrackScore(
        track_id=track_id, split="test", sample_rate=8000, frame_seconds=1.0, hop_seconds=1.0, targets=targets
    )


@pytest.fixture
def table() -> ScoreTable:
    pair = ("vocals", "accompaniment")
    model = [
        track_score("a", target_score("vocals", [1.0, 2.0, 9.0, NAN], company=pair, si_sdr=1.0)),
        track_score("b", target_score("vocals", [4.0], company=pair, si_sdr=2.0)),
        track_score("c", target_score("vocals", [NAN], company=pair, si_sdr=9.0)),
    ]
    four = ("vocals", "drums")
    mixture = [
        track_score(
            "a",
            target_score("vocals", [0.5], company=pair),
            target_score("accompaniment", [-10.5], company=pair, si_sdr=-71.0),
            target_score("drums", [7.0], company=four),
        )
    ]
    return ScoreTable.concatenate([ScoreTable.from_scores("mixture", mixture), ScoreTable.from_scores("model", model)])


def test_rows_hold_the_median_of_medians_the_mean_of_usdr_and_count_what_is_left_out(table: ScoreTable) -> None:
    row = next(row for row in score_display.summary_rows(table) if row["system"] == "model")
    assert (row["SDR"], row["ISR"], row["SIR"], row["SAR"]) == (3.0, 4.0, 5.0, 6.0)
    assert row["SI-SDR"] == 2.0
    assert row["uSDR"] == 5.0
    assert (row["tracks"], row["tracks_excluded"], row["frames"], row["nan_frames"]) == (2, 1, 6, 2)


def test_systems_of_one_target_stand_together_and_companies_are_not_mixed(table: ScoreTable) -> None:
    order = [(row["scoring_group"], row["target"], row["system"]) for row in score_display.summary_rows(table)]
    pair = "vocals+accompaniment"
    assert order == [
        (pair, "vocals", "mixture"),
        (pair, "vocals", "model"),
        (pair, "accompaniment", "mixture"),
        ("vocals+drums", "drums", "mixture"),
    ]


def test_the_terminal_shows_every_row_in_eighty_columns_with_two_decimals(table: ScoreTable) -> None:
    console = Console(width=80)
    with console.capture() as capture:
        score_display.print_summary(table, console=console, title="test of 3 tracks")
    lines = [line.rstrip() for line in capture.get().splitlines()]
    assert lines[0] == "test of 3 tracks"
    assert max(map(len, lines)) <= 80
    assert "test: vocals, accompaniment scored together" in lines
    assert "test: vocals, drums scored together" in lines
    rows = [line.split() for line in lines]
    assert ["vocals", "mixture", "0.50", "1.50", "2.50", "3.50", "3.00", "4.00", "1", "0"] in rows
    assert ["model", "3.00", "4.00", "5.00", "6.00", "2.00", "5.00", "2", "2"] in rows
    assert [*("accompaniment", "mixture", "-10.50", "-9.50", "-8.50", "-7.50", "-71.00", "-70.00", "1", "0")] in rows
    assert ["drums", "mixture", "7.00", "8.00", "9.00", "10.00", "3.00", "4.00", "1", "0"] in rows
    assert "Up to 1 tracks without a finite value are left out." in " ".join(lines)


def test_nothing_scored_is_said_so() -> None:
    console = Console(width=80)
    with console.capture() as capture:
        score_display.print_summary(ScoreTable.concatenate([]), console=console)
    assert capture.get().strip() == "nothing was scored"


def test_the_json_is_strict_and_has_null_for_what_is_not_finite() -> None:
    silent = ScoreTable.from_scores("model", [track_score("a", target_score("vocals", [NAN], si_sdr=NAN))])
    text = score_display.summary_json(silent, commit="abc", failed=["b: broken"])

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    read = json.loads(text, parse_constant=refuse)
    assert (read["commit"], read["failed"]) == ("abc", ["b: broken"])
    (row,) = read["scores"]
    assert (row["SDR"], row["SI-SDR"], row["tracks_excluded"]) == (None, None, 1)


def test_rows_are_the_same_from_frames_and_from_tracks(table: ScoreTable) -> None:
    assert score_display.summary_rows(TrackScores(rows=rows_of(table))) == score_display.summary_rows(table)


def printed(**differences: float) -> list[str]:
    """The lines of a comparison of one target of ten tracks, with the given difference for each target."""
    rng = np.random.default_rng(1)
    songs = {f"song {n}": rng.normal(5, 3) for n in range(10)}

    def contender(label: str, gains: dict[str, float]) -> Contender:
        rows = tuple(
            TrackRow(system="model", track_id=song, split="test", target=target, values={"SDR": sdr + gain + 0.01 * n})
            for target, gain in gains.items()
            for n, (song, sdr) in enumerate(songs.items())
        )
        return Contender(label=label, run=f"runs/{label}", system="model", frame_seconds=1.0, version="1", rows=rows)

    first, second = contender("A", dict.fromkeys(differences, 0.0)), contender("B", differences)
    compared = compare.of_contenders((first, second), CompareConfig(runs=("a", "b")))
    console = Console(width=80)
    with console.capture() as capture:
        score_display.print_comparison(compared, min_effect_db=0.3, console=console)
    return [line.rstrip() for line in capture.get().splitlines()]


def test_a_comparison_tells_who_is_who_and_calls_two_tenths_of_a_decibel_noise() -> None:
    lines = printed(vocals=0.2, drums=1.5)
    assert lines[:2] == ["A  model, runs/A", "B  model, runs/B"]
    (vocals,) = [line for line in lines if line.startswith("vocals")]
    (drums,) = [line for line in lines if line.startswith("drums")]
    assert "+0.20" in vocals
    assert vocals.endswith("within noise: < 0.3 dB")
    assert "+1.50 +1.50 +1.50" in drums
    assert drums.endswith("better")
