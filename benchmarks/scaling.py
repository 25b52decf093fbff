"""Speed of a training run with more workers: the same run of `cyclesep train` on several Ray Train workers."""

import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated

from annotated_types import Gt, MinLen

from benchmarks.recipe_runs import write_songs
from benchmarks.table import Row, Table
from cyclesep.cluster.connect import connect
from cyclesep.config import settings
from cyclesep.data.corpora.composer.config import SyntheticConfig
from cyclesep.data.corpora.composer.track import synthetic_tracks
from cyclesep.data.crops.config import CropConfig
from cyclesep.errors import ConfigError
from cyclesep.reports.tensorboard_reader import ScalarSeries, read_scalars
from cyclesep.training.config import TrainConfig
from cyclesep.training.fit import fit

UNIT = "crops/s"
# Fraction of a run that is not timed, while caches and threads warm up.
_WARM_UP = 1 / 3


def _run() -> TrainConfig:
    return TrainConfig(steps=30, num_validation_crops=1, crops=CropConfig(crop_seconds=1.024, batch_size=8))


@dataclass(frozen=True, kw_only=True)
class ScalingBenchmark:
    """Configuration of the scaling benchmark."""

    workers: Annotated[tuple[Annotated[int, Gt(0)], ...], MinLen(1)] = (1, 2)
    """Numbers of DDP workers; the first is the baseline."""
    rounds: Annotated[int, Gt(0)] = 3
    """Repetitions of each run, in turns; the median is reported."""
    shards: str = ""
    """Shards to train on; default: 24 synthetic songs of 12 s."""
    songs: SyntheticConfig = field(
        default_factory=lambda: SyntheticConfig(num_train=24, num_valid=2, num_test=0, seconds=12.0)
    )
    """Synthetic songs, used if no shards are specified."""
    train: TrainConfig = field(default_factory=_run)
    """The training run; its first third of steps is not timed."""


@dataclass(frozen=True, kw_only=True)
class _Speed:
    """Medians over the logged intervals of a run."""

    crops_per_second: float
    data_wait: float


def run(config: ScalingBenchmark) -> Sequence[Table]:
    """Return one table with the batch shared among workers and one with a fixed batch per worker.

    Raises ConfigError if the run is too short to be timed, and the errors of `fit`.
    """
    batch, first = config.train.crops.batch_size, config.workers[0]
    shared = dict.fromkeys(config.workers, batch)
    each = {number: batch * number // first for number in config.workers}
    setups = dict.fromkeys([*shared.items(), *each.items()])
    found: dict[tuple[int, int], list[_Speed]] = {setup: [] for setup in setups}
    with tempfile.TemporaryDirectory() as folder, connect():
        shards = config.shards or _write_songs(Path(folder) / "songs", config.songs)
        for number in range(config.rounds):
            for setup in setups:
                name = f"workers-{setup[0]}-batch-{setup[1]}-round-{number}"
                train = replace(config.train, shards=shards, output_dir=folder, name=name)
                found[setup].append(_measured(train, *setup))
    description = f"{config.train.steps} steps of `cyclesep train` ({config.train.method.recipe})"
    return [
        _table(f"{description}, a batch of {batch} crops shared among workers", shared, found),
        _table(f"{description}, {batch // first} crops for each worker", each, found),
    ]


def _write_songs(folder: Path, songs: SyntheticConfig) -> str:
    folder.mkdir()
    write_songs(folder, synthetic_tracks(songs))
    return str(folder)


def _measured(train: TrainConfig, workers: int, batch_size: int) -> _Speed:
    train = settings.replace(
        train, {"num_workers": workers, "crops.batch_size": batch_size, "validate_every": train.steps}
    )
    report = fit(train, show=False)
    scalars = read_scalars(report.folder)
    rates = scalars.get("perf/crops_per_second", ScalarSeries())
    # The last value covers a fraction of a second only.
    counted = [i for i, step in enumerate(rates.steps) if _WARM_UP * train.steps < step < train.steps]
    if not counted:
        raise ConfigError(
            f"train.steps={train.steps}: too few to be timed, because speed is logged once a second; increase it"
        )
    return _Speed(
        crops_per_second=statistics.median(rates.values[i] for i in counted),
        data_wait=statistics.median(scalars["perf/data_wait_fraction"].values[i] for i in counted),
    )


def _table(title: str, setups: dict[int, int], found: dict[tuple[int, int], list[_Speed]]) -> Table:
    first = next(iter(setups))
    rates = {
        number: statistics.median(speed.crops_per_second for speed in found[number, batch])
        for number, batch in setups.items()
    }
    rows = [
        Row(
            method=_label(number),
            rate=rates[number],
            columns={
                "efficiency": rates[number] / rates[first] * first / number,
                "step ms": 1e3 * batch / rates[number],
                "data wait %": 100 * statistics.median(speed.data_wait for speed in found[number, batch]),
            },
        )
        for number, batch in setups.items()
    ]
    return Table(title=title, unit=UNIT, baseline=_label(first), rows=tuple(rows))


def _label(workers: int) -> str:
    return f"{workers} worker{'s' if workers > 1 else ''}"
