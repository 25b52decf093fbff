"""Interrupted ingests: the corpus is complete or absent, and the next run completes it."""

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
from tests.support.ingest_helpers import (
    corpus_digest,
    file_names,
    ingest_arguments,
    ingest_config,
    ingest_without_ray,
    write_noise,
    write_songs,
)
from tests.support.paths import CHECKOUT

# Audit events that Python raises before it accesses files; the tests kill an ingest at these events.
FILE_EVENTS = {"open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.listdir", "os.scandir", "mmap.__new__"}


@dataclass(frozen=True)
class Expected:
    """Result of an undisturbed ingest."""

    digest: str
    names: frozenset[str]
    before: str | None
    """Digest of the previous corpus in the folder."""


def kill_process_at(number: int, folder: Path) -> None:
    """Make this process kill itself before its `number`-th access to files in `folder`."""
    remaining = itertools.count(number - 1, -1)

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event not in FILE_EVENTS:
            return
        if (event == "mmap.__new__" or str(folder) in str(arguments[0])) and not next(remaining):
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


def ingest_killed_at(number: int, config: IngestConfig) -> bool:
    """Ingest in a child process that is killed at an event; return False if it ended before."""
    child = os.fork()
    if not child:
        kill_process_at(number, Path(config.output))
        ingest_without_ray(config)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
    return os.WIFSIGNALED(status)


def kill_at_every_event(config: IngestConfig, corpus: Path, root: Path, expected: Expected, results: Any) -> None:
    """Ingest into copies of `corpus`, killed at the first, second ... event until an ingest ends; send the results."""
    seen: set[str | None] = set()
    for number in itertools.count(1):
        folder = root / f"event-{number}"
        if corpus.exists():
            shutil.copytree(corpus, folder)
        copy_config = replace(config, output=str(folder))
        was_killed = ingest_killed_at(number, copy_config)
        found = corpus_digest(folder)
        assert found in (expected.before, expected.digest), number
        seen.add(found)
        names = file_names(folder)
        finished = {name for name in names & expected.names if name.endswith(".track.json")}
        report = ingest_without_ray(copy_config)
        assert report.num_unchanged == len(finished), number
        assert verify(folder, num_threads=1).digest == expected.digest
        assert file_names(folder) == expected.names, number
        shutil.rmtree(folder)
        if not was_killed:
            results.put((number, seen))
            return


def digests_after_kills(
    config: IngestConfig, corpus: Path, root: Path, expected: Expected
) -> tuple[int, set[str | None]]:
    """Return the number of events, and the digests seen after kills.

    Runs in a new process, because this one may be connected to a Ray cluster, whose threads do not survive a fork.
    """
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    process = context.Process(target=kill_at_every_event, args=(config, corpus, root, expected, results))
    process.start()
    process.join()
    assert process.exitcode == 0
    outcome: tuple[int, set[str | None]] = results.get(timeout=10)
    return outcome


def test_first_ingest_killed_at_any_event_publishes_the_complete_corpus_or_none(tmp_path: Path) -> None:
    config = ingest_config(write_songs(tmp_path / "songs", "ab"), tmp_path / "undisturbed")
    manifest = ingest_without_ray(config).manifest
    expected = Expected(manifest.digest, file_names(tmp_path / "undisturbed"), None)
    num_events, seen = digests_after_kills(config, tmp_path / "nowhere", tmp_path, expected)
    assert num_events > 25
    assert seen == {None, manifest.digest}


def test_second_ingest_killed_at_any_event_publishes_the_old_or_the_new_corpus(tmp_path: Path) -> None:
    songs = write_songs(tmp_path / "songs", "abc")
    old = ingest_without_ray(ingest_config(songs, tmp_path / "old")).manifest
    write_noise(songs / "b" / "vocals.wav", 0.6)
    write_noise(songs / "d" / "vocals.wav", seed=9)
    shutil.rmtree(songs / "c")
    shutil.copytree(tmp_path / "old", tmp_path / "new")
    config = ingest_config(songs, tmp_path / "new")
    new = ingest_without_ray(config).manifest
    expected = Expected(new.digest, file_names(tmp_path / "new"), old.digest)
    num_events, seen = digests_after_kills(config, tmp_path / "old", tmp_path, expected)
    assert num_events > 25
    assert seen == {old.digest, new.digest}
    assert [track.track_id for track in new.tracks] == ["a", "b", "d"]


# Rounding between a wav file and a crop


