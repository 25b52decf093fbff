"""An ingest that is killed, starved or shut out: the corpus is whole or absent, and the next run finishes it."""

import itertools
import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st
from ray import get_runtime_context

from cyclesep.audio.audio_io import from_pcm16, to_pcm16
from cyclesep.data.config import IngestConfig
from cyclesep.data.ingest import ingest
from cyclesep.data.shards.reading import ShardReader
from cyclesep.data.shards.verification import verify
from cyclesep.errors import CorpusError
from tests.support.ingest import (
    corpus_digest,
    file_names,
    ingest_arguments,
    ingest_config,
    ingest_without_ray,
    write_noise,
    write_songs,
)
from tests.support.paths import CHECKOUT

# What Python tells of its work on files before it does it: the moments at which a test ends an ingest.
FILE_EVENTS = {"open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.listdir", "os.scandir", "mmap.__new__"}


@dataclass(frozen=True)
class Expected:
    """What an ingest leads to that nobody disturbs."""

    digest: str
    names: frozenset[str]
    before: str | None
    """Digest of the corpus that was in the folder before."""


def die_at(moment: int, folder: Path) -> None:
    """Let this process be killed before its `moment`-th work on a file below `folder`."""
    left = itertools.count(moment - 1, -1)

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event in FILE_EVENTS and (event == "mmap.__new__" or str(folder) in str(arguments[0])) and not next(left):
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


def killed_at(moment: int, config: IngestConfig) -> bool:
    """Ingest in a child process that is killed at a moment; whether it had not ended before."""
    child = os.fork()
    if not child:
        die_at(moment, Path(config.output))
        ingest_without_ray(config)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
    return os.WIFSIGNALED(status)


def kill_at_every_moment(config: IngestConfig, corpus: Path, root: Path, expected: Expected, results: Any) -> None:
    """Ingest over copies of `corpus`, killed at the first, the second ... moment until an ingest comes to its end."""
    seen: set[str | None] = set()
    for moment in itertools.count(1):
        folder = root / f"moment-{moment}"
        if corpus.exists():
            shutil.copytree(corpus, folder)
        here = replace(config, output=str(folder))
        was_killed = killed_at(moment, here)
        found = corpus_digest(folder)
        assert found in (expected.before, expected.digest), moment
        seen.add(found)
        names = file_names(folder)
        finished = {name for name in names & expected.names if name.endswith(".track.json")}
        report = ingest_without_ray(here)
        assert report.num_kept == len(finished), moment
        assert verify(folder, num_threads=1).digest == expected.digest
        assert file_names(folder) == expected.names, moment
        shutil.rmtree(folder)
        if not was_killed:
            results.put((moment, seen))
            return


def moments_of_death(config: IngestConfig, corpus: Path, root: Path, expected: Expected) -> tuple[int, set[str | None]]:
    """Runs in a process of its own: this one may hold a Ray cluster, whose threads do not survive a fork."""
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    process = context.Process(target=kill_at_every_moment, args=(config, corpus, root, expected, results))
    process.start()
    process.join()
    assert process.exitcode == 0
    moments: tuple[int, set[str | None]] = results.get(timeout=10)
    return moments


def test_killed_at_every_moment_of_a_first_ingest_the_corpus_is_absent_or_whole(tmp_path: Path) -> None:
    config = ingest_config(write_songs(tmp_path / "songs", "ab"), tmp_path / "whole")
    manifest = ingest_without_ray(config).manifest
    expected = Expected(manifest.digest, file_names(tmp_path / "whole"), None)
    num_moments, seen = moments_of_death(config, tmp_path / "nowhere", tmp_path, expected)
    assert num_moments > 25
    assert seen == {None, manifest.digest}


def test_killed_at_every_moment_of_a_second_ingest_the_corpus_is_the_old_or_the_new(tmp_path: Path) -> None:
    songs = write_songs(tmp_path / "songs", "abc")
    old = ingest_without_ray(ingest_config(songs, tmp_path / "old")).manifest
    write_noise(songs / "b" / "vocals.wav", 0.6)
    write_noise(songs / "d" / "vocals.wav", seed=9)
    shutil.rmtree(songs / "c")
    shutil.copytree(tmp_path / "old", tmp_path / "new")
    config = ingest_config(songs, tmp_path / "new")
    new = ingest_without_ray(config).manifest
    expected = Expected(new.digest, file_names(tmp_path / "new"), old.digest)
    num_moments, seen = moments_of_death(config, tmp_path / "old", tmp_path, expected)
    assert num_moments > 25
    assert seen == {old.digest, new.digest}
    assert [track.track_id for track in new.tracks] == ["a", "b", "d"]


# What is lost between a wav file and a crop


def write_wav(path: Path, subtype: str, samples: np.ndarray) -> np.ndarray:
    """Write `(channels, time)`; gives back the float32 that the file holds."""
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, samples.T, 8000, subtype=subtype)
    return soundfile.read(path, dtype="float32", always_2d=True)[0].T


