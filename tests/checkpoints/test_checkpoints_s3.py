"""Checkpoints in S3: cached downloads, integrity checks, and errors of one line."""

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch

import cyclesep
from cyclesep.checkpoints.loaded_separator import load_separator
from cyclesep.checkpoints.metadata import CONFIG_FILE, METADATA_FILE, TRAINING_STATE_FILE, WEIGHTS_FILE, read_metadata
from cyclesep.checkpoints.run_folder import download_checkpoint, find_run
from cyclesep.cli.info.config import InfoConfig
from cyclesep.cli.info.describe import describe
from cyclesep.errors import CheckpointError, CyclesepError
from cyclesep.storage import download_cache, s3_objects
from cyclesep.storage.path import StoragePath
from tests.support.fault_proxy import Fault
from tests.support.tiny_evaluation import save_separator

if TYPE_CHECKING:
    from tests.support.s3_server import S3

STEP = "step-00000002"


@pytest.fixture
def run(prefix: str, tmp_path: Path) -> StoragePath:
    """A finished run in S3 with one checkpoint."""
    local, run = save_separator(tmp_path / "made"), StoragePath.of(f"{prefix}/runs/tiny")
    run.child(STEP).copy_files(StoragePath.of(local), last=METADATA_FILE)
    run.write_text(CONFIG_FILE, (local / CONFIG_FILE).read_text())
    find_run(run).write_result(best=STEP, last=STEP)
    return run


def test_run_and_checkpoint_in_s3_load_like_local_ones(run: StoragePath, tmp_path: Path) -> None:
    local = load_separator(tmp_path / "made")
    for uri in (run.uri, f"{run.uri}/{STEP}", f"{run.uri}/"):
        remote = load_separator(uri)
        assert remote.digest == local.digest
        assert remote.uri == f"{run.uri}/{STEP}"
        assert remote.path == download_checkpoint(uri)
    assert cyclesep.load(run.uri, device="cpu").targets == ("vocals",)


def test_weights_are_downloaded_once_and_the_training_state_on_demand(s3: "S3", run: StoragePath) -> None:
    for _ in range(3):
        load_separator(run.uri)
    assert len(s3.proxy.seen("GET", WEIGHTS_FILE)) == 1
    assert len(s3.proxy.seen("GET", TRAINING_STATE_FILE)) == 0
    copy = download_checkpoint(run.uri)
    assert not (copy / TRAINING_STATE_FILE).exists()
    run.child(STEP).local_path(TRAINING_STATE_FILE)
    assert torch.load(copy / TRAINING_STATE_FILE, weights_only=True)["step"] == 0


def test_overwritten_checkpoint_is_downloaded_again(run: StoragePath, tmp_path: Path) -> None:
    before = download_checkpoint(run.uri)
    with run.child(STEP).replacing(METADATA_FILE) as file:
        file.write_text((tmp_path / "made" / METADATA_FILE).read_text().replace('"step": 0', '"step": 7'))
    after = download_checkpoint(run.uri)
    assert after != before
    assert read_metadata(after).step == read_metadata(run.child(STEP)).step == 7


def test_truncated_copy_is_downloaded_again(run: StoragePath) -> None:
    copy = download_checkpoint(run.uri) / WEIGHTS_FILE
    whole = copy.read_bytes()
    copy.write_bytes(whole[:100])
    load_separator(run.uri)
    assert copy.read_bytes() == whole


def test_several_processes_download_a_file_once(s3: "S3", run: StoragePath) -> None:
    script = (
        "import sys; from cyclesep.storage.path import StoragePath; "
        "print(StoragePath.of(sys.argv[1]).local_path(sys.argv[2]))"
    )
    command = [sys.executable, "-c", script, f"{run.uri}/{STEP}", TRAINING_STATE_FILE]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    assert len({process.communicate()[0] for process in processes}) == 1
    assert [process.returncode for process in processes] == [0, 0, 0]
    assert len(s3.proxy.seen("GET", TRAINING_STATE_FILE)) == 1


def test_file_damaged_in_transit_is_downloaded_again(s3: "S3", run: StoragePath, tmp_path: Path) -> None:
    with s3.proxy.injecting(Fault("flip", "GET", WEIGHTS_FILE, value=5000)):
        loaded = load_separator(run.uri)
    assert loaded.digest == load_separator(tmp_path / "made").digest
    assert len(s3.proxy.seen("GET", WEIGHTS_FILE)) == 2


def test_old_unused_copies_are_deleted_except_the_latest(
    run: StoragePath, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(download_cache, "KEPT_SECONDS", -1.0)
    monkeypatch.setattr(download_cache, "NUM_KEPT", 2)
    copies = []
    for name in ("a", "b", "c"):
        run.child(name).copy_files(StoragePath.of(tmp_path / "made"), last=METADATA_FILE)
        copies.append(run.child(name).local_path(METADATA_FILE))
    assert [folder.exists() for folder in copies] == [False, True, True]


def error_of(uri: str) -> str:
    with pytest.raises(CyclesepError) as raised:
        load_separator(uri)
    message = str(raised.value)
    assert "\n" not in message
    return message


def test_errors_for_missing_or_damaged_files_name_the_uri(s3: "S3", run: StoragePath, prefix: str) -> None:
    assert f"{prefix}/runs/other: no checkpoint or finished run found" in error_of(f"{prefix}/runs/other")
    assert "s3://nowhere/runs/tiny" in error_of("s3://nowhere/runs/tiny")
    folder = run.child(STEP)
    bucket, key = folder.uri.removeprefix("s3://").split("/", 1)
    s3.client().put_object(Bucket=bucket, Key=f"{key}/{WEIGHTS_FILE}", Body=b"other", Metadata={"sha256": "0" * 64})
    weights = folder.file_uri(WEIGHTS_FILE)
    assert f"{weights}: SHA-256 mismatch" in error_of(run.uri)
    s3.client().put_object(Bucket=bucket, Key=f"{key}/{WEIGHTS_FILE}", Body=b"other")
    assert f"{weights}: missing or damaged" in error_of(run.uri)
    folder.delete(WEIGHTS_FILE)
    assert f"{weights}: missing or damaged" in error_of(run.uri)
    folder.write_text(METADATA_FILE, "{")
    assert f"{folder.file_uri(METADATA_FILE)}: missing or damaged" in error_of(run.uri)


def test_access_denied_is_not_reported_as_missing(s3: "S3", run: StoragePath) -> None:
    s3.configure(access_key=s3.server.other_key)
    assert "access denied" in error_of(run.uri)
    with pytest.raises(CyclesepError, match="access denied"):
        describe(run.uri, InfoConfig(paths=(run.uri,)))


def test_run_in_s3_is_described(run: StoragePath) -> None:
    described = describe(run.uri, InfoConfig(paths=(run.uri,)))
    assert described.kind == "run"
    assert described.path == run.uri
    assert described.checkpoints == (STEP,)  # type: ignore[union-attr]
    assert described.best.parameters > 1000  # type: ignore[union-attr]
    assert described.disk_bytes == sum(stored.bytes for stored in s3_objects.list_objects(run.uri).values())
    with pytest.raises(CheckpointError, match="no checkpoint or finished run found"):
        describe(f"{run.uri}/nothing", InfoConfig(paths=(run.uri,)))
