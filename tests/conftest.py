"""What several test files share: a tiny corpus in shards, and a Ray cluster of this machine."""

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from cyclesep.audio import Samples
from cyclesep.manifest import make_manifest, write_manifest
from cyclesep.shard_writing import write_track

TINY_RATE = 8000


def tiny_song(seed: int, seconds: float) -> dict[str, Samples]:
    """Mono stems at 8 kHz: `vocals` a gliding harmonic tone, `drums` bursts of noise; the mixture is their sum."""
    rng = np.random.default_rng(seed)
    time = np.arange(round(seconds * TINY_RATE)) / TINY_RATE
    pitch = np.cumsum(200 * 2 ** (np.sin(2 * np.pi * rng.uniform(0.2, 0.6) * time + rng.uniform(0, 6)) / 2)) / TINY_RATE
    vocals = sum(np.sin(2 * np.pi * k * pitch) / k for k in range(1, 8)) * 0.1
    beat = np.exp(-(time % 0.25) * 30) * rng.normal(0, 0.3, len(time))
    stems = {"vocals": np.float32(vocals)[None], "drums": np.float32(beat)[None]}
    return {"mixture": stems["vocals"] + stems["drums"], **stems}


@pytest.fixture(scope="session")
def tiny_shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards of ten songs of `tiny_song`: six train, two valid, two test, 4 s each."""
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
def ray_cluster() -> Iterator[None]:
    """One private Ray cluster of two CPUs for all tests that need one."""
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.2")
    # Here, because the tests of the lower layers need no Ray.
    from cyclesep.cluster import connect

    with connect(num_cpus=2):
        yield
