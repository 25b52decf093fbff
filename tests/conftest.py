"""Shared fixtures: a tiny corpus, a Ray cluster and an S3 server on this machine."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from cyclesep.audio.audio_io import Samples
from cyclesep.data.shards.manifest import make_manifest, write_manifest
from cyclesep.data.shards.writing import write_track

if TYPE_CHECKING:
    from tests.support.s3_server import S3

TINY_RATE = 8000

# The tests need little disk space, so they run on an almost full disk. Local clusters listen on the loopback address
# only; Ray reads this variable when it is imported.
os.environ.update(RAY_local_fs_capacity_threshold="1", RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER="0")


# Fixtures that start Ray, an S3 server, a browser or the build of the documentation.
SERVICE_FIXTURES = {"ray_cluster", "s3", "browser", "site"}


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run all tests with the Ray cluster in one process, so that only one is started, and mark tests with services."""
    for item in items:
        fixtures = set(getattr(item, "fixturenames", ()))
        if "ray_cluster" in fixtures:
            item.add_marker(pytest.mark.xdist_group("ray"))
        if fixtures & SERVICE_FIXTURES or item.get_closest_marker("xdist_group") is not None:
            item.add_marker(pytest.mark.services)


def tiny_song(seed: int, seconds: float) -> dict[str, Samples]:
    """Return mono stems at 8 kHz and their mixture: `vocals` is a gliding harmonic tone, `drums` are noise bursts."""
    rng = np.random.default_rng(seed)
    time = np.arange(round(seconds * TINY_RATE)) / TINY_RATE
    pitch = np.cumsum(200 * 2 ** (np.sin(2 * np.pi * rng.uniform(0.2, 0.6) * time + rng.uniform(0, 6)) / 2)) / TINY_RATE
    vocals = sum(np.sin(2 * np.pi * k * pitch) / k for k in range(1, 8)) * 0.1
    beat = np.exp(-(time % 0.25) * 30) * rng.normal(0, 0.3, len(time))
    stems = {"vocals": np.float32(vocals)[None], "drums": np.float32(beat)[None]}
    return {"mixture": stems["vocals"] + stems["drums"], **stems}


@pytest.fixture(scope="session")
def tiny_shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards of ten songs from `tiny_song`, 4 s each: six train, two valid, two test."""
    folder = tmp_path_factory.mktemp("tiny-shards")
    splits = ["train"] * 6 + ["valid"] * 2 + ["test"] * 2
    tracks = [
        write_track(
            folder,
            tiny_song(number, seconds=4.0),
            track_id=f"Song {number}",
            split=split,
            sample_rate=TINY_RATE,
            segment_samples=TINY_RATE,
        )
        for number, split in enumerate(splits)
    ]
    write_manifest(folder, make_manifest(tracks))
    return folder


@pytest.fixture(scope="session")
def aws_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """An empty folder for boto3's configuration, so that tests do not use the configuration of this machine.

    Workers of a cluster that is started later read it on first use.
    """
    folder = tmp_path_factory.mktemp("aws")
    before = {name: os.environ.pop(name) for name in list(os.environ) if name.startswith(("AWS_", "CYCLESEP_CACHE"))}
    own = {
        "AWS_CONFIG_FILE": str(folder / "config"),
        "AWS_SHARED_CREDENTIALS_FILE": str(folder / "credentials"),
        "AWS_EC2_METADATA_DISABLED": "true",
        "CYCLESEP_CACHE": str(folder / "cache"),
        "CYCLESEP_CACHE_GIB": "1",
    }
    os.environ.update(own)
    yield folder
    for name in own:
        os.environ.pop(name)
    os.environ.update(before)


@pytest.fixture(scope="session")
def s3(aws_folder: Path) -> "Iterator[S3]":
    """An S3 server behind a proxy that injects faults, with a bucket `tests`, configured for boto3."""
    # Imported here, because most tests need neither.
    from cluster.local.s3_server import SwiftServer
    from tests.support.s3_server import S3

    with SwiftServer() as server:
        running = S3(server, aws_folder)
        try:
            running.configure()
            running.client().create_bucket(Bucket="tests")
            yield running
        finally:
            running.proxy.stop()


@pytest.fixture
def prefix(s3: "S3", tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> "Iterator[str]":
    """An empty prefix `s3://tests/...` for each test, with an empty cache, no faults and no recorded requests."""
    monkeypatch.setenv("CYCLESEP_CACHE", str(tmp_path / "cache"))
    s3.proxy.clear()
    yield s3.new_prefix()
    s3.proxy.clear()
    if s3.is_changed:
        # Environment variables that the test has set.
        monkeypatch.undo()
        s3.configure()
        s3.is_changed = False


@pytest.fixture(scope="session")
def ray_cluster(aws_folder: Path) -> Iterator[None]:  # noqa: ARG001
    """A local Ray cluster with two CPUs, shared by all tests that need one."""
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.2")
    # Imported here, because tests of lower layers do not need Ray.
    from cyclesep.cluster.connect import connect

    with connect(num_cpus=2):
        yield
