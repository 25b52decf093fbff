"""Evaluation on a local Ray cluster: scores, output files, resuming and errors."""

import json
import os
import shutil
import signal
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.compute
import pyarrow.parquet
import pytest
import soundfile
from ray import cloudpickle

from cyclesep.audio.audio_io import Waveform, write_wav
from cyclesep.checkpoints.loaded_separator import load_separator
from cyclesep.config import settings
from cyclesep.config.overrides import parse_override
from cyclesep.data.corpora.config import CorpusConfig
from cyclesep.data.shards.reading import ShardReader
from cyclesep.errors import ConfigError, CorpusError, CyclesepError, ScoringError
from cyclesep.evaluation import evaluate as evaluate_module
from cyclesep.evaluation.config import EvaluateConfig
from cyclesep.evaluation.evaluate import EvaluationReport, evaluate
from cyclesep.evaluation.excerpts import Excerpt, finished_excerpts
from cyclesep.evaluation.references import ReferenceTrack, ShardTrack, digest_of, find_references
from cyclesep.evaluation.results import ResultKey, Results
from cyclesep.evaluation.systems import InlineSystem, System, find_systems
from cyclesep.evaluation.tasks import EvaluationTask, make_tasks
from cyclesep.evaluation.track_progress import EvaluationProgress
from cyclesep.evaluation.track_scores import TrackResult, TrackScores, summary_rows
from cyclesep.evaluation.worker import Pcm16Estimates, SeparationActor, score
from cyclesep.inference.stems import separate_waveform
from cyclesep.metrics import ScoreTable, score_track
from cyclesep.storage.path import StoragePath
from tests.support.tiny_evaluation import SHORT_SEGMENTS, save_separator

