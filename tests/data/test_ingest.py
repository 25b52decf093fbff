import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest
import ray
import soundfile
import stempeg

from cyclesep.audio import audio_io
from cyclesep.data import ingest as ingest_module
from cyclesep.data.config import IngestConfig
from cyclesep.data.corpora.config import CorpusConfig
from cyclesep.data.corpora.corpus import find_tracks
from cyclesep.data.ingest import FailedTrack, ingest
from cyclesep.data.preprocess import prepare
from cyclesep.data.shards.ingest_store import IngestOutput
from cyclesep.data.shards.manifest import MANIFEST_NAME
from cyclesep.data.shards.reading import ShardReader
from cyclesep.data.shards.verification import verify
from cyclesep.errors import CorpusError, ShardError, StorageError
from tests.support.ingest_helpers import ingest_config, write_noise, write_songs
from tests.support.paths import CHECKOUT

pytestmark = pytest.mark.usefixtures("ray_cluster")


def state_of(folder: Path) -> dict[str, tuple[int, int]]:
    """Return inode and modification time of each file except the lock; unchanged files keep both."""
    return {
        path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in folder.iterdir() if path.suffix != ".lock"
    }


@pytest.fixture
def songs(tmp_path):
    return write_songs(tmp_path / "songs")


def test_shards_contain_preprocessed_audio_of_mixed_rates_channels_and_formats(tmp_path):
    song = tmp_path / "songs" / "one"
    write_noise(song / "vocals.flac", seed=1, rate=44100, channels=2)
    write_noise(song / "bass.wav", 0.25, seed=2, rate=22050)
    write_noise(song / "mix.wav", seed=3, rate=16000, channels=2, subtype="FLOAT")
    config = ingest_config(tmp_path / "songs", tmp_path / "out", sample_rate=16000)
    report = ingest(config)
    reader = ShardReader(tmp_path / "out")
    (track,) = reader.manifest.tracks
    (source,) = find_tracks(config.corpus)
    prepared = prepare(source.read(), sample_rate=16000, channels=1)
    assert track.stems == ("mixture", "bass", "vocals")
    assert (track.num_samples, track.num_segments) == (4800, 3)
    found = reader.read(track, track.stems, 0, 4800)
    for stem, samples in zip(track.stems, found, strict=True):
        np.testing.assert_array_equal(samples, audio_io.from_pcm16(audio_io.to_pcm16(prepared.stems[stem])))
    of_track, of_corpus = report.warnings
    assert of_track == f"one: the mixture is not the sum of the stems, the residual is {track.residual_db:.1f} dB"
    assert "no track is in the valid split" in of_corpus
    verify(tmp_path / "out")


def test_musdb18_excerpt_is_a_test_track_with_its_residual(tmp_path):
    corpus = CorpusConfig(kind="musdb18", path=stempeg.example_stem_path())
    report = ingest(IngestConfig(corpus=corpus, output=str(tmp_path / "out")))
    (track,) = report.manifest.tracks
    assert (track.split, track.sample_rate, track.channels) == ("test", 44100, 2)
    assert set(track.stems) == {"mixture", "vocals", "drums", "bass", "other"}
    assert track.residual_db == pytest.approx(-15.4, abs=0.1)
    assert "1 tracks (0 train, 0 valid, 1 test)" in report.summary()


def test_unpaired_recordings_are_tracks_with_one_stem(tmp_path):
    write_noise(tmp_path / "piano" / "1.wav")
    write_noise(tmp_path / "rest" / "1.wav", channels=2)
    paths = {"target_path": str(tmp_path / "piano"), "background_path": str(tmp_path / "rest")}
    corpus = CorpusConfig(kind="unpaired", target="piano", **paths)
    report = ingest(IngestConfig(corpus=corpus, output=str(tmp_path / "out"), sample_rate=16000, channels=1))
    assert {track.stems for track in report.manifest.tracks} == {("piano",), ("mixture",)}
    assert report.manifest.stems == ("mixture", "piano")


def test_failed_tracks_are_listed_with_reasons_and_others_are_ingested(tmp_path, songs):
    (songs / "b" / "drums.wav").write_text("not audio")
    (songs / "empty").mkdir()
    soundfile.write(songs / "c" / "drums.wav", np.array([0.1, np.nan] * 2000), 8000, subtype="FLOAT")
    write_noise(songs / "short" / "vocals.wav", 3 / 8000)
    report = ingest(ingest_config(songs, tmp_path / "out"))
    reasons = {failure.track_id: failure.reason for failure in report.failed}
    assert list(reasons) == ["b", "c", "empty", "short"]
    for name, reason in {"b": "neither libsndfile", "c": "NaN", "empty": "no audio files", "short": "0.0004 s"}.items():
        assert reason in reasons[name]
        assert f"failed: {name}: {reasons[name]}" in report.summary().splitlines()
    assert [track.track_id for track in ShardReader(tmp_path / "out").manifest.tracks] == ["a"]
    verify(tmp_path / "out")


