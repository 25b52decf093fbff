"""Tables from museval's JSON files, against what museval itself makes of them."""

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
    """museval's own JSON for tracks of random scores, a tenth of them NaN; the last track's bass is NaN throughout."""
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
    """Three systems in a folder, as SiSEC 2018's were."""
    for seed, name in enumerate(("UMX", "TAK1", "IRM2")):
        folder = tmp_path / "sisec" / name
        (folder / "test").mkdir(parents=True)
        write_system(folder, seed)
    return tmp_path / "sisec"


def by_museval(campaign: Path, over_frames: str, over_tracks: str) -> dict[tuple[str, str, str], float]:
    """(system, target, metric) by museval's MethodStore."""
    store = museval.MethodStore(frames_agg=over_frames, tracks_agg=over_tracks)
    for folder in campaign.iterdir():
        evaluations = museval.EvalStore()
        evaluations.add_eval_dir(str(folder))
        store.add_evalstore(evaluations, name=folder.name)
    scores = store.agg_frames_tracks_scores()
    return {tuple(key): float(value) for key, value in scores.items()}


@pytest.mark.parametrize(("over_frames", "over_tracks"), [("median", "median"), ("median", "mean"), ("mean", "mean")])
def test_systems_of_a_campaign_get_what_museval_gives_them(campaign: Path, over_frames: str, over_tracks: str) -> None:
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


def test_one_system_s_folder_as_museval_writes_it_is_one_row_for_each_target(campaign: Path) -> None:
    rows = aggregate(AggregateConfig(folders=(str(campaign / "UMX"),))).rows
    assert [(row["system"], row["target"]) for row in rows] == [("UMX", target) for target in TARGETS]


def test_nan_frames_and_tracks_without_any_value_are_counted(campaign: Path) -> None:
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


def test_the_best_sdr_of_a_target_stands_first(campaign: Path) -> None:
    rows = aggregate(AggregateConfig(folders=(str(campaign),), targets=("vocals",))).rows
    values = [row["SDR"] for row in rows]
    assert values == sorted(values, reverse=True)
    assert {row["system"] for row in rows} == {"UMX", "TAK1", "IRM2"}


def test_a_system_that_lacks_tracks_is_told(campaign: Path) -> None:
    (campaign / "TAK1/test/Song 3.json").unlink()
    done = aggregate(AggregateConfig(folders=(str(campaign),), targets=("drums",)))
    assert done.warnings == ("drums: TAK1 has 6 of 7 tracks",)


def test_what_evaluate_wrote_is_found_below_its_folder(tmp_path: Path) -> None:
    (tmp_path / "run/museval/separator/test").mkdir(parents=True)
    write_system(tmp_path / "run/museval/separator", 3, targets=("vocals",))
    (row,) = aggregate(AggregateConfig(folders=(str(tmp_path / "run"),))).rows
    assert (row["system"], row["target"], row["tracks"]) == ("separator", "vocals", 7)


def test_what_is_not_there_or_not_museval_s_is_refused(campaign: Path, tmp_path: Path) -> None:
    with pytest.raises(ScoringError, match="holds no train/TRACK.json"):
        aggregate(AggregateConfig(folders=(str(campaign),), split="train"))
    with pytest.raises(ConfigError, match="no file holds 'flute'; they hold"):
        aggregate(AggregateConfig(folders=(str(campaign),), targets=("flute",)))
    (campaign / "UMX/test/Song 0.json").write_text('{"targets": 3}')
    with pytest.raises(ScoringError, match=r"Song 0.json: is not museval's JSON"):
        aggregate(AggregateConfig(folders=(str(campaign),)))
    (tmp_path / "again/UMX/test").mkdir(parents=True)
    write_system(tmp_path / "again/UMX", 0)
    with pytest.raises(ConfigError, match="are both called 'UMX'"):
        aggregate(AggregateConfig(folders=(str(campaign / "TAK1"), str(campaign / "UMX"), str(tmp_path / "again"))))