def write_wav(path: Path, subtype: str, samples: np.ndarray) -> np.ndarray:
    """Write `(channels, time)`; return the samples in the file as float32."""
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
def test_audio_is_rounded_to_pcm16_and_never_clipped(
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
def test_16_bit_sources_are_bit_exact_including_both_extremes(
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


# The command in a new process


def write_long_songs(root: Path, count: int = 12) -> Path:
    for seed in range(count):
        write_noise(root / f"song {seed}" / "vocals.wav", 20.0, seed=seed)
        write_noise(root / f"song {seed}" / "drums.wav", 20.0, seed=100 + seed)
    return root


def start_command(config: IngestConfig, **environment: str) -> subprocess.Popen[str]:
    """Start `cyclesep ingest` in a new process group."""
    command = [sys.executable, "-c", "from cyclesep.cli.main import main; main()", "ingest", *ingest_arguments(config)]
    # `connect` has set the folder of the tests' cluster; a local cluster must create its own.
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


def environment_variables(process: int) -> Mapping[str, str]:
    with suppress(OSError):
        entries = Path(f"/proc/{process}/environ").read_bytes().decode(errors="replace").split("\0")
        return dict(entry.partition("=")[::2] for entry in entries)
    return {}


def marked_processes(mark: str) -> dict[int, Mapping[str, str]]:
    """Return the environment variables of all processes that inherited this mark."""
    processes = {int(path.name): environment_variables(int(path.name)) for path in Path("/proc").glob("[0-9]*")}
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
def test_command_killed_at_a_random_moment_can_be_resumed(tmp_path: Path, seed: int, ray: str) -> None:
    """Kill a command that uses the tests' cluster, or one that runs a local cluster."""
    rng = np.random.default_rng(seed)
    songs, folder, mark = write_long_songs(tmp_path / "songs"), tmp_path / "out", str(tmp_path)
    config = ingest_config(songs, folder)
    address = {"RAY_ADDRESS": get_runtime_context().gcs_address} if ray == "joined" else {}
    process = start_command(config, CYCLESEP_TEST_MARK=mark, **address)
    finished, delay = int(rng.integers(0, 9)), float(rng.uniform(0, 0.05))
    try:
        assert wait_for(lambda: process.poll() is not None or len(list(folder.glob("*.track.json"))) >= finished)
        time.sleep(delay)
        os.killpg(process.pid, signal.SIGSTOP)
        assert process.poll() is None, process.communicate()[1]
        ray_folders = {found["RAY_TMPDIR"] for found in marked_processes(mark).values() if found.get("RAY_TMPDIR")}
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        num_finished = len(list(folder.glob("*.track.json")))
        assert corpus_digest(folder) is None
        report = ingest(config)
        assert wait_for(lambda: not marked_processes(mark), seconds=60), (
            "processes of Ray outlive the command that started them"
        )
    finally:
        for number in marked_processes(mark):
            os.kill(number, signal.SIGKILL)
        process.communicate()
    for ray_folder in ray_folders if ray == "private" else ():
        shutil.rmtree(ray_folder)
    assert num_finished <= report.num_unchanged
    assert report.num_unchanged + report.num_ingested == 12
    assert corpus_digest(folder) == ingest_without_ray(ingest_config(songs, tmp_path / "undisturbed")).manifest.digest
    assert file_names(folder) == file_names(tmp_path / "undisturbed")


@pytest.mark.usefixtures("ray_cluster")
def test_concurrent_ingest_is_an_error_and_the_first_one_completes(tmp_path: Path) -> None:
    config = ingest_config(write_long_songs(tmp_path / "songs", 4), tmp_path / "out")
    first = start_command(config, RAY_ADDRESS=get_runtime_context().gcs_address)
    try:
        assert wait_for(lambda: first.poll() is not None or (tmp_path / "out" / "ingest.json").exists())
        assert first.poll() is None, first.communicate()[1]
        os.kill(first.pid, signal.SIGSTOP)
        owner = f"process {first.pid} on "
        with pytest.raises(
            CorpusError, match=f"^{config.output}: another ingest is writing there, {owner}.*; wait for"
        ):
            ingest(config)
        os.kill(first.pid, signal.SIGCONT)
        _, errors = first.communicate(timeout=120)
    finally:
        first.kill()
    assert (first.returncode, errors) == (0, "")
    assert len(verify(tmp_path / "out").tracks) == 4


# Full and read-only disks


def test_full_disk_is_an_error_of_one_line_and_ingest_resumes_with_more_space(tmp_path: Path) -> None:
    result = run_on_small_disk(tmp_path, "full", size="3m")
    assert result["status"] == 1
    assert result["out"] == ""
    (line,) = result["err"]
    assert line.startswith(f"cyclesep ingest: error: {tmp_path}/disk/")
    assert "No space left on device" in line
    assert line.endswith("; free space or choose another location")
    assert result["reader"] == f"{tmp_path}/disk/out: manifest.json not found, so no ingest was finished here"
    assert result["num_finished"] >= 1
    assert (result["num_unchanged"], result["num_ingested"]) == (result["num_finished"], 4 - result["num_finished"])
    assert result["digest"] == result["digest_elsewhere"]
    assert result["partial_after"] == []


def test_read_only_disk_is_readable_and_ingest_is_an_error_of_one_line(tmp_path: Path) -> None:
    result = run_on_small_disk(tmp_path, "read-only", size="8m")
    assert result["digest"] == result["digest_elsewhere"]
    assert result["status"] == 1
    (line,) = result["err"]
    reason = "cannot be written or locked (Read-only file system); choose another folder"
    assert line == f"cyclesep ingest: error: {tmp_path}/disk/out: {reason}"
    assert result["names"] == result["names_before"]
    assert result["status_of_verify"] == 0


def run_on_small_disk(tmp_path: Path, case: str, *, size: str) -> dict[str, Any]:
    """Run a case of disk_full.py in its own mount namespace with a tmpfs of the given size at `tmp_path`/disk."""
    write_long_songs(tmp_path / "songs", 4)
    (tmp_path / "disk").mkdir()
    namespace = ["unshare", "--mount"] if os.geteuid() == 0 else ["unshare", "--mount", "--map-root-user"]
    mount = f"mount -t tmpfs -o size={size} tmpfs '{tmp_path}/disk'"
    if subprocess.run([*namespace, "sh", "-c", mount], capture_output=True, check=False).returncode:
        pytest.skip("this machine does not allow mount namespaces")
    command = f"{mount} && exec '{sys.executable}' -m tests.support.disk_full {case} '{tmp_path}'"
    done = subprocess.run([*namespace, "sh", "-c", command], capture_output=True, text=True, check=False, cwd=CHECKOUT)
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result