def test_warnings_about_the_corpus(tmp_path):
    for number in range(3):
        write_noise(tmp_path / "songs" / "train" / f"{number}" / ("Vocals.wav" if number else "vocals.wav"))
        write_noise(tmp_path / "songs" / "train" / f"{number}" / "drums.wav", seed=1)
    write_noise(tmp_path / "songs" / "test" / "last" / "vocals.wav")
    summary = ingest(ingest_config(tmp_path / "songs", tmp_path / "out")).summary()
    assert "warning: stems vocals (2 tracks) and Vocals (2 tracks) differ in case only" in summary
    assert "warning: no track is in the valid split" in summary
    write_noise(tmp_path / "songs" / "valid" / "new" / "vocals.wav")
    assert "no track is in the valid" not in ingest(ingest_config(tmp_path / "songs", tmp_path / "out")).summary()


def test_ingest_without_any_valid_track_leaves_no_files(tmp_path):
    (tmp_path / "songs" / "a").mkdir(parents=True)
    (tmp_path / "songs" / "a" / "vocals.wav").write_text("not audio")
    with pytest.raises(CorpusError, match=r"none of 1 tracks could be ingested; a: .*vocals\.wav: neither"):
        ingest(ingest_config(tmp_path / "songs", tmp_path / "out"))
    with pytest.raises(CorpusError, match="nowhere: not found"):
        ingest(ingest_config(tmp_path / "nowhere", tmp_path / "out"))
    assert [path.name for path in tmp_path.iterdir()] == ["songs"]


def test_second_run_has_nothing_to_do(tmp_path, songs):
    first = ingest(ingest_config(songs, tmp_path / "out"))
    before = state_of(tmp_path / "out")
    second = ingest(ingest_config(songs, tmp_path / "out"))
    assert (first.num_ingested, first.num_unchanged, second.num_ingested, second.num_unchanged) == (3, 0, 0, 3)
    assert "nothing to do" in second.summary()
    assert "nothing to do" not in first.summary()
    assert state_of(tmp_path / "out") == before


def test_only_new_and_changed_tracks_are_converted_and_removed_ones_deleted(tmp_path, songs):
    ingest(ingest_config(songs, tmp_path / "out"))
    before = state_of(tmp_path / "out")
    write_songs(songs, "abcd"[3:])
    write_noise(songs / "b" / "vocals.wav", 0.6)
    shutil.rmtree(songs / "c")
    report = ingest(ingest_config(songs, tmp_path / "out"))
    assert (report.num_ingested, report.num_unchanged) == (2, 1)
    after = state_of(tmp_path / "out")
    assert {name[0] for name in after if name in before and before[name] == after[name]} == {"a", "i"}
    assert sorted(name[0] for name in after if name.endswith(".lmdb")) == ["a", "b", "d"]
    assert [track.track_id for track in verify(tmp_path / "out").tracks] == ["a", "b", "d"]


def test_error_for_other_settings_or_music_has_both_values(tmp_path, songs):
    ingest(ingest_config(songs, tmp_path / "out"))
    before = state_of(tmp_path / "out")
    with pytest.raises(
        CorpusError, match="was ingested with sample_rate=8000, not 16000; choose another output or delete"
    ):
        ingest(ingest_config(songs, tmp_path / "out", sample_rate=16000))
    with pytest.raises(CorpusError, match="was ingested with corpus.path=.*/songs, not .*/others;"):
        ingest(ingest_config(write_songs(tmp_path / "others"), tmp_path / "out"))
    assert state_of(tmp_path / "out") == before


def test_ingests_of_equal_music_have_equal_digests(tmp_path, songs):
    one, two = (ingest(ingest_config(songs, tmp_path / name)).manifest for name in ("one", "two"))
    assert one == two
    assert (tmp_path / "one" / MANIFEST_NAME).read_bytes() == (tmp_path / "two" / MANIFEST_NAME).read_bytes()
    shutil.copytree(songs, tmp_path / "copy")
    three = ingest(ingest_config(tmp_path / "copy", tmp_path / "three")).manifest
    assert three.digest == one.digest


