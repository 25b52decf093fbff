"""Corpora in S3: ingest, reading, verification and training, with network faults from a proxy."""

import json
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import ray

from cyclesep.cli.main import main
from cyclesep.config import settings
from cyclesep.data.ingest import ingest
from cyclesep.data.shards.manifest import MANIFEST_NAME
from cyclesep.data.shards.reading import ShardReader
from cyclesep.data.shards.verification import verify
from cyclesep.errors import CorpusError, ShardError, StorageError
from cyclesep.evaluation.config import EvaluateConfig
from cyclesep.evaluation.references import find_references
from cyclesep.storage import s3_objects
from cyclesep.storage.s3_lock import S3Lock
from cyclesep.storage.s3_transfers import Upload, upload
from cyclesep.storage.uri import parse
from cyclesep.training.config import TrainConfig
from cyclesep.training.fit import fit
from tests.support.fault_proxy import Fault
from tests.support.ingest_helpers import ingest_config, write_songs
from tests.support.paths import CHECKOUT

pytestmark = pytest.mark.usefixtures("ray_cluster")


@pytest.fixture
def songs(tmp_path):
    return write_songs(tmp_path / "songs")


def upload_folder(folder: Path, prefix: str) -> None:
    """Upload the files of a corpus."""
    upload([Upload(path=path, uri=f"{prefix}/{path.name}", sha256="") for path in folder.iterdir()])


def read_all(reader: ShardReader) -> list[np.ndarray]:
    return [reader.read(track, track.stems, 0, track.num_samples) for track in reader.manifest.tracks]


def test_ingest_to_a_bucket_equals_ingest_to_a_folder(s3, prefix, songs, tmp_path):
    report = ingest(ingest_config(songs, prefix))
    local = ingest(ingest_config(songs, tmp_path / "out"))
    assert report.output == prefix
    assert report.summary().startswith(f"{prefix}: 3 tracks (3 train, 0 valid, 0 test)")
    assert report.manifest == local.manifest
    sizes = {path.name: path.stat().st_size for path in (tmp_path / "out").iterdir() if path.name != ".ingest.lock"}
    assert s3_objects.sizes(prefix) == sizes
    assert verify(prefix) == local.manifest

    reader = ShardReader(prefix + "/")
    remote_tracks, local_tracks = read_all(reader), read_all(ShardReader(tmp_path / "out"))
    assert all(np.array_equal(one, other) for one, other in zip(remote_tracks, local_tracks, strict=True))
    assert s3.server.secret_key.encode() not in pickle.dumps(reader)

    @ray.remote(num_cpus=1)
    def sums_in_a_task(sent: ShardReader, uri: str) -> list[float]:
        """Return the sums of tracks from a pickled reader and from a new one."""
        readers = (sent, ShardReader(uri))
        return [
            float(np.abs(one.read(track, track.stems, 0, track.num_samples)).sum())
            for one in readers
            for track in one.manifest.tracks
        ]

    assert ray.get(sums_in_a_task.remote(reader, prefix)) == 2 * [float(np.abs(crop).sum()) for crop in local_tracks]


def test_second_ingest_uploads_changed_tracks_only(s3, prefix, songs):
    ingest(ingest_config(songs, prefix))
    s3.proxy.clear()
    second = ingest(ingest_config(songs, prefix))
    assert (second.num_ingested, second.num_unchanged) == (0, 3)
    assert not [request for request in s3.proxy.seen("PUT") if ".ingest.lock" not in request.target]
    write_songs(songs, "d")
    (songs / "a" / "vocals.wav").write_bytes((songs / "b" / "vocals.wav").read_bytes())
    third = ingest(ingest_config(songs, prefix))
    assert (third.num_ingested, third.num_unchanged) == (2, 2)
    assert sorted(name[0] for name in s3_objects.sizes(prefix) if name.endswith(".lmdb")) == ["a", "b", "c", "d"]
    assert len(verify(prefix).tracks) == 4


def test_ingest_survives_failures_throttling_and_resets(s3, prefix, songs):
    faults = [
        Fault("status", "PUT", ".lmdb", times=2, value=503),
        Fault("reset", "PUT", ".lmdb", times=2),
        Fault("flip-sent", "PUT", ".lmdb", value=500),
        Fault("status", "PUT", ".track.json", value=500),
        Fault("status", "PUT", MANIFEST_NAME, value=503),
    ]
    with s3.proxy.injecting(*faults):
        assert ingest(ingest_config(songs, prefix)).num_ingested == 3
    assert [fault.done for fault in faults] == [fault.times for fault in faults]
    assert len(verify(prefix).tracks) == 3


def test_concurrent_ingest_to_a_prefix_is_an_error_that_explains_how_to_delete_the_lock(prefix, songs):
    lock = S3Lock(f"{prefix}/.ingest.lock")
    lock.acquire()
    try:
        with pytest.raises(CorpusError, match="another ingest is writing there, process [0-9]+ on .* delete s3://"):
            ingest(ingest_config(songs, prefix))
    finally:
        lock.release()
    assert s3_objects.sizes(prefix) == {}
    assert ingest(ingest_config(songs, prefix)).num_ingested == 3