@settings(max_examples=40, deadline=None)
@given(
    subtypes=st.tuples(*[st.sampled_from(["PCM_16", "PCM_24", "FLOAT"])] * 2),
    peaks=st.tuples(*[st.floats(1e-4, 9.0)] * 2),
    channels=st.sampled_from([1, 2]),
    num_samples=st.integers(800, 2500),
    seed=st.integers(0, 2**32 - 1),
)
def test_rounding_to_pcm16_is_the_only_loss_and_nothing_is_clipped(
    subtypes: tuple[str, str], peaks: tuple[float, float], channels: int, num_samples: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    with tempfile.TemporaryDirectory() as root:
        sources = {}
        for stem, subtype, peak in zip(("drums", "vocals"), subtypes, peaks, strict=True):
            samples = rng.uniform(-1, 1, (channels, num_samples)) * (peak if subtype == "FLOAT" else min(peak, 1.0))
            sources[stem] = write_wav(Path(root, "songs", "song", f"{stem}.wav"), subtype, samples)
        (track,) = ingest_without_ray(
            ingest_config(Path(root, "songs"), Path(root, "out"), channels=channels)
        ).manifest.tracks
        found = dict(
            zip(track.stems, ShardReader(Path(root, "out")).read(track, track.stems, 0, num_samples), strict=True)
        )
    for stem, source in sources.items():
        np.testing.assert_array_equal(found[stem], from_pcm16(to_pcm16(source, gain=track.gain), gain=track.gain))
        assert np.abs(found[stem] - source.astype(np.float64)).max() <= 0.5 * track.gain / 32768
    np.testing.assert_array_equal(found["mixture"], found["drums"] + found["vocals"])
    peak = max(float(np.abs(samples).max()) for samples in found.values())
    assert track.gain == 1.0 or track.gain / 2.001 < peak <= track.gain


@settings(max_examples=25, deadline=None)
@given(
    channels=st.sampled_from([1, 2]),
    num_samples=st.integers(800, 2500),
    seed=st.integers(0, 2**32 - 1),
    extremes=st.lists(st.sampled_from([-32768, -32767, -1, 0, 1, 32766, 32767]), max_size=9),
)
def test_a_16_bit_source_comes_back_bit_for_bit_even_from_both_ends_of_the_scale(
    channels: int, num_samples: int, seed: int, extremes: list[int]
) -> None:
    rng = np.random.default_rng(seed)
    pcm = rng.integers(-32768, 32768, (channels, num_samples)).astype(np.int16)
    pcm[:, : len(extremes)] = extremes
    with tempfile.TemporaryDirectory() as root:
        write_wav(Path(root, "songs", "song", "vocals.wav"), "PCM_16", pcm)
        (track,) = ingest_without_ray(
            ingest_config(Path(root, "songs"), Path(root, "out"), channels=channels)
        ).manifest.tracks
        found = ShardReader(Path(root, "out")).read(track, ["vocals"], 0, num_samples)[0]
    assert track.gain == 1.0
    np.testing.assert_array_equal(found * 32768, pcm)


# The real command


def songs_that_take_a_while(root: Path, count: int = 12) -> Path:
    for seed in range(count):
        write_noise(root / f"song {seed}" / "vocals.wav", 20.0, seed=seed)
        write_noise(root / f"song {seed}" / "drums.wav", 20.0, seed=100 + seed)
    return root


def started(config: IngestConfig, **environment: str) -> subprocess.Popen[str]:
    """A `cyclesep ingest` of its own, in a process group of its own."""
    command = [sys.executable, "-c", "from cyclesep.cli.main import main; main()", "ingest", *ingest_arguments(config)]
    # Without the folder of the tests' cluster, which `connect` has put there: a private cluster makes its own.
    inherited = {name: value for name, value in os.environ.items() if name != "RAY_TMPDIR"}
    return subprocess.Popen(
        command,
        env={**inherited, **environment},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def wait_for(condition: Callable[[], bool], seconds: float = 200.0) -> bool:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.002)
    return True


def environment_of(process: int) -> Mapping[str, str]:
    with suppress(OSError):
        entries = Path(f"/proc/{process}/environ").read_bytes().decode(errors="replace").split("\0")
        return dict(entry.partition("=")[::2] for entry in entries)
    return {}


def marked(mark: str) -> dict[int, Mapping[str, str]]:
    """The environments of all processes that descend from one that was started with this mark."""
    processes = {int(path.name): environment_of(int(path.name)) for path in Path("/proc").glob("[0-9]*")}
    return {number: found for number, found in processes.items() if found.get("CYCLESEP_TEST_MARK") == mark}


@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.parametrize(
    ("seed", "ray"),
    [
        (0, "joined"),
        *(pytest.param(seed, "joined", marks=pytest.mark.slow) for seed in range(1, 10)),
        *(pytest.param(seed, "private", marks=pytest.mark.slow) for seed in range(10, 14)),
    ],
)
def test_the_command_killed_at_a_random_moment_is_finished_by_the_next_one(tmp_path: Path, seed: int, ray: str) -> None:
    """Killed is the process that joined the tests' cluster, or the one that runs a cluster with the whole of it."""
    rng = np.random.default_rng(seed)
    songs, folder, mark = songs_that_take_a_while(tmp_path / "songs"), tmp_path / "out", str(tmp_path)
    config = ingest_config(songs, folder)
    address = {"RAY_ADDRESS": get_runtime_context().gcs_address} if ray == "joined" else {}
    process = started(config, CYCLESEP_TEST_MARK=mark, **address)
    finished, delay = int(rng.integers(0, 9)), float(rng.uniform(0, 0.05))
    try:
        assert wait_for(lambda: process.poll() is not None or len(list(folder.glob("*.track.json"))) >= finished)
        time.sleep(delay)
        os.killpg(process.pid, signal.SIGSTOP)
        assert process.poll() is None, process.communicate()[1]
        ray_folders = {found["RAY_TMPDIR"] for found in marked(mark).values() if found.get("RAY_TMPDIR")}
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        num_finished = len(list(folder.glob("*.track.json")))
        assert corpus_digest(folder) is None
        report = ingest(config)
        assert wait_for(lambda: not marked(mark), seconds=60), "Ray outlives the process that it was started by"
    finally:
        for number in marked(mark):
            os.kill(number, signal.SIGKILL)
        process.communicate()
    for ray_folder in ray_folders if ray == "private" else ():
        shutil.rmtree(ray_folder)
    assert num_finished <= report.num_kept
    assert report.num_kept + report.num_ingested == 12
    assert corpus_digest(folder) == ingest_without_ray(ingest_config(songs, tmp_path / "undisturbed")).manifest.digest
    assert file_names(folder) == file_names(tmp_path / "undisturbed")


@pytest.mark.usefixtures("ray_cluster")
def test_a_second_ingest_into_a_folder_in_use_is_refused_and_harms_nothing(tmp_path: Path) -> None:
    config = ingest_config(songs_that_take_a_while(tmp_path / "songs", 4), tmp_path / "out")
    first = started(config, RAY_ADDRESS=get_runtime_context().gcs_address)
    try:
        assert wait_for(lambda: first.poll() is not None or (tmp_path / "out" / "ingest.json").exists())
        assert first.poll() is None, first.communicate()[1]
        os.kill(first.pid, signal.SIGSTOP)
        with pytest.raises(CorpusError, match=f"^{config.output}: another ingest is writing there; wait for it or ch"):
            ingest(config)
        os.kill(first.pid, signal.SIGCONT)
        _, errors = first.communicate(timeout=120)
    finally:
        first.kill()
    assert (first.returncode, errors) == (0, "")
    assert len(verify(tmp_path / "out").tracks) == 4


# A disk that is full, a disk that may only be read


def test_a_full_disk_ends_an_ingest_in_one_line_and_more_room_lets_the_next_finish(tmp_path: Path) -> None:
    told = on_a_small_disk(tmp_path, "full", size="3m")
    assert told["status"] == 1
    assert told["out"] == ""
    (line,) = told["err"]
    assert line.startswith(f"cyclesep ingest: error: {tmp_path}/disk/")
    assert "No space left on device" in line
    assert line.endswith("; free space or choose another location")
    assert told["reader"] == f"{tmp_path}/disk/out: holds no manifest.json, so no ingest was finished here"
    assert told["num_finished"] >= 1
    assert (told["num_kept"], told["num_ingested"]) == (told["num_finished"], 4 - told["num_finished"])
    assert told["digest"] == told["digest_elsewhere"]
    assert told["partial_after"] == []


def test_a_disk_that_may_only_be_read_is_read_and_refuses_an_ingest_in_one_line(tmp_path: Path) -> None:
    told = on_a_small_disk(tmp_path, "read-only", size="8m")
    assert told["digest"] == told["digest_elsewhere"]
    assert told["status"] == 1
    (line,) = told["err"]
    assert line == (
        f"cyclesep ingest: error: {tmp_path}/disk/out: cannot be written (Read-only file system); choose another output"
    )
    assert told["names"] == told["names_before"]
    assert told["status_of_verify"] == 0


def on_a_small_disk(tmp_path: Path, case: str, *, size: str) -> dict[str, Any]:
    """Run a case of disk_full.py in its own mount namespace with a tmpfs of the given size at `tmp_path`/disk."""
    songs_that_take_a_while(tmp_path / "songs", 4)
    (tmp_path / "disk").mkdir()
    namespace = ["unshare", "--mount"] if os.geteuid() == 0 else ["unshare", "--mount", "--map-root-user"]
    mount = f"mount -t tmpfs -o size={size} tmpfs '{tmp_path}/disk'"
    if subprocess.run([*namespace, "sh", "-c", mount], capture_output=True, check=False).returncode:
        pytest.skip("this machine lets nobody make a mount namespace")
    command = f"{mount} && exec '{sys.executable}' -m tests.support.disk_full {case} '{tmp_path}'"
    done = subprocess.run([*namespace, "sh", "-c", command], capture_output=True, text=True, check=False, cwd=CHECKOUT)
    assert done.returncode == 0, done.stderr
    told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return told
