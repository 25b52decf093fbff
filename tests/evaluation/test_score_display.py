"""Score tables in the terminal and as JSON: medians over frames, then over tracks."""

import json

import numpy as np
import pytest
from rich.console import Console

from cyclesep.evaluation import compare, score_display
from cyclesep.evaluation.compare import ComparedSystem
from cyclesep.evaluation.config import CompareConfig
from cyclesep.evaluation.track_scores import TrackRow, TrackScores, summary_rows, track_rows
from cyclesep.metrics import TargetScore, TrackScore

NAN = float("nan")


def target_score(target: str, sdr: list[float], *, group: tuple[str, ...] = (), si_sdr: float = 3.0) -> TargetScore:
    frames = np.array(sdr)
    return TargetScore(
        target=target,
        scoring_group=group or (target,),
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
def table() -> TrackScores:
    pair = ("vocals", "accompaniment")
    model = [
        track_score("a", target_score("vocals", [1.0, 2.0, 9.0, NAN], group=pair, si_sdr=1.0)),
        track_score("b", target_score("vocals", [4.0], group=pair, si_sdr=2.0)),
        track_score("c", target_score("vocals", [NAN], group=pair, si_sdr=9.0)),
    ]
    four = ("vocals", "drums")
    mixture = [
        track_score(
            "a",
            target_score("vocals", [0.5], group=pair),
            target_score("accompaniment", [-10.5], group=pair, si_sdr=-71.0),
            target_score("drums", [7.0], group=four),
        )
    ]
    scores = [("mixture", score) for score in mixture] + [("model", score) for score in model]
    return TrackScores(rows=tuple(row for system, score in scores for row in track_rows(system, score)))


def test_rows_have_the_median_of_medians_the_mean_of_usdr_and_count_what_is_excluded(table: TrackScores) -> None:
    row = next(row for row in summary_rows(table) if row["system"] == "model")
    assert (row["SDR"], row["ISR"], row["SIR"], row["SAR"]) == (3.0, 4.0, 5.0, 6.0)
    assert row["SI-SDR"] == 2.0
    assert row["uSDR"] == 5.0
    assert (row["tracks"], row["tracks_excluded"], row["frames"], row["nan_frames"]) == (2, 1, 6, 2)


def test_rows_are_ordered_by_scoring_group_and_target(table: TrackScores) -> None:
    order = [(row["scoring_group"], row["target"], row["system"]) for row in summary_rows(table)]
    pair = "vocals+accompaniment"
    assert order == [
        (pair, "vocals", "mixture"),
        (pair, "vocals", "model"),
        (pair, "accompaniment", "mixture"),
        ("vocals+drums", "drums", "mixture"),
    ]


def test_the_printed_table_fits_into_eighty_columns_with_two_decimals(table: TrackScores) -> None:
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
    assert "Up to 1 tracks without a finite value are excluded." in " ".join(lines)


def test_an_empty_table_prints_nothing_was_scored() -> None:
    console = Console(width=80)
    with console.capture() as capture:
        score_display.print_summary(TrackScores(rows=()), console=console)
    assert capture.get().strip() == "nothing was scored"


def test_the_json_is_strict_with_null_for_values_that_are_not_finite() -> None:
    rows = track_rows("model", track_score("a", target_score("vocals", [NAN], si_sdr=NAN)))
    text = score_display.summary_json(TrackScores(rows=rows), commit="abc", failed=["b: broken"])

    def reject(constant: str) -> None:
        raise AssertionError(constant)

    read = json.loads(text, parse_constant=reject)
    assert (read["commit"], read["failed"]) == ("abc", ["b: broken"])
    (row,) = read["scores"]
    assert (row["SDR"], row["SI-SDR"], row["tracks_excluded"]) == (None, None, 1)


def printed(**differences: float) -> list[str]:
    """Return the printed lines of a comparison over ten tracks, with the given difference for each target."""
    rng = np.random.default_rng(1)
    songs = {f"song {n}": rng.normal(5, 3) for n in range(10)}

    def compared_system(label: str, gains: dict[str, float]) -> ComparedSystem:
        rows = tuple(
            TrackRow(system="model", track_id=song, split="test", target=target, values={"SDR": sdr + gain + 0.01 * n})
            for target, gain in gains.items()
            for n, (song, sdr) in enumerate(songs.items())
        )
        return ComparedSystem(
            label=label, run=f"runs/{label}", system="model", frame_seconds=1.0, version="1", rows=rows
        )

    systems = compared_system("A", dict.fromkeys(differences, 0.0)), compared_system("B", differences)
    compared = compare.compare_systems(systems, CompareConfig(runs=("a", "b")))
    console = Console(width=80)
    with console.capture() as capture:
        score_display.print_comparison(compared, min_effect_db=0.3, console=console)
    return [line.rstrip() for line in capture.get().splitlines()]


def test_a_comparison_prints_the_systems_and_calls_two_tenths_of_a_decibel_noise() -> None:
    lines = printed(vocals=0.2, drums=1.5)
    assert lines[:2] == ["A  model, runs/A", "B  model, runs/B"]
    (vocals,) = [line for line in lines if line.startswith("vocals")]
    (drums,) = [line for line in lines if line.startswith("drums")]
    assert "+0.20" in vocals
    assert vocals.endswith("within noise: < 0.3 dB")
    assert "+1.50 +1.50 +1.50" in drums
    assert drums.endswith("better")
