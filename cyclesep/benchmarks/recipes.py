"""The recipes side by side: same songs, same compute, several seeds; what each learns of the supervised gain."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from annotated_types import Gt, MultipleOf

from cyclesep import settings
from cyclesep.benchmarks import recipe_runs
from cyclesep.benchmarks.recipe_runs import METRICS, RecipeRun
from cyclesep.benchmarks.table import Row, Table
from cyclesep.corpus.synthetic import SyntheticConfig
from cyclesep.crops.config import CropConfig
from cyclesep.errors import ConfigError, StorageError
from cyclesep.files import write_text
from cyclesep.shards import ShardReader
from cyclesep.shards.manifest import MANIFEST_NAME

SUPERVISED = "supervised, paired"
UNIT = "dB of SDR above the mixture"

_NOTEBOOK = {"preset": "seed", "seed_exact": True, "separator": {"exact": True}, "discriminator": {"phase_shuffle": 0}}
RUNS: Mapping[str, RecipeRun] = {
    SUPERVISED: RecipeRun(cyclegan={"recipe": "supervised"}, pairing="paired"),
    "paired, paired": RecipeRun(cyclegan={"recipe": "paired"}, pairing="paired"),
    "remix, paired": RecipeRun(cyclegan={"recipe": "remix"}, pairing="paired"),
    "remix, semi-supervised": RecipeRun(cyclegan={"recipe": "remix"}, pairing="semi_supervised"),
    "remix, unpaired": RecipeRun(cyclegan={"recipe": "remix"}, pairing="unpaired"),
    "remix without discriminators, unpaired": RecipeRun(
        cyclegan={"recipe": "remix", "loss_weights": {"adversarial": 0.0}}, pairing="unpaired"
    ),
    "discriminators alone, unpaired": RecipeRun(
        cyclegan={"recipe": "remix", "loss_weights": {"cycle": 0.0, "identity": 0.0}}, pairing="unpaired"
    ),
    "cyclegan, unpaired": RecipeRun(cyclegan={"recipe": "cyclegan"}, pairing="unpaired"),
    "seed preset, unpaired": RecipeRun(cyclegan={"preset": "seed"}, pairing="unpaired"),
    "seed preset, supervised, paired": RecipeRun(cyclegan={"preset": "seed", "recipe": "supervised"}, pairing="paired"),
    "the notebook's own step, paired": RecipeRun(cyclegan=_NOTEBOOK, pairing="paired"),
}


@dataclass(frozen=True, kw_only=True)
class RecipesBenchmark:
    """Which rows, on which songs, for how long."""

    folder: str = "runs/recipes-benchmark"
    """Holds the composed songs and a line for each finished run; the same settings go on where they stopped."""
    runs: tuple[str, ...] = tuple(RUNS)
    """Rows, by name."""
    seeds: Annotated[int, Gt(0)] = 3
    """Runs of each row: 0 and up, for crops and initial weights."""
    cpu_seconds: Annotated[float, Gt(0)] = 150.0
    """Processor time of each training run, on one thread; `steps` comes first."""
    steps: Annotated[int, Gt(0)] | None = None
    """Steps of each training run; none: as many as fit into `cpu_seconds`."""
    width: Annotated[int, Gt(0), MultipleOf(8)] = 16
    """Channels of the first layers of all networks, those of the seed preset too."""
    depth: Annotated[int, Gt(0)] | None = None
    """Levels or blocks of all separators; none: each network's own."""
    crops: CropConfig = field(default_factory=lambda: CropConfig(crop_seconds=1.024, batch_size=8))
    """Crops of all runs but for their pairing, which is the row's."""
    songs: SyntheticConfig = field(
        default_factory=lambda: SyntheticConfig(num_train=48, num_valid=0, num_test=8, seconds=12.0)
    )
    """Composed songs, trained on and tested on."""


def run(config: RecipesBenchmark) -> Sequence[Table]:
    """Train, separate and score what has not been done yet; then the table of all.

    Raises ConfigError for a row that does not exist, StorageError for a folder that cannot be written.
    """
    unknown = [name for name in config.runs if name not in RUNS]
    if unknown:
        raise ConfigError(f"runs: there is no {unknown[0]!r}; known: {', '.join(RUNS)}")
    folder = Path(config.folder)
    reader = _songs(config, folder)
    done = _Results(folder / "rows.jsonl")
    with _one_thread():
        references = _references(config, reader, done)
        for seed in range(config.seeds):
            for name in config.runs:
                _finished(config, name, seed, reader, done)
    found = {
        name: [_finished(config, name, seed, reader, done) for seed in range(config.seeds)] for name in config.runs
    }
    return [_table(config, references, found)]


