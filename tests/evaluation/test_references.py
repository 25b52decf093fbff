"""Reference tracks of an evaluation."""

from pathlib import Path
from shutil import copytree

import numpy as np

from cyclesep.data.shards.manifest import MANIFEST_NAME
from cyclesep.data.shards.reading import ShardReader
from cyclesep.evaluation.config import EvaluateConfig
from cyclesep.evaluation.references import find_references


def test_a_track_is_read_without_the_manifest(tiny_shards: Path, tmp_path: Path) -> None:
    shards = copytree(tiny_shards, tmp_path / "shards")
    reader = ShardReader(shards)
    tracks = find_references(EvaluateConfig(shards=str(shards), split="train"))
    (shards / MANIFEST_NAME).unlink()
    assert len(tracks) == 6
    for track, record in zip(tracks, reader.manifest.split("train"), strict=True):
        expected = reader.read(record, record.stems, 0, record.num_samples)
        found = np.stack([wave.samples for wave in track.read().values()])
        np.testing.assert_array_equal(found, expected)
        np.testing.assert_array_equal(track.mixture().samples, expected[0])
