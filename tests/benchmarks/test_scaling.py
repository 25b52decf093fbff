"""The scaling benchmark: the real training run on workers of a real cluster."""

import math
from pathlib import Path

import pytest

from benchmarks.scaling import ScalingBenchmark, run
from cyclesep.config import settings
from cyclesep.errors import ConfigError
from cyclesep.training.config import TrainConfig

TINY = {
    "steps": 60,
    "num_dataloader_workers": 0,
    "num_validation_crops": 1,
    "crops.crop_seconds": 0.5,
    "crops.batch_size": 8,
    "method.recipe": "supervised",
    "method.separator.name": "waveunet",
    "method.separator.channels": 16,
    "method.separator.depth": 2,
}


def tiny(shards: Path, **changes: object) -> ScalingBenchmark:
    return ScalingBenchmark(
        workers=(1, 2), rounds=1, shards=str(shards), train=settings.replace(TrainConfig(), TINY | changes)
    )


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
def test_two_workers_are_compared_with_one_for_a_shared_and_a_fixed_batch(tiny_shards: Path) -> None:
    shared, each = run(tiny(tiny_shards))
    assert "a batch of 8 crops shared" in shared.title
    assert "8 crops for each worker" in each.title
    for table in (shared, each):
        one, two = table.rows
        assert (one.method, two.method) == ("1 worker", "2 workers")
        assert one.columns["efficiency"] == 1.0
        assert two.columns["efficiency"] == pytest.approx(table.ratio(two) / 2)
        assert all(math.isfinite(row.rate) and row.rate > 0 for row in table.rows)
    # The run with one worker is the same in both tables.
    assert shared.rows[0] == each.rows[0]
    assert float(each.rows[1].columns["step ms"]) == pytest.approx(1e3 * 16 / each.rows[1].rate)


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
def test_a_run_too_short_to_be_timed_raises(tiny_shards: Path) -> None:
    with pytest.raises(ConfigError, match="steps=2: too few to be timed"):
        run(tiny(tiny_shards, steps=2))