def test_concurrent_ingest_to_a_folder_is_an_error(tmp_path, songs, monkeypatch):
    monkeypatch.setattr("cyclesep.storage.path._LOCAL_OWNER_SECONDS", 0.1)
    folder = tmp_path / "out"
    message = f"another ingest is writing there, process {os.getpid()} on "
    with IngestOutput(str(folder)).exclusive_lock(), pytest.raises(CorpusError, match=message):
        ingest(ingest_config(songs, folder))
    assert not folder.exists()
    assert ingest(ingest_config(songs, folder)).num_ingested == 3


def test_leftovers_of_an_interrupted_run_are_deleted_and_unrelated_files_kept(tmp_path, songs):
    folder = tmp_path / "out"
    ingest(ingest_config(songs, folder))
    (folder / MANIFEST_NAME).unlink()
    leftovers = [
        ".song-0123456789abcdef-0.lmdb.89abcdef.partial",
        "song-0123456789abcdef-0.lmdb",
        f".{MANIFEST_NAME}.01234567.partial",
    ]
    for name in [*leftovers, "README.txt"]:
        (folder / name).write_text("x")
    with pytest.raises(ShardError, match=r"manifest\.json not found"):
        ShardReader(folder)
    report = ingest(ingest_config(songs, folder))
    assert (report.num_ingested, report.num_unchanged) == (0, 3)
    assert not any((folder / name).exists() for name in leftovers)
    assert (folder / "README.txt").exists()
    verify(folder)


def test_only_tracks_with_a_damaged_shard_or_record_are_converted_again(tmp_path, songs):
    folder = tmp_path / "out"
    manifest = ingest(ingest_config(songs, folder)).manifest
    (folder / manifest.tracks[0].shards[0].name).unlink()
    next(folder.glob("b-*.track.json")).write_text("{}")
    (folder / MANIFEST_NAME).write_text("{}")
    report = ingest(ingest_config(songs, folder))
    assert (report.num_ingested, report.num_unchanged) == (2, 1)
    assert verify(folder) == manifest


SCRIPT = """
import sys
from pathlib import Path
sys.path[:0] = [{tests!r}]
from tests.support.ingest_helpers import ingest_config
from cyclesep.cluster.connect import connect
from cyclesep.data.ingest import ingest
with connect(num_cpus=2):
    ingest(ingest_config(Path(sys.argv[1]), Path(sys.argv[2])))
"""


def test_killed_ingest_publishes_no_corpus_and_can_be_resumed(tmp_path):
    songs, folder = tmp_path / "songs", tmp_path / "out"
    for seed in range(24):
        write_noise(songs / f"song {seed}" / "vocals.wav", 60.0, seed=seed)
        write_noise(songs / f"song {seed}" / "drums.wav", 60.0, seed=100 + seed)
    # For files of the killed Ray cluster. Ray creates sockets in sub-folders, and if their paths exceed 107 characters,
    # it waits a minute for its dashboard.
    short = tempfile.mkdtemp(prefix="k", dir="/tmp")
    script = SCRIPT.format(tests=str(CHECKOUT))
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(songs), str(folder)],
        env={**os.environ, "TMPDIR": short},
        stderr=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + 90
        while len(list(folder.glob("*.track.json"))) < 3:
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
        with pytest.raises(ShardError, match=r"manifest\.json not found"):
            ShardReader(folder)
        report = ingest(ingest_config(songs, folder))
    finally:
        process.kill()
        shutil.rmtree(short, ignore_errors=True)
    assert report.num_unchanged >= 3
    assert report.num_unchanged + report.num_ingested == 24
    assert len(verify(folder).tracks) == 24
    assert not list(folder.glob(".*.partial"))


def test_unwritable_output_is_a_storage_error(tmp_path, songs):
    (tmp_path / "file").write_text("x")
    with pytest.raises(StorageError, match="file/out: cannot be written"):
        ingest(ingest_config(songs, tmp_path / "file" / "out"))


def test_full_disk_ends_the_ingest_and_other_errors_only_the_track(songs):
    (track, *_) = find_tracks(ingest_config(songs, songs).corpus)

    @ray.remote(max_retries=0)
    def fail(kind):
        if kind == "death":
            os._exit(1)
        raise {"full": StorageError("x: cannot be written (full)"), "bug": ValueError("two\nlines")}[kind]

    with pytest.raises(StorageError, match=r"^x: cannot be written \(full\)$"):
        ingest_module._outcome(fail.remote("full"), track)
    assert ingest_module._outcome(fail.remote("bug"), track) == FailedTrack(
        track_id="a", reason="ValueError: two lines"
    )
    assert "its task died (WorkerCrashedError)" in ingest_module._outcome(fail.remote("death"), track).reason
