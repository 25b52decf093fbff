"""Growing files of a run: appended to on disk, uploaded completely to S3, and continued by the next worker."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from cyclesep.checkpoints.run_folder import RunFolder
from cyclesep.errors import StorageError
from cyclesep.storage.path import StoragePath
from cyclesep.training import loggers
from cyclesep.training.loggers import TensorBoard
from cyclesep.training.run_sync import run_files

if TYPE_CHECKING:
    from tests.support.s3_server import S3


@pytest.fixture(params=["local", "s3"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> StoragePath:
    folder = StoragePath.of(
        tmp_path / "run" if request.param == "local" else f"{request.getfixturevalue('prefix')}/run"
    )
    folder.write_text("config.yaml", "")
    return folder


def steps(folder: StoragePath) -> list[int]:
    return [json.loads(line)["step"] for line in folder.read_text(RunFolder.METRICS).splitlines()]


def test_the_next_worker_appends_to_metrics_and_logs_without_repeated_steps(folder: StoragePath) -> None:
    with run_files(folder, 0) as written:
        written.add_metrics(2, {"sdr": 1.0})
        written.upload()
        assert steps(folder) == [2]
        written.add_metrics(4, {"sdr": float("nan")})
        written.add_metrics(6, {"sdr": 3.0})
        with (written.path / RunFolder.METRICS).open("a") as file:
            file.write('{"step": 8, "sd')
        (written.path / "logs").mkdir()
        (written.path / "logs" / "rank-0.jsonl").write_text("one\n")
    with run_files(folder, 0) as written:
        written.discard_metrics_after(4)
        written.add_metrics(6, {"sdr": 4.0})
        with (written.path / "logs" / "rank-0.jsonl").open("a") as file:
            file.write("two\n")
    assert steps(folder) == [2, 4, 6]
    assert json.loads(folder.read_text(RunFolder.METRICS).splitlines()[-1])["sdr"] == 4.0
    assert folder.read_text("logs/rank-0.jsonl") == "one\ntwo\n"


def fail_after_a_line(folder: StoragePath) -> None:
    with run_files(folder, 0) as written:
        written.add_metrics(2, {})
        raise KeyError


def test_files_of_a_failed_worker_are_uploaded(folder: StoragePath) -> None:
    with pytest.raises(KeyError):
        fail_after_a_line(folder)
    assert steps(folder) == [2]


def test_a_location_that_cannot_be_written_raises(s3: "S3", prefix: str) -> None:
    with run_files(StoragePath.of(prefix), 0) as written:
        written.add_metrics(2, {})
        s3.configure(access_key=s3.server.other_key)
        with pytest.raises(StorageError, match="access denied"):
            written.upload()
        s3.configure()


def test_unchanged_files_are_not_uploaded_again(s3: "S3", prefix: str) -> None:
    with run_files(StoragePath.of(prefix), 0) as written:
        (written.path / "once").write_text("x")
        for step in range(3):
            written.add_metrics(step, {})
            written.upload()
    assert len(s3.proxy.seen("PUT", "once")) == 1
    assert len(s3.proxy.seen("PUT", RunFolder.METRICS)) == 3


def test_large_event_files_are_closed_so_that_each_is_uploaded_once(
    s3: "S3", prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loggers, "_MAX_EVENT_FILE_BYTES", 10_000)
    folder, noise = StoragePath.of(prefix), np.random.default_rng(0).uniform(-1, 1, (1, 8000)).astype(np.float32)
    with run_files(folder, 0) as written:
        board = TensorBoard(written.path, 0)
        for step in range(4):
            board.scalars(step, {"loss": float(step)})
            board.sample(step, "crop", noise, 8000, np.zeros((8, 8, 3), np.uint8))
            board.flush()
            written.upload()
        board.close()
    files = folder.child(RunFolder.TENSORBOARD).sizes("")
    assert len(files) == 4
    assert len(s3.proxy.seen("PUT", "events.out")) == 4
    # Read file by file: the directory reader skips files whose names do not sort, such as ...9 and ...10 in one second.
    local = folder.child(RunFolder.TENSORBOARD).local_path(*files)
    events = [EventAccumulator(str(local / name), size_guidance={"audio": 0}).Reload() for name in files]
    scalars = [event for file in events for event in file.Scalars("loss")]
    assert sorted((event.step, event.value) for event in scalars) == [(0, 0.0), (1, 1.0), (2, 2.0), (3, 3.0)]
    assert sum(len(file.Audio("crop")) for file in events) == 4
