"""Evaluations whose driver or node is killed: finished results are kept, and the final table is identical."""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest

from cyclesep.data.corpora.composer.config import SyntheticConfig
from cyclesep.data.corpora.composer.track import synthetic_tracks
from cyclesep.data.corpora.composer.writers import write_musdb_hq
from tests.support.paths import CHECKOUT
from tests.support.tiny_evaluation import save_separator

DEADLINE_SECONDS = 200.0


@dataclass(kw_only=True)
class ClusterHost:
    """The process that runs the cluster."""

    process: subprocess.Popen[str]
    address: str
    environment: dict[str, str]

    def send(self, line: str) -> None:
        """Send a command and wait until it is done."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print(line, file=self.process.stdin, flush=True)
        # Ray may print to stdout as well.
        while f"{line}: done" not in (answer := self.process.stdout.readline()):
            assert answer, "the cluster has stopped"

    def start_driver(self, *arguments: str, output: Path) -> subprocess.Popen[str]:
        """Start `cyclesep evaluate` in a process of its own."""
        main = "from cyclesep.cli.main import main; main()"
        with output.with_suffix(".log").open("a") as log:
            return subprocess.Popen(
                [sys.executable, "-c", main, "evaluate", *arguments, f"output={output}"],
                env={**self.environment, "RAY_ADDRESS": self.address},
                stdout=log,
                stderr=log,
            )


@pytest.fixture(scope="module")
def host() -> Iterator[ClusterHost]:
    """A cluster of one node with one CPU; tests add others."""
    folder = tempfile.mkdtemp(prefix="cyclesep-kills-", dir="/tmp")
    environment = {**os.environ, "RAY_TMPDIR": folder, "OMP_NUM_THREADS": "1"}
    environment.pop("RAY_ADDRESS", None)
    process = subprocess.Popen(
        [sys.executable, str(CHECKOUT / "tests" / "support" / "cluster_host.py")],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        assert process.stdout is not None
        address = next(line.strip() for line in process.stdout if line.count(":") == 1 and line[0].isdigit())
        yield ClusterHost(process=process, address=address, environment=environment)
    finally:
        assert process.stdin is not None
        process.stdin.close()
        process.wait(60)
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def arguments(tmp_path_factory: pytest.TempPathFactory, tiny_shards: Path) -> list[str]:
    """Arguments for six songs with mixture, an untrained separator and an oracle: 18 tasks."""
    checkpoint = save_separator(tmp_path_factory.mktemp("checkpoint"))
    small = ["separation.segment_seconds=1.5", "separation.context_seconds=0.2", "heuristic=false"]
    return [f"checkpoint={checkpoint}", f"shards={tiny_shards}", "split=train", *small]


@pytest.fixture(scope="module")
def expected(host: ClusterHost, arguments: list[str], tmp_path_factory: pytest.TempPathFactory) -> pyarrow.Table:
    """The table of an uninterrupted run."""
    output = tmp_path_factory.mktemp("uninterrupted") / "out"
    assert wait_for_exit(host.start_driver(*arguments, output=output), output) == 0
    return pyarrow.parquet.read_table(output / "scores.parquet")


def wait_for_exit(driver: subprocess.Popen[str], output: Path, seconds: float = DEADLINE_SECONDS) -> int:
    try:
        return driver.wait(seconds)
    except subprocess.TimeoutExpired:
        driver.kill()
        raise AssertionError(output.with_suffix(".log").read_text()[-3000:]) from None


def parts(output: Path) -> dict[str, int]:
    """Return the finished results and their modification times."""
    return {path.name: path.stat().st_mtime_ns for path in (output / "parts").glob("*.json")}


def wait_for_parts(output: Path, count: int, driver: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + DEADLINE_SECONDS
    while len(parts(output)) < count:
        assert driver.poll() is None, output.with_suffix(".log").read_text()[-3000:]
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_a_repeatedly_killed_driver_resumes_with_an_identical_table(
    host: ClusterHost, arguments: list[str], expected: pyarrow.Table, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    rng = np.random.default_rng(7)
    for _ in range(2):
        before = parts(output)
        driver = host.start_driver(*arguments, output=output)
        wait_for_parts(output, len(before) + int(rng.integers(1, 5)), driver)
        driver.kill()
        assert driver.wait() == -9
        assert not (output / "scores.parquet").exists()
    # Ray stops the tasks of a lost driver; one that was writing may still have finished.
    time.sleep(1.0)
    before = parts(output)
    assert 2 <= len(before) < 18
    assert wait_for_exit(host.start_driver(*arguments, output=output), output) == 0
    assert pyarrow.parquet.read_table(output / "scores.parquet").equals(expected)
    after = parts(output)
    assert len(after) == 18
    assert {name: after[name] for name in before} == before


@pytest.mark.parametrize("num_separation_actors", [pytest.param(None, marks=pytest.mark.slow), 1])
def test_a_killed_node_does_not_change_the_table(
    host: ClusterHost, arguments: list[str], expected: pyarrow.Table, tmp_path: Path, num_separation_actors: int | None
) -> None:
    output = tmp_path / "out"
    name = f"victim-{num_separation_actors}"
    host.send(f"add {name}")
    pool = [f"num_separation_actors={num_separation_actors}"] if num_separation_actors else []
    driver = host.start_driver(*arguments, *pool, output=output)
    wait_for_parts(output, 3, driver)
    host.send(f"kill {name}")
    assert wait_for_exit(driver, output) == 0, output.with_suffix(".log").read_text()[-3000:]
    assert pyarrow.parquet.read_table(output / "scores.parquet").equals(expected)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_forty_songs_with_repeated_kills_of_driver_and_nodes(
    host: ClusterHost, arguments: list[str], tmp_path: Path
) -> None:
    music = tmp_path / "music"
    songs = synthetic_tracks(SyntheticConfig(num_train=0, num_valid=0, num_test=40, seconds=20.0))
    write_musdb_hq(songs, music)
    arguments = [
        arguments[0],
        "corpus.kind=musdb18",
        f"corpus.path={music}",
        "num_separation_actors=1",
        "oracles=[IRM2,MWF]",
    ]
    uninterrupted = tmp_path / "uninterrupted"
    assert wait_for_exit(host.start_driver(*arguments, output=uninterrupted), uninterrupted, seconds=800) == 0
    output = tmp_path / "out"
    rng = np.random.default_rng(11)
    for number in range(6):
        before = parts(output)
        host.send(f"add node-{number}")
        driver = host.start_driver(*arguments, output=output)
        wait_for_parts(output, len(before) + int(rng.integers(3, 9)), driver)
        host.send(f"kill node-{number}")
        wait_for_parts(output, len(parts(output)) + int(rng.integers(2, 6)), driver)
        driver.kill()
        assert driver.wait() == -9
    time.sleep(1.0)
    before = parts(output)
    assert 30 <= len(before) < 200
    assert wait_for_exit(host.start_driver(*arguments, output=output), output, seconds=800) == 0
    # Compared as bytes, because silent frames are NaN, which Arrow does not consider equal.
    assert (output / "scores.parquet").read_bytes() == (uninterrupted / "scores.parquet").read_bytes()
    after = parts(output)
    assert {name: after[name] for name in before} == before