def test_ingest_with_a_lost_lock_writes_no_manifest(prefix, songs, monkeypatch):
    def lost(_: S3Lock) -> None:
        raise StorageError("the lock was lost")

    monkeypatch.setattr(S3Lock, "check", lost)
    with pytest.raises(StorageError, match="the lock was lost"):
        ingest(ingest_config(songs, prefix))
    assert MANIFEST_NAME not in s3_objects.sizes(prefix)
    monkeypatch.undo()


def test_other_settings_are_an_error_and_a_failed_ingest_leaves_no_files(prefix, songs, tmp_path):
    (tmp_path / "bad" / "a").mkdir(parents=True)
    (tmp_path / "bad" / "a" / "vocals.wav").write_text("not audio")
    with pytest.raises(CorpusError, match="none of 1 tracks could be ingested"):
        ingest(ingest_config(tmp_path / "bad", prefix))
    assert s3_objects.sizes(prefix) == {}
    ingest(ingest_config(songs, prefix))
    with pytest.raises(CorpusError, match=f"{prefix}: was ingested with sample_rate=8000, not 16000"):
        ingest(ingest_config(songs, prefix, sample_rate=16000))


SCRIPT = """
import sys
from pathlib import Path
sys.path[:0] = [sys.argv[1]]
from tests.support.ingest_helpers import ingest_config
from cyclesep.cluster.connect import connect
from cyclesep.data.ingest import ingest
with connect():
    ingest(ingest_config(Path(sys.argv[2]), sys.argv[3]))
"""


def test_ingest_killed_during_upload_publishes_no_corpus_and_can_be_resumed(s3, prefix, tmp_path):
    songs = write_songs(tmp_path / "songs", "abcdef")
    release = threading.Event()
    held = [Fault("hold", "PUT", f"/{name}-", value=release) for name in "ef"]
    arguments = [str(CHECKOUT), str(songs), prefix]
    address = {"RAY_ADDRESS": ray.get_runtime_context().gcs_address}
    with s3.proxy.injecting(*held):
        process = subprocess.Popen(
            [sys.executable, "-c", SCRIPT, *arguments], env={**os.environ, **address}, stderr=subprocess.DEVNULL
        )
        deadline = time.monotonic() + 120
        while sum(fault.done for fault in held) < 2:
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
        process.wait()
        with pytest.raises(ShardError, match=f"{prefix}: manifest.json not found, so no ingest was finished here"):
            ShardReader(prefix)
        assert ".ingest.lock" in s3_objects.sizes(prefix)
    release.set()
    report = ingest(ingest_config(songs, prefix))
    assert (report.num_unchanged, report.num_ingested) == (4, 2)
    assert len(verify(prefix).tracks) == 6
    assert ".ingest.lock" not in s3_objects.sizes(prefix)


def test_only_shards_that_are_read_are_downloaded_once(s3, prefix, songs):
    ingest(ingest_config(songs, prefix))
    s3.proxy.clear()
    reader = ShardReader(prefix)
    assert s3.proxy.seen("GET", ".lmdb") == []
    track = reader.manifest.tracks[1]
    for start in (0, 100, 1500):
        reader.read(track, ["vocals"], start, 500)
    ShardReader(prefix).read(track, ["drums"], 0, 500)
    (request,) = s3.proxy.seen("GET", ".lmdb")
    assert track.shards[0].name in request.target


def test_corpus_larger_than_the_cache_is_read_within_its_limit(prefix, tmp_path, monkeypatch):
    songs = write_songs(tmp_path / "songs", "abcdef")
    local = ingest(ingest_config(songs, tmp_path / "out"))
    upload_folder(tmp_path / "out", prefix)
    largest = max(shard.bytes for track in local.manifest.tracks for shard in track.shards)
    monkeypatch.setenv("CYCLESEP_CACHE_GIB", str(2.5 * largest / 2**30))
    remote_reader, local_reader = ShardReader(prefix), ShardReader(tmp_path / "out")
    for _ in range(2):
        pairs = zip(read_all(remote_reader), read_all(local_reader), strict=True)
        assert all(np.array_equal(one, other) for one, other in pairs)
    cached = list((tmp_path / "cache").glob("*.lmdb"))
    assert len(cached) == 2
    # Evicted files are unmapped, otherwise they would still occupy disk space.
    maps = Path("/proc/self/maps").read_text()
    assert sum(f"{tmp_path}/cache" in line and "(deleted)" in line for line in maps.splitlines()) <= 1