# Ray's workers cannot import this module, but receive some tracks of a class that it defines.
cloudpickle.register_pickle_by_value(sys.modules[__name__])


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoint of an untrained separator of vocals, mono at 8 kHz."""
    return save_separator(tmp_path_factory.mktemp("checkpoint"))


@pytest.fixture(scope="module")
def configured(checkpoint: Path, tiny_shards: Path) -> Callable[..., EvaluateConfig]:
    """Build a config for the checkpoint and the two test songs of the tiny corpus, with changes."""

    def build(**changes: object) -> EvaluateConfig:
        values: dict[str, object] = {
            "checkpoint": str(checkpoint),
            "shards": str(tiny_shards),
            "separation": SHORT_SEGMENTS,
        }
        return EvaluateConfig(**(values | changes))  # type: ignore[arg-type]

    return build


@pytest.fixture(scope="module")
def evaluated(
    configured: Callable[..., EvaluateConfig],
    tmp_path_factory: pytest.TempPathFactory,
    ray_cluster: object,  # noqa: ARG001  (a fixture of this scope cannot use a mark)
) -> EvaluationReport:
    """Report on mixture, heuristic, separator and IRM2 for two songs, with saved estimates."""
    output = tmp_path_factory.mktemp("evaluation")
    return evaluate(configured(output=str(output), save_estimates=True))


def sdr(table: ScoreTable, system: str, track_id: str, target: str = "vocals") -> float:
    key = {"system": system, "track_id": track_id, "target": target, "metric": "SDR"}
    values = [row["value"] for row in table.table.to_pylist() if row.items() >= key.items()]
    return float(np.nanmedian(values))


def test_every_system_is_scored_on_every_track(evaluated: EvaluationReport) -> None:
    assert [(result.system, result.track_id) for result in evaluated.track_results] == [
        (system, track) for system in ("mixture", "heuristic", "separator", "IRM2") for track in ("Song 8", "Song 9")
    ]
    assert evaluated.failed == ()
    assert evaluated.num_reused == 0
    targets = {(row.system, row.target) for row in evaluated.tracks.rows}
    assert {target for _, target in targets} == {"vocals", "accompaniment"}
    assert len(targets) == 8


def test_the_table_contains_the_scores_of_the_separator(
    evaluated: EvaluationReport, checkpoint: Path, tiny_shards: Path
) -> None:
    reader = ShardReader(tiny_shards)
    track = next(track for track in reader.manifest.tracks if track.track_id == "Song 9")
    stems = ShardTrack(folder=tiny_shards, record=track).read()
    separated = separate_waveform(load_separator(checkpoint), stems["mixture"], SHORT_SEGMENTS)
    references = {name: stems[name] for name in ("vocals", "drums")}
    expected = score_track(references, separated, track_id="Song 9").of("vocals")
    assert sdr(evaluated.table, "separator", "Song 9") == pytest.approx(np.nanmedian(expected.sdr), abs=1e-6)


def test_the_oracle_scores_far_above_the_mixture(evaluated: EvaluationReport) -> None:
    for track in ("Song 8", "Song 9"):
        assert sdr(evaluated.table, "IRM2", track) > sdr(evaluated.table, "mixture", track) + 5


def test_all_output_files_exist(evaluated: EvaluationReport) -> None:
    output = Path(evaluated.output)
    assert ScoreTable.read(output / "scores.parquet").table.equals(evaluated.table.table)
    assert TrackScores.read(output / "tracks.parquet") == evaluated.tracks
    summary = json.loads((output / "summary.json").read_text())
    assert (summary["tracks"], summary["failed"], len(summary["scores"])) == (2, [], 8)
    assert summary["audio_seconds"] == 32.0
    museval = json.loads((output / "museval/separator/test/Song 8.json").read_text())
    assert [target["name"] for target in museval["targets"]] == ["vocals", "accompaniment"]
    stems = sorted(path.name for path in (output / "estimates/separator/test/Song 9").iterdir())
    assert stems == ["accompaniment.wav", "vocals.wav"]
    assert not list(output.rglob("*.partial"))


def test_there_is_a_row_per_system_track_and_target(evaluated: EvaluationReport, checkpoint: Path) -> None:
    rows = pyarrow.parquet.read_table(Path(evaluated.output) / "tracks.parquet").to_pylist()
    keys = [(row["system"], row["checkpoint"], row["track_id"], row["target"]) for row in rows]
    digest = load_separator(checkpoint).digest
    assert keys[4:8] + keys[8:12] == [
        *[("heuristic", "", song, target) for song in ("Song 8", "Song 9") for target in ("vocals", "accompaniment")],
        *[
            ("separator", digest, song, target)
            for song in ("Song 8", "Song 9")
            for target in ("vocals", "accompaniment")
        ],
    ]
    assert len(keys) == len(set(keys)) == 16
    assert {row["seconds"] for row in rows} == {4.0}
    for row in rows:
        assert row["SDR"] == sdr(evaluated.table, row["system"], row["track_id"], row["target"])
        assert (row["separation_seconds"] > 0) == (row["separation_peak_bytes"] > 0) == (row["system"] == "separator")
        assert row["scoring_seconds"] > 0
        # A plausible range: Python with torch needs more than the minimum, and tests less than the maximum.
        assert 50e6 < row["scoring_peak_bytes"] < 4e9


def test_the_digest_of_references_depends_on_their_samples(evaluated: EvaluationReport, tiny_shards: Path) -> None:
    track = ShardReader(tiny_shards).manifest.split("test")[0]
    stems = ShardTrack(folder=tiny_shards, record=track).read()
    references = {name: stems[name] for name in ("drums", "vocals")}
    assert {row.references for row in evaluated.tracks.rows if row.track_id == track.track_id} == {
        digest_of(references)
    }
    stems["drums"].samples[0, 7] += 1 / 32768
    assert digest_of(references) not in {row.references for row in evaluated.tracks.rows}


def test_a_second_run_reuses_all_results_without_a_cluster(
    evaluated: EvaluationReport, configured: Callable[..., EvaluateConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(evaluate_module, "connect")
    monkeypatch.delattr(evaluate_module, "Scheduler")
    again = evaluate(configured(output=str(evaluated.output), save_estimates=True))
    assert again.num_reused == 8
    assert again.table.table.equals(evaluated.table.table)
    assert again.track_results == evaluated.track_results


def test_only_missing_and_damaged_results_are_computed_again(
    evaluated: EvaluationReport, configured: Callable[..., EvaluateConfig]
) -> None:
    parts = sorted((Path(evaluated.output) / "parts").glob("separator-*.json"))
    parts[0].unlink()
    oracle = sorted((Path(evaluated.output) / "parts").glob("IRM2-*.parquet"))[0]
    oracle.write_bytes(oracle.read_bytes()[:100])
    times = {path: path.stat().st_mtime_ns for path in (Path(evaluated.output) / "parts").iterdir()}
    again = evaluate(configured(output=str(evaluated.output), save_estimates=True))
    assert again.num_reused == 6
    assert again.table.table.equals(evaluated.table.table)
    changed = [path for path, before in times.items() if path.stat().st_mtime_ns != before]
    assert len({path.stem for path in changed}) == 2


@pytest.mark.usefixtures("ray_cluster")
def test_an_interrupted_run_resumes_with_an_identical_table(
    evaluated: EvaluationReport,
    configured: Callable[..., EvaluateConfig],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = configured(output=str(tmp_path), checkpoint=None, targets=("vocals",))

    def interrupt(_progress: EvaluationProgress, _result: TrackResult) -> None:
        raise KeyboardInterrupt

    advance = EvaluationProgress.advance
    monkeypatch.setattr(EvaluationProgress, "advance", interrupt)
    with pytest.raises(KeyboardInterrupt):
        evaluate(config)
    monkeypatch.setattr(EvaluationProgress, "advance", advance)
    assert not (tmp_path / "scores.parquet").exists()
    finished = len(list((tmp_path / "parts").glob("*.json")))
    assert finished >= 1
    report = evaluate(config)
    assert finished <= report.num_reused < 6
    rows = evaluated.table.table
    assert report.table.table.equals(rows.filter(pyarrow.compute.not_equal(rows["system"], "separator")))


def test_saved_estimates_score_like_their_separator(
    evaluated: EvaluationReport, configured: Callable[..., EvaluateConfig], tmp_path: Path
) -> None:
    config = configured(
        checkpoint=None,
        targets=("vocals",),
        estimates=str(Path(evaluated.output) / "estimates/separator"),
        mixture=False,
        heuristic=False,
        oracles=(),
        output=str(tmp_path),
    )
    (system,) = find_systems(config)
    assert system.name == "separator"
    tasks = [make_task(system, track, tmp_path) for track in find_references(config)]
    assert [score(task).reason for task in tasks] == ["", ""]
    table = ScoreTable.concatenate(task.results.load_track_scores(task.key) for task in tasks)
    for track_id in ("Song 8", "Song 9"):
        for target in ("vocals", "accompaniment"):
            expected = sdr(evaluated.table, "separator", track_id, target)
            assert sdr(table, "separator", track_id, target) == expected


def make_task(system: System, track: ReferenceTrack, output: Path) -> EvaluationTask:
    return EvaluationTask(
        system=system,
        track=track,
        key=ResultKey.of(system.name, track.track_id, system.digest(track)),
        results=Results(folder=StoragePath.of(output)),
        frame_seconds=1.0,
        save_estimates=False,
    )


@dataclass(frozen=True, kw_only=True)
class FaultyTrack:
    """A track that cannot be read, or that kills its process the first time it is read."""

    inner: ShardTrack
    track_id: str
    kill_file: Path | None = None
    """File that is created when the process is killed; its name is the method that does it."""

    @property
    def split(self) -> str:
        return self.inner.split

    def digest(self) -> str:
        return self.track_id

    def read(self) -> dict[str, Waveform]:
        self._fail_in("read")
        return self.inner.read()

    def mixture(self) -> Waveform:
        self._fail_in("mixture")
        return self.inner.mixture()

    def _fail_in(self, method: str) -> None:
        if self.kill_file is None:
            raise ValueError("broken file")
        if self.kill_file.name == method and not self.kill_file.exists():
            self.kill_file.touch()
            os.kill(os.getpid(), signal.SIGKILL)


# Without actors a scorer reads all stems; with actors, an actor reads the mixture and a scorer all stems.
@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.parametrize(("num_separation_actors", "at"), [(None, "read"), (1, "mixture"), (1, "read")])
def test_a_failed_track_is_reported_and_a_killed_process_replaced(
    evaluated: EvaluationReport,
    configured: Callable[..., EvaluateConfig],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    num_separation_actors: int | None,
    at: str,
) -> None:
    config = configured(
        output=str(tmp_path), mixture=False, heuristic=False, oracles=(), num_separation_actors=num_separation_actors
    )
    good, other = find_references(config)
    assert isinstance(other, ShardTrack)
    broken = FaultyTrack(inner=other, track_id="broken")
    killer = FaultyTrack(inner=other, track_id="Song 9", kill_file=tmp_path / at)
    monkeypatch.setattr(evaluate_module, "find_references", lambda _: [killer, broken, good])
    report = evaluate(config)
    assert (tmp_path / at).exists()
    assert [(result.track_id, result.failed) for result in report.track_results] == [
        ("Song 9", False),
        ("broken", True),
        ("Song 8", False),
    ]
    for song in ("Song 8", "Song 9"):
        assert sdr(report.table, "separator", song) == sdr(evaluated.table, "separator", song)
    assert [str(result) for result in report.failed] == ["separator: broken: ValueError: broken file"]
    assert "failed: separator: broken: ValueError: broken file" in capfd.readouterr().err
    assert json.loads((tmp_path / "summary.json").read_text())["failed"] == [str(report.failed[0])]
    rows = pyarrow.parquet.read_table(tmp_path / "tracks.parquet").to_pylist()
    assert [row["reason"] for row in rows] == [*[""] * 2, "ValueError: broken file", *[""] * 2]
    # Failures are not saved: only the failed track is tried again.
    monkeypatch.setattr(evaluate_module, "find_references", lambda _: [killer, other, good])
    again = evaluate(config)
    assert (again.num_reused, again.failed) == (2, ())


def write_stems(folder: Path, **stems: Waveform) -> None:
    for name, waveform in stems.items():
        write_wav(folder / f"{name}.wav", waveform, subtype="PCM_16")


def noise(seed: int, seconds: float, sample_rate: int = 11025, channels: int = 2) -> Waveform:
    samples = np.random.default_rng(seed).normal(0, 0.1, (channels, round(seconds * sample_rate)))
    return Waveform(samples=samples.astype(np.float32), sample_rate=sample_rate)


@pytest.fixture
def four_stems(tmp_path: Path) -> EvaluateConfig:
    """Config for one stereo song of four stems at 11.025 kHz, read from its folder."""
    music = tmp_path / "music"
    stems = {name: noise(number, 2.0) for number, name in enumerate(("vocals", "drums", "bass", "other"))}
    write_stems(music / "test" / "A song", **stems)
    return EvaluateConfig(
        corpus=CorpusConfig(kind="stems", path=str(music)), output=str(tmp_path / "out"), oracles=("IRM1", "MWF")
    )


def test_a_corpus_is_scored_at_its_own_sample_rate_with_all_its_stems(four_stems: EvaluateConfig) -> None:
    (track,) = find_references(four_stems)
    stems = track.read()
    assert set(stems) == {"mixture", "vocals", "drums", "bass", "other"}
    assert all((wave.sample_rate, wave.channels, wave.num_samples) == (11025, 2, 22050) for wave in stems.values())
    systems = find_systems(four_stems)
    assert [system.name for system in systems] == ["mixture", "heuristic", "IRM1", "MWF"]
    for system in systems:
        task = make_task(system, track, Path(four_stems.output))
        assert score(task).reason == ""
        scores = task.results.load_track_scores(task.key)
        # Four stems together, and vocals with the accompaniment, as in museval.
        groups = {(row["target"], row["scoring_group"]) for row in scores.table.to_pylist()}
        assert len({target for target, group in groups if group.count("+") == 3}) == 4 or system.name == "mixture"
        assert {target for target, group in groups if group.count("+") == 1} == {"vocals", "accompaniment"}


def test_a_truncated_reference_gives_a_warning(four_stems: EvaluateConfig, caplog: pytest.LogCaptureFixture) -> None:
    assert four_stems.corpus is not None
    drums = Path(four_stems.corpus.path) / "test/A song/drums.wav"
    samples, rate = soundfile.read(drums)
    soundfile.write(drums, samples[: round(0.45 * rate)], rate)
    (track,) = find_references(four_stems)
    assert track.read()["drums"].seconds == 2.0
    assert "A song: reference drums: padded, ends 1.55 s before the longest stem" in caplog.text


def test_an_accompaniment_is_added_to_a_single_estimate_only(
    four_stems: EvaluateConfig,
) -> None:
    (track,) = find_references(four_stems)
    stems = track.read()

    def names(system_name: str, *targets: str) -> set[str]:
        systems = find_systems(settings.replace(four_stems, {"targets": list(targets)}))
        system = next(system for system in systems if system.name == system_name)
        assert isinstance(system, InlineSystem)
        estimates = system.estimates(stems, track)
        if len(targets) == 1:
            total = estimates[targets[0]].samples + estimates["accompaniment"].samples
            np.testing.assert_allclose(total, stems["mixture"].samples, atol=1e-6)
        return set(estimates)

    assert names("heuristic", "drums") == names("IRM1", "drums") == {"drums", "accompaniment"}
    assert names("heuristic", "drums", "bass") == names("MWF", "drums", "bass") == {"drums", "bass"}


def test_sixteen_bit_estimates_round_trip_exactly() -> None:
    loud = noise(0, 0.5)
    loud = Waveform(samples=30 * loud.samples, sample_rate=loud.sample_rate)
    packed = Pcm16Estimates.of({"vocals": loud})
    assert packed.stems["vocals"][0].dtype == np.int16
    once = packed.to_waveforms()["vocals"].samples
    step = 2 ** np.ceil(np.log2(np.abs(loud.samples).max())) / 32768
    np.testing.assert_allclose(once, loud.samples, atol=step / 2)
    twice = Pcm16Estimates.of(packed.to_waveforms()).to_waveforms()["vocals"].samples
    assert np.array_equal(once, twice)


def test_an_unreadable_track_has_a_reason_from_the_actor_and_from_the_scorer(
    checkpoint: Path, tiny_shards: Path
) -> None:
    actor = SeparationActor(str(checkpoint), SHORT_SEGMENTS, "cpu")
    record = ShardReader(tiny_shards).manifest.tracks[0]
    missing = ShardTrack(folder=tiny_shards / "missing", record=record)
    stats, estimates = actor.separate(missing)
    assert "missing" in stats.reason
    assert estimates is None
    result = score(make_task(find_systems(EvaluateConfig(shards="x"))[0], missing, tiny_shards))
    assert (result.failed, result.reason) == (True, stats.reason)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"shards": None}, ConfigError, "shards, corpus: exactly one must be set"),
        ({"corpus": CorpusConfig()}, ConfigError, "shards, corpus: exactly one must be set"),
        ({"split": "train", "targets": ("vocals",)}, ConfigError, "targets: the checkpoint defines its targets"),
        ({"name": "IRM2"}, ConfigError, "two systems are named 'IRM2'"),
        ({"checkpoint": None, "mixture": False, "heuristic": False, "oracles": ()}, ConfigError, "nothing to score"),
        ({"estimates": "/nowhere"}, ConfigError, "folder /nowhere/test not found"),
        ({"estimates": "s3://bucket/theirs"}, ConfigError, "s3://bucket/theirs is in S3; copy it to a folder"),
    ],
)
def test_invalid_settings_raise_errors_before_anything_is_written(
    configured: Callable[..., EvaluateConfig],
    tmp_path: Path,
    changes: Mapping[str, object],
    error: type[CyclesepError],
    message: str,
) -> None:
    with pytest.raises(error, match=message):
        evaluate(configured(output=str(tmp_path / "out"), **changes))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("value", "message"),
    [(".inf", "input should be a finite number"), ("0.001", "input should be greater than or equal to 0.01")],
)
def test_infinite_and_tiny_frames_are_invalid_settings(value: str, message: str) -> None:
    with pytest.raises(ConfigError, match=f"frame_seconds: invalid value .*; {message}"):
        settings.build(EvaluateConfig, dict([parse_override(f"frame_seconds={value}")]))


def test_a_split_without_tracks_raises_corpus_error(four_stems: EvaluateConfig) -> None:
    with pytest.raises(CorpusError, match="no tracks found in split=valid"):
        find_references(settings.replace(four_stems, {"split": "valid"}))


@pytest.mark.usefixtures("ray_cluster")
def test_a_request_beyond_the_cluster_raises_config_error(
    configured: Callable[..., EvaluateConfig], tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="num_separation_actors: 64, but the cluster has 2 CPUs"):
        evaluate(configured(output=str(tmp_path), num_separation_actors=64))
    cuda = settings.replace(SHORT_SEGMENTS, {"device": "cuda"})
    with pytest.raises(ConfigError, match="the cluster has no GPU"):
        evaluate(configured(output=str(tmp_path), separation=cuda))


def test_a_truncated_result_is_not_loaded(tmp_path: Path, four_stems: EvaluateConfig) -> None:
    (track,) = find_references(four_stems)
    task = make_task(find_systems(four_stems)[0], track, tmp_path)

    def load() -> TrackResult | None:
        return task.results.load_track_result(task.key, task.results.folder.sizes("parts"))

    assert load() is None
    assert score(task) == load()
    assert load() is not None
    scores = tmp_path / "parts" / task.key.scores_file
    scores.write_bytes(scores.read_bytes()[:-1])
    assert load() is None


def test_missing_estimates_of_a_track_raise_scoring_error(four_stems: EvaluateConfig, tmp_path: Path) -> None:
    (tmp_path / "theirs/test").mkdir(parents=True)
    config = settings.replace(four_stems, {"estimates": str(tmp_path / "theirs"), "targets": ["vocals"]})
    system = next(system for system in find_systems(config) if system.name == "theirs")
    assert isinstance(system, InlineSystem)
    (track,) = find_references(config)
    with pytest.raises(ScoringError, match=r"theirs/test/A song: no accompaniment or vocals"):
        system.estimates(track.read(), track)


@pytest.fixture
def three_songs(tmp_path: Path) -> EvaluateConfig:
    """Config for three songs of three stems and a folder `theirs` with estimates of all of them."""
    for number in (1, 2, 3):
        for place in ("music", "theirs"):
            stems = {name: noise(seed, 1.0, channels=1) for seed, name in enumerate(("vocals", "drums", "bass"))}
            write_stems(tmp_path / place / "test" / f"Song {number}", **stems)
    return EvaluateConfig(
        corpus=CorpusConfig(kind="stems", path=str(tmp_path / "music")),
        estimates=str(tmp_path / "theirs"), mixture=False, heuristic=False, oracles=(), output=str(tmp_path / "out"),
    )  # fmt: skip


def tasks_of(config: EvaluateConfig) -> list[EvaluationTask]:
    return make_tasks(
        config, Results(folder=StoragePath.of(config.output)), find_systems(config), find_references(config)
    )


def test_missing_estimates_give_one_warning(
    three_songs: EvaluateConfig, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    theirs = tmp_path / "theirs/test"
    (theirs / "Song 1/._vocals.wav").write_bytes(b"")
    (theirs / "Song 1/mixture.wav").write_bytes(b"")
    tasks_of(three_songs)
    assert caplog.text == ""
    (theirs / "Song 3/drums.wav").unlink()
    tasks_of(three_songs)
    (warning,) = [record.getMessage() for record in caplog.records]
    assert warning.startswith("theirs: estimates are missing in 1 of 3 tracks (Song 3: drums); ")
    # No warning of targets that are not scored, or of a track without any estimate, which fails with its own message.
    caplog.clear()
    tasks_of(settings.replace(three_songs, {"targets": ["vocals", "bass"]}))
    shutil.rmtree(theirs / "Song 1")
    tasks_of(settings.replace(three_songs, {"targets": ["vocals", "bass"]}))
    assert caplog.text == ""
    write_stems(theirs / "Song 1", bass=noise(0, 1.0))
    tasks_of(three_songs)
    assert "estimates are missing in 2 of 3 tracks (Song 1: drums, vocals; Song 3: drums); " in caplog.text


def test_two_files_of_one_target_raise_config_error_before_anything_is_written(
    three_songs: EvaluateConfig, tmp_path: Path
) -> None:
    folder = tmp_path / "theirs/test/Song 2"
    for other in ("vocals.flac", "vocals.extra.wav"):
        (folder / other).write_bytes((folder / "vocals.wav").read_bytes())
    with pytest.raises(ConfigError, match=r"test/Song 2 contains both vocals.flac and vocals.wav; keep one of them"):
        evaluate(three_songs)
    assert not (tmp_path / "out").exists()


def test_accompaniments_alone_are_scored_together_with_the_vocals(three_songs: EvaluateConfig, tmp_path: Path) -> None:
    for folder in (tmp_path / "theirs/test").iterdir():
        shutil.rmtree(folder)
        write_stems(folder, accompaniment=noise(5, 1.0, channels=1))
    tasks = tasks_of(three_songs)
    results = [score(task) for task in tasks]
    assert [result.reason for result in results] == [""] * 3
    (row,) = summary_rows(TrackScores.of(results))
    assert (row["target"], row["scoring_group"], row["tracks"]) == ("accompaniment", "vocals+accompaniment", 3)
    assert finished_excerpts(tasks[0].results.folder) == {task.key.name for task in tasks}


def test_estimates_longer_than_the_track_are_scored_and_excerpted(three_songs: EvaluateConfig, tmp_path: Path) -> None:
    write_stems(tmp_path / "theirs/test/Song 2", vocals=noise(0, 1.5, channels=1))
    tasks = tasks_of(three_songs)
    assert [score(task).reason for task in tasks] == [""] * 3
    excerpt = Excerpt.read(tasks[1].results.folder, tasks[1].key.name)
    assert len(excerpt.estimates["vocals"]) == len(excerpt.mixture) == 11025
