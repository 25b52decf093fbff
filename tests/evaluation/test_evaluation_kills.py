"""Evaluations whose driver or node is killed: only what is missing is done again, and the table is the same."""

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

from cyclesep.data.corpora.composer.track import SyntheticConfig, synthetic_tracks
from cyclesep.data.corpora.composer.writers import write_musdb_hq
from tests.support.paths import CHECKOUT
from tests.support.tiny_evaluation import save_separator

DEADLINE_SECONDS = 200.0


@dataclass(kw_only=True)
class Host:
    """The process that holds the cluster."""

    process: subprocess.Popen[str]
    address: str
    environment: dict[str, str]

    def tell(self, line: str) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print(line, file=self.process.stdin, flush=True)
        # Ray may print to stdout as well.
        while f"{line}: done" not in (answer := self.process.stdout.readline()):
            assert answer, "the cluster has ended"

    def driver(self, *words: str, output: Path) -> subprocess.Popen[str]:
        """`cyclesep evaluate` as a process of its own."""
        main = "from cyclesep.cli.main import main; main()"
        with output.with_suffix(".log").open("a") as log:
            return subprocess.Popen(
                [sys.executable, "-c", main, "evaluate", *words, f"output={output}"],
                env={**self.environment, "RAY_ADDRESS": self.address},
                stdout=log,
                stderr=log,
            )


@pytest.fixture(scope="module")
def host() -> Iterator[Host]:
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
        yield Host(process=process, address=address, environment=environment)
    finally:
        assert process.stdin is not None
        process.stdin.close()
        process.wait(60)
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory, tiny_shards: Path) -> list[str]:
    """Six songs under the mixture, an untrained separator and an oracle: 18 items."""
    checkpoint = save_separator(tmp_path_factory.mktemp("checkpoint"))
    small = ["separation.segment_seconds=1.5", "separation.context_seconds=0.2", "heuristic=false"]
    return [f"checkpoint={checkpoint}", f"shards={tiny_shards}", "split=train", *small]


@pytest.fixture(scope="module")
def expected(host: Host, words: list[str], tmp_path_factory: pytest.TempPathFactory) -> pyarrow.Table:
    """The table of a run that nobody disturbed."""
    output = tmp_path_factory.mktemp("undisturbed") / "out"
    assert ended(host.driver(*words, output=output), output) == 0
    return pyarrow.parquet.read_table(output / "scores.parquet")


def ended(driver: subprocess.Popen[str], output: Path, seconds: float = DEADLINE_SECONDS) -> int:
    try:
        return driver.wait(seconds)
    except subprocess.TimeoutExpired:
        driver.kill()
        raise AssertionError(output.with_suffix(".log").read_text()[-3000:]) from None


def parts(output: Path) -> dict[str, int]:
    """The outcomes that are there, and when each was written."""
    return {path.name: path.stat().st_mtime_ns for path in (output / "parts").glob("*.json")}


def wait_for_parts(output: Path, count: int, driver: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + DEADLINE_SECONDS
    while len(parts(output)) < count:
        assert driver.poll() is None, output.with_suffix(".log").read_text()[-3000:]
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_a_driver_that_is_killed_again_and_again_leaves_the_same_table(
    host: Host, words: list[str], expected: pyarrow.Table, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    rng = np.random.default_rng(7)
    for _ in range(2):
        before = parts(output)
        driver = host.driver(*words, output=output)
        wait_for_parts(output, len(before) + int(rng.integers(1, 5)), driver)
        driver.kill()
        assert driver.wait() == -9
        assert not (output / "scores.parquet").exists()
    # Ray ends the tasks of a lost driver by itself; one that was writing may still have come to its end.
    time.sleep(1.0)
    before = parts(output)
    assert 2 <= len(before) < 18
    assert ended(host.driver(*words, output=output), output) == 0
    assert pyarrow.parquet.read_table(output / "scores.parquet").equals(expected)
    after = parts(output)
    assert len(after) == 18
    assert {name: after[name] for name in before} == before


@pytest.mark.parametrize("num_separation_actors", [pytest.param(None, marks=pytest.mark.slow), 1])
def test_a_node_that_is_killed_costs_time_and_nothing_else(
    host: Host, words: list[str], expected: pyarrow.Table, tmp_path: Path, num_separation_actors: int | None
) -> None:
    output = tmp_path / "out"
    name = f"victim-{num_separation_actors}"
    host.tell(f"add {name}")
    pool = [f"num_separation_actors={num_separation_actors}"] if num_separation_actors else []
    driver = host.driver(*words, *pool, output=output)
    wait_for_parts(output, 3, driver)
    host.tell(f"kill {name}")
    assert ended(driver, output) == 0, output.with_suffix(".log").read_text()[-3000:]
    assert pyarrow.parquet.read_table(output / "scores.parquet").equals(expected)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_forty_songs_survive_kills_of_the_driver_and_of_nodes_in_turn(
    host: Host, words: list[str], tmp_path: Path
) -> None:
    music = tmp_path / "music"
    songs = synthetic_tracks(SyntheticConfig(num_train=0, num_valid=0, num_test=40, seconds=20.0))
    write_musdb_hq(songs, music)
    words = [words[0], "corpus.kind=musdb18", f"corpus.path={music}", "num_separation_actors=1", "oracles=[IRM2,MWF]"]
    calm = tmp_path / "calm"
    assert ended(host.driver(*words, output=calm), calm, seconds=800) == 0
    output = tmp_path / "out"
    rng = np.random.default_rng(11)
    for number in range(6):
        before = parts(output)
        host.tell(f"add node-{number}")
        driver = host.driver(*words, output=output)
        wait_for_parts(output, len(before) + int(rng.integers(3, 9)), driver)
        host.tell(f"kill node-{number}")
        wait_for_parts(output, len(parts(output)) + int(rng.integers(2, 6)), driver)
        driver.kill()
        assert driver.wait() == -9
    time.sleep(1.0)
    before = parts(output)
    assert 30 <= len(before) < 200
    assert ended(host.driver(*words, output=output), output, seconds=800) == 0
    # As bytes: silent frames are NaN, which Arrow's tables do not call equal.
    assert (output / "scores.parquet").read_bytes() == (calm / "scores.parquet").read_bytes()
    after = parts(output)
    assert {name: after[name] for name in before} == before