def test_cached_file_with_a_damaged_index_is_downloaded_again(s3, prefix, songs, tmp_path):
    ingest(ingest_config(songs, prefix))
    reader = ShardReader(prefix)
    track = reader.manifest.tracks[0]
    with reader.local_path(track.shards[0]) as path:
        content = bytearray(path.read_bytes())
        # In LMDB's tree, before the first record.
        content[min(offset for offset, _ in track.shards[0].records) - 8] ^= 1
        path.write_bytes(content)
    s3.proxy.clear()
    ingest(ingest_config(songs, tmp_path / "out"))
    expected = ShardReader(tmp_path / "out").read(track, track.stems, 0, track.num_samples)
    assert np.array_equal(reader.read(track, track.stems, 0, track.num_samples), expected)
    assert len(s3.proxy.seen("GET", track.shards[0].name)) == 1


def test_error_for_a_damaged_record_in_the_cache_has_a_remedy(prefix, songs):
    ingest(ingest_config(songs, prefix))
    reader = ShardReader(prefix)
    track = reader.manifest.tracks[0]
    with reader.local_path(track.shards[0]) as path:
        content = bytearray(path.read_bytes())
        content[sum(track.shards[0].records[0]) - 1] ^= 1
        path.write_bytes(content)
    with pytest.raises(ShardError, match=rf"{path}.* segment 0: .*; delete this file of the shard cache"):
        reader.read(track, track.stems, 0, 100)
    path.unlink()
    ShardReader(prefix).read(track, track.stems, 0, 100)


def test_verify_bypasses_the_cache(s3, prefix, songs):
    manifest = ingest(ingest_config(songs, prefix)).manifest
    read_all(ShardReader(prefix))
    bucket, key = parse(f"{prefix}/{manifest.tracks[0].shards[0].name}")
    content = bytearray(s3.client().get_object(Bucket=bucket, Key=key)["Body"].read())
    content[-1000] ^= 1
    s3.client().put_object(Bucket=bucket, Key=key, Body=bytes(content))
    s3.client().delete_object(Bucket=bucket, Key=f"{parse(prefix).key}/{manifest.tracks[1].shards[0].name}")
    with pytest.raises(ShardError, match="SHA-256 mismatch") as damage:
        verify(prefix)
    assert f"{manifest.tracks[1].shards[0].name}: object not found" in str(damage.value)
    assert f"s3://{bucket}/{key}" in str(damage.value)


def test_damaged_manifest_in_a_bucket_is_an_error(prefix, songs):
    ingest(ingest_config(songs, prefix))
    uri = f"{prefix}/{MANIFEST_NAME}"
    s3_objects.write_text(uri, s3_objects.read_text(uri).replace('"channels":1', '"channels":2', 1))
    with pytest.raises(ShardError, match=f"{uri}: damaged, its checksum does not match"):
        ShardReader(prefix)


def test_training_streams_from_a_bucket(s3, prefix, tiny_shards, tmp_path):
    upload_folder(tiny_shards, prefix)
    small = {
        "crops.crop_seconds": 0.5,
        "crops.batch_size": 4,
        "method.separator.channels": 8,
        "method.separator.depth": 2,
        "num_validation_crops": 2,
        "num_dataloader_workers": 1,
        "validate_every": 2,
        "steps": 2,
    }
    config = settings.replace(TrainConfig(shards=prefix, output_dir=str(tmp_path / "runs"), name="s3"), small)
    s3.proxy.clear()
    report = fit(config)
    assert report.metadata.manifest_digest == ShardReader(tiny_shards).manifest.digest
    assert json.loads((report.folder.path / "metrics.jsonl").read_text().splitlines()[-1])["step"] == 2
    # The worker and its data loader share one cache; in this test, the driver has another one.
    names = {shard.name for track in ShardReader(tiny_shards).manifest.tracks for shard in track.shards}
    assert max(len(s3.proxy.seen("GET", name)) for name in names) <= 2


def test_references_are_read_from_a_bucket(prefix, tiny_shards):
    upload_folder(tiny_shards, prefix)
    remote_tracks = find_references(EvaluateConfig(shards=prefix))
    local_tracks = find_references(EvaluateConfig(shards=str(tiny_shards)))
    assert [track.track_id for track in remote_tracks] == ["Song 8", "Song 9"]
    assert remote_tracks[0].digest() == local_tracks[0].digest()
    assert np.array_equal(remote_tracks[0].read()["vocals"].samples, local_tracks[0].read()["vocals"].samples)


def test_commands_report_problems_of_a_bucket_in_one_line(songs, prefix, capsys):
    def error_of(*arguments: str) -> str:
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        assert ended.value.code == 1
        (line,) = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
        return line

    corpus = ("corpus.kind=stems", f"corpus.path={songs}")
    assert "s3://nowhere/x: bucket not found" in error_of("ingest", *corpus, "output=s3://nowhere/x")
    assert f"{prefix}: manifest.json not found" in error_of("train", f"shards={prefix}")
    assert "s3://nowhere/x/manifest.json: bucket not found" in error_of("verify", "s3://nowhere/x")
    assert f"{prefix}: manifest.json not found" in error_of("evaluate", f"shards={prefix}")
    assert "nowhere: not found" in error_of("ingest", "corpus.kind=stems", "corpus.path=nowhere", f"output={prefix}")
