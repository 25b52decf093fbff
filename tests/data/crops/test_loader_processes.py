"""Crop streams with open shards in other processes: pickling and all start methods yield the same crops."""

import pickle
from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader

from cyclesep.data.crops.config import CropConfig
from cyclesep.data.crops.dataset import Batch, CropStream, crop_loader
from cyclesep.data.shards.reading import ShardReader


@pytest.fixture(scope="module")
def stream(tiny_shards: Path) -> CropStream:
    return CropStream(
        ShardReader(tiny_shards), CropConfig(crop_seconds=0.5, batch_size=4), targets=("vocals",), num_steps=4
    )


@pytest.fixture(scope="module")
def expected(stream: CropStream) -> list[Batch]:
    """Return batches read in this process, whose shards then stay open."""
    return list(crop_loader(stream))


def assert_equal(found: list[Batch], expected: list[Batch]) -> None:
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one.mixture, other.mixture)
        assert torch.equal(one.target, other.target)


def test_pickled_stream_yields_same_crops(stream: CropStream, expected: list[Batch]) -> None:
    assert_equal(list(crop_loader(pickle.loads(pickle.dumps(stream)))), expected)


@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
def test_all_start_methods_yield_same_crops_as_this_process(
    stream: CropStream, expected: list[Batch], method: str
) -> None:
    num_processes = 2 if method == "fork" else 1  # the others import torch, which is slow
    loader = DataLoader(stream, batch_size=None, num_workers=num_processes, multiprocessing_context=method)
    found = []
    for batch, local in zip(loader, crop_loader(stream), strict=True):
        found.append(batch)
        assert torch.equal(batch.mixture, local.mixture)
    assert_equal(found, expected)


def test_pickled_data_loader_yields_same_crops(stream: CropStream, expected: list[Batch]) -> None:
    assert_equal(list(pickle.loads(pickle.dumps(crop_loader(stream)))), expected)