def _songs(config: RecipesBenchmark, folder: Path) -> ShardReader:
    """The shards of these songs, composed if they are not there."""
    shards = folder / f"songs-{_digest(settings.to_dict(config.songs))}"
    if not (shards / MANIFEST_NAME).exists():
        try:
            shards.mkdir(parents=True, exist_ok=True)
        except OSError as problem:
            raise StorageError(f"{shards}: cannot be made ({problem.strerror}); choose another folder=") from problem
        recipe_runs.compose_songs(shards, config.songs)
    return ShardReader(shards)


def _references(config: RecipesBenchmark, reader: ShardReader, done: "_Results") -> Mapping[str, Mapping[str, float]]:
    key = _digest({"songs": settings.to_dict(config.songs)})
    if key not in done.rows:
        for name, scores in recipe_runs.score_references(reader).items():
            done.add(f"{key}/{name}", {"way": name, **scores})
        done.add(key, {"way": "references"})
    prefix = f"{key}/"
    return {row["way"]: row for found, row in done.rows.items() if found.startswith(prefix)}


def _finished(
    config: RecipesBenchmark, name: str, seed: int, reader: ShardReader, done: "_Results"
) -> Mapping[str, float]:
    """The row of one run, made unless a line of the same settings is there."""
    recipe = _sized(RUNS[name], config)
    told = settings.to_dict(config)
    same = {part: told[part] for part in ("cpu_seconds", "steps", "crops", "songs")}
    key = _digest({"cyclegan": recipe.cyclegan, "pairing": recipe.pairing, "seed": seed, **same})
    if key not in done.rows:
        separator, cost = recipe_runs.train(
            recipe, reader, config.crops, seed=seed, steps=config.steps, cpu_seconds=config.cpu_seconds
        )
        done.add(key, {"way": name, "seed": seed, **cost, **recipe_runs.score_separator(separator, reader)})
    return done.rows[key]


def _sized(recipe: RecipeRun, config: RecipesBenchmark) -> RecipeRun:
    separator = {"width": config.width, "depth": config.depth, **recipe.cyclegan.get("separator", {})}
    discriminator = {"width": config.width, **recipe.cyclegan.get("discriminator", {})}
    return RecipeRun(
        cyclegan={**recipe.cyclegan, "separator": separator, "discriminator": discriminator}, pairing=recipe.pairing
    )


def _table(
    config: RecipesBenchmark,
    references: Mapping[str, Mapping[str, Any]],
    found: Mapping[str, Sequence[Mapping[str, float]]],
) -> Table:
    floor = references["mixture"]["SDR"]
    budget = f"{config.steps} steps" if config.steps else f"{config.cpu_seconds:g} CPU s"
    rows = [_row(name, runs, floor) for name, runs in found.items()]
    rows += [_row(name, [scores], floor) for name, scores in references.items()]
    return Table(
        title=f"Vocals of {config.songs.num_test} composed songs after {budget} a run; {config.seeds} seeds; "
        "SDR, SIR, SAR: museval v4, median of songs",
        unit=UNIT,
        baseline=SUPERVISED,
        rows=tuple(rows),
    )


def _row(name: str, runs: Sequence[Mapping[str, float]], floor: float) -> Row:
    """Means over the seeds; the spread is half the distance between the best and the worst seed's SDR."""
    columns: dict[str, float | str] = {metric: float(np.mean([run[metric] for run in runs])) for metric in METRICS}
    if "steps" in runs[0]:
        columns["+-"] = float(np.ptp([run["SDR"] for run in runs])) / 2
        columns |= {about: float(np.mean([run[about] for run in runs])) for about in ("steps", "CPU s", "parameters")}
    return Row(way=name, rate=float(columns["SDR"]) - floor, columns=columns)


class _Results:
    """Finished rows by key, one JSON object a line; the file appears whole or not at all with every row."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: dict[str, dict[str, Any]] = {}
        if path.exists():
            lines = [json.loads(line) for line in path.read_text().splitlines()]
            self.rows = {line.pop("key"): line for line in lines}

    def add(self, key: str, row: Mapping[str, Any]) -> None:
        """Keep a row, here and in the file."""
        self.rows[key] = dict(row)
        lines = [json.dumps({"key": key, **row}, ensure_ascii=False) for key, row in self.rows.items()]
        write_text(self.path, "\n".join(lines) + "\n")


def _digest(values: Mapping[str, Any]) -> str:
    return hashlib.blake2b(json.dumps(values, sort_keys=True).encode(), digest_size=8).hexdigest()


@contextmanager
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
