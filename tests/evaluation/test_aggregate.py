"""Tables of museval's JSON files, compared with museval's own aggregation."""

import json
from pathlib import Path

import museval
import numpy as np
import pytest

from cyclesep.errors import ConfigError, ScoringError
from cyclesep.evaluation.aggregate import aggregate
from cyclesep.evaluation.config import AggregateConfig

TARGETS = ("vocals", "drums", "bass", "other", "accompaniment")


def write_system(
    root: Path, seed: int, *, tracks: int = 7, split: str = "test", targets: tuple[str, ...] = TARGETS
) -> None:
    """Write museval's JSON for tracks of random scores, a tenth of them NaN; all bass scores of the last are NaN."""
    rng = np.random.default_rng(seed)
    for number in range(tracks):
        store = museval.TrackStore(track_name=f"Song {number}", win=1.0, hop=1.0)
        for target in targets:
            frames = int(rng.integers(5, 40))
            silent = rng.random(frames) < (1.0 if target == "bass" and number == tracks - 1 else 0.1)
            values = {
                metric: np.where(silent, np.nan, rng.normal(5, 4, frames)).tolist()
                for metric in ("SDR", "ISR", "SIR", "SAR")
            }
            store.add_target(target_name=target, values=values)
        store.save(str(root / split / f"Song {number}.json"))


@pytest.fixture
def campaign(tmp_path: Path) -> Path:
    """Three systems in one folder, as in SiSEC 2018."""
    for seed, name in enumerate(("UMX", "TAK1", "IRM2")):
        folder = tmp_path / "sisec" / name
        (folder / "test").mkdir(parents=True)
        write_system(folder, seed)
    return tmp_path / "sisec"


def by_museval(campaign: Path, over_frames: str, over_tracks: str) -> dict[tuple[str, str, str], float]:
    """Return scores by (system, target, metric) from museval's MethodStore."""
    store = museval.MethodStore(frames_agg=over_frames, tracks_agg=over_tracks)
    for folder in campaign.iterdir():
        evaluations = museval.EvalStore()
        evaluations.add_eval_dir(str(folder))
        store.add_evalstore(evaluations, name=folder.name)
    scores = store.agg_frames_tracks_scores()
    return {tuple(key): float(value) for key, value in scores.items()}


@pytest.mark.parametrize(("over_frames", "over_tracks"), [("median", "median"), ("median", "mean"), ("mean", "mean")])
def test_aggregates_equal_museval(campaign: Path, over_frames: str, over_tracks: str) -> None:
    config = AggregateConfig(folders=(str(campaign),), over_frames=over_frames, over_tracks=over_tracks)  # type: ignore[arg-type]
    found = {
        (row["system"], row["target"], metric): row[metric]
        for row in aggregate(config).rows
        for metric in ("SDR", "ISR", "SIR", "SAR")
    }
    expected = by_museval(campaign, over_frames, over_tracks)
    assert found.keys() == expected.keys()
    assert len(found) == 3 * 5 * 4
    for key, value in expected.items():
        assert found[key] == pytest.approx(value, abs=1e-6)


def test_a_single_system_folder_has_one_row_per_target(campaign: Path) -> None:
    rows = aggregate(AggregateConfig(folders=(str(campaign / "UMX"),))).rows
    assert [(row["system"], row["target"]) for row in rows] == [("UMX", target) for target in TARGETS]


def test_nan_frames_and_excluded_tracks_are_counted(campaign: Path) -> None:
    frames = [
        frame["metrics"]["SDR"]
        for path in sorted((campaign / "UMX/test").glob("*.json"))
        for target in json.loads(path.read_text())["targets"]
        if target["name"] == "bass"
        for frame in target["frames"]
    ]
    (row,) = aggregate(AggregateConfig(folders=(str(campaign / "UMX"),), targets=("bass",))).rows
    assert (row["frames"], row["nan_frames"]) == (len(frames), int(np.isnan(frames).sum()))
    assert (row["tracks"], row["tracks_excluded"]) == (6, 1)


def test_rows_are_sorted_by_sdr(campaign: Path) -> None:
    rows = aggregate(AggregateConfig(folders=(str(campaign),), targets=("vocals",))).rows
    values = [row["SDR"] for row in rows]
    assert values == sorted(values, reverse=True)
    assert {row["system"] for row in rows} == {"UMX", "TAK1", "IRM2"}


def test_missing_tracks_give_a_warning(campaign: Path) -> None:
    (campaign / "TAK1/test/Song 3.json").unlink()
    table = aggregate(AggregateConfig(folders=(str(campaign),), targets=("drums",)))
    assert table.warnings == ("drums: TAK1 has 6 of 7 tracks",)


def test_the_output_folder_of_evaluate_is_accepted(tmp_path: Path) -> None:
    (tmp_path / "run/museval/separator/test").mkdir(parents=True)
    write_system(tmp_path / "run/museval/separator", 3, targets=("vocals",))
    (row,) = aggregate(AggregateConfig(folders=(str(tmp_path / "run"),))).rows
    assert (row["system"], row["target"], row["tracks"]) == ("separator", "vocals", 7)


def test_missing_and_invalid_files_raise_errors(campaign: Path, tmp_path: Path) -> None:
    with pytest.raises(ScoringError, match="no train/TRACK.json found"):
        aggregate(AggregateConfig(folders=(str(campaign),), split="train"))
    with pytest.raises(ConfigError, match="targets: 'flute' not found in any file; available: vocals"):
        aggregate(AggregateConfig(folders=(str(campaign),), targets=("flute",)))
    (campaign / "UMX/test/Song 0.json").write_text('{"targets": 3}')
    with pytest.raises(ScoringError, match=r"Song 0.json: is not museval's JSON"):
        aggregate(AggregateConfig(folders=(str(campaign),)))
    (tmp_path / "again/UMX/test").mkdir(parents=True)
    write_system(tmp_path / "again/UMX", 0)
    with pytest.raises(ConfigError, match="are both named 'UMX'"):
        aggregate(AggregateConfig(folders=(str(campaign / "TAK1"), str(campaign / "UMX"), str(tmp_path / "again"))))
