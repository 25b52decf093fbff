"""The recipes side by side: same songs, same compute, several seeds; what each learns of the supervised gain."""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import stempeg
import torch
from annotated_types import Gt, MultipleOf

from benchmarks import recipe_runs
from benchmarks.recipe_runs import METRICS, RecipeRun
from benchmarks.table import Row, Table
from cyclesep.config import settings
from cyclesep.data.corpora import musdb18
from cyclesep.data.corpora.composer.track import SyntheticConfig, synthetic_tracks
from cyclesep.data.corpora.corpus import Track
from cyclesep.data.crops.config import CropConfig
from cyclesep.data.shards.manifest import MANIFEST_NAME
from cyclesep.data.shards.reading import ShardReader
from cyclesep.errors import ConfigError, StorageError
from cyclesep.storage.atomic_io import write_text

SUPERVISED = "supervised, paired"
UNIT = "gain"
SHOWN = (*METRICS, "real SDR", "real SI-SDR")

# The mask network of the quickstart: 23,000 parameters.
_MODERN: Mapping[str, Any] = {
    "separator": {"name": "tfsep", "depth": 2, "levels": 0},
    "optimizer": {"lr_separator": 2e-3},
}
# The way back without a gradient through the residual, which is the default.
_BOOTSTRAP = {"cycle": 0.0, "bootstrap": 10.0}
_NOTEBOOK = {
    "preset": "seed",
    "notebook_exact": True,
    "separator": {"exact": True},
    "discriminator": {"phase_shuffle": 0},
}


def _remix(weights: Mapping[str, float]) -> dict[str, Any]:
    return {**_MODERN, "recipe": "remix", "loss_weights": weights}


RUNS: Mapping[str, RecipeRun] = {
    SUPERVISED: RecipeRun(cyclegan={**_MODERN, "recipe": "supervised"}, pairing="paired"),
    "supervised, paired, waveunet": RecipeRun(cyclegan={"recipe": "supervised"}, pairing="paired"),
    "paired, paired": RecipeRun(cyclegan={**_MODERN, "recipe": "paired"}, pairing="paired", judged_share=0.3),
    "remix, paired": RecipeRun(cyclegan={**_MODERN, "recipe": "remix"}, pairing="paired", judged_share=0.3),
    "remix, semi-supervised": RecipeRun(cyclegan=_remix(_BOOTSTRAP), pairing="semi_supervised", judged_share=0.3),
    "remix, unpaired": RecipeRun(cyclegan=_remix(_BOOTSTRAP), pairing="unpaired", judged_share=0.3),
    "remix, unpaired, discriminators from the first step": RecipeRun(cyclegan=_remix(_BOOTSTRAP), pairing="unpaired"),
    "remix, unpaired, adversarial weight 0": RecipeRun(
        cyclegan=_remix({**_BOOTSTRAP, "adversarial": 0.0}), pairing="unpaired"
    ),
    "remix, unpaired, gradient through the residual": RecipeRun(
        cyclegan=_remix({"cycle": 10.0, "bootstrap": 0.0}), pairing="unpaired", judged_share=0.3
    ),
    "discriminators alone, unpaired": RecipeRun(
        cyclegan=_remix({"cycle": 0.0, "bootstrap": 0.0, "identity": 0.0}), pairing="unpaired"
    ),
    "cyclegan, unpaired": RecipeRun(cyclegan={**_MODERN, "recipe": "cyclegan"}, pairing="unpaired"),
    "seed preset, unpaired": RecipeRun(cyclegan={"preset": "seed"}, pairing="unpaired"),
    "seed preset, supervised, paired": RecipeRun(cyclegan={"preset": "seed", "recipe": "supervised"}, pairing="paired"),
    "the notebook's own step, paired": RecipeRun(cyclegan=_NOTEBOOK, pairing="paired"),
}


@dataclass(frozen=True, kw_only=True)
class RecipesBenchmark:
    """Which rows, on which songs, for how long."""

    folder: str = "runs/recipes-benchmark"
    """Holds the synthetic songs and a line for each finished run; the same settings go on where they stopped."""
    runs: tuple[str, ...] = tuple(RUNS)
    """Rows, by name."""
    seeds: Annotated[int, Gt(0)] = 3
    """Runs of each row: 0 and up, for crops and initial weights."""
    cpu_seconds: Annotated[float, Gt(0)] = 120.0
    """Processor time of each training run, on one thread; `steps` comes first."""
    steps: Annotated[int, Gt(0)] | None = None
    """Steps of each training run; none: as many as fit into `cpu_seconds`."""
    width: Annotated[int, Gt(0), MultipleOf(8)] = 16
    """Channels of the first layers of all networks, those of the seed preset too."""
    depth: Annotated[int, Gt(0)] | None = None
    """Levels or blocks of all separators; none: 2 of tfsep, otherwise the network's own."""
    crops: CropConfig = field(default_factory=lambda: CropConfig(crop_seconds=1.024, batch_size=8))
    """Crops of all runs but for their pairing, which is the row's."""
    songs: SyntheticConfig = field(
        default_factory=lambda: SyntheticConfig(num_train=96, num_valid=0, num_test=12, seconds=12.0)
    )
    """Synthetic songs, trained on and tested on."""


def run(config: RecipesBenchmark) -> Sequence[Table]:
    """Train, separate and score what has not been done yet; then the table of all.

    Raises ConfigError for a row that does not exist, StorageError for a folder that cannot be written.
    """
    unknown = [name for name in config.runs if name not in RUNS]
    if unknown:
        raise ConfigError(f"runs: there is no {unknown[0]!r}; known: {', '.join(RUNS)}")
    folder = Path(config.folder)
    songs = _Songs.local_path(config, folder)
    done = _Results(folder / "rows.jsonl")
    with _one_thread():
        references = _references(config, songs, done)
        for seed in range(config.seeds):
            for name in config.runs:
                _finished(config, name, seed, songs, done)
    found = {name: [_finished(config, name, seed, songs, done) for seed in range(config.seeds)] for name in config.runs}
    return [_table(config, references, found)]


@dataclass(frozen=True, kw_only=True)
class _Songs:
    composed: ShardReader
    real: ShardReader
    """The MUSDB18 test track of which stempeg carries six seconds."""

    @classmethod
    def local_path(cls, config: RecipesBenchmark, folder: Path) -> "_Songs":
        """Shards of these songs, made if they are not there."""
        digest = _digest(settings.to_dict(config.songs))
        return cls(
            composed=_shards(folder / f"songs-{digest}", lambda: synthetic_tracks(config.songs)),
            real=_shards(
                folder / "excerpt",
                lambda: musdb18.find_tracks(Path(stempeg.example_stem_path()), default_split="test"),
            ),
        )

    def scored(self, score: Callable[[ShardReader], Mapping[str, float]]) -> dict[str, float]:
        """Scores on the synthetic songs, and under `real ...` those on the real track."""
        real = {f"real {metric}": value for metric, value in score(self.real).items()}
        return {**score(self.composed), **real}


def _shards(folder: Path, tracks: Callable[[], Iterable[Track]]) -> ShardReader:
    if not (folder / MANIFEST_NAME).exists():
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as problem:
            raise StorageError(f"{folder}: cannot be made ({problem.strerror}); choose another folder=") from problem
        recipe_runs.write_songs(folder, tracks())
    return ShardReader(folder)


def _references(config: RecipesBenchmark, songs: _Songs, done: "_Results") -> Mapping[str, Mapping[str, float]]:
    key = _digest({"songs": settings.to_dict(config.songs)})
    if key not in done.rows:
        for name, score in recipe_runs.REFERENCES.items():
            done.add(f"{key}/{name}", {"way": name, **songs.scored(score)})
        done.add(key, {"way": "references"})
    prefix = f"{key}/"
    return {row["way"]: row for found, row in done.rows.items() if found.startswith(prefix)}


def _finished(config: RecipesBenchmark, name: str, seed: int, songs: _Songs, done: "_Results") -> Mapping[str, float]:
    """The row of one run, made unless a line of the same settings is there."""
    recipe = _sized(RUNS[name], config)
    told = settings.to_dict(config)
    same = {part: told[part] for part in ("cpu_seconds", "steps", "crops", "songs")}
    key = _digest({**dataclasses.asdict(recipe), "seed": seed, **same})
    if key not in done.rows:
        separator, cost = recipe_runs.train(
            recipe, songs.composed, config.crops, seed=seed, steps=config.steps, cpu_seconds=config.cpu_seconds
        )
        scores = songs.scored(lambda reader: recipe_runs.score_separator(separator, reader))
        done.add(key, {"way": name, "seed": seed, **cost, **scores})
    return done.rows[key]


def _sized(run: RecipeRun, config: RecipesBenchmark) -> RecipeRun:
    depth = {} if config.depth is None else {"depth": config.depth}
    separator = {"width": config.width, **run.cyclegan.get("separator", {}), **depth}
    discriminator = {"width": config.width, **run.cyclegan.get("discriminator", {})}
    return dataclasses.replace(run, cyclegan={**run.cyclegan, "separator": separator, "discriminator": discriminator})


def _table(
    config: RecipesBenchmark,
    references: Mapping[str, Mapping[str, Any]],
    found: Mapping[str, Sequence[Mapping[str, float]]],
) -> Table:
    floor = references["mixture"]["SI-SDR"]
    budget = f"{config.steps} steps" if config.steps else f"{config.cpu_seconds:g} CPU s"
    rows = [_row(name, runs, floor) for name, runs in found.items()]
    rows += [_row(name, [scores], floor) for name, scores in references.items()]
    return Table(
        title=f"Vocals of {config.songs.num_test} synthetic songs after {budget} a run, {config.seeds} seeds. "
        "Gain: dB of SI-SDR above the mixture. SDR, SIR, SAR: museval v4, median of songs. "
        "Real: six seconds of a MUSDB18 test track",
        unit=UNIT,
        baseline=SUPERVISED,
        rows=tuple(rows),
    )


def _row(name: str, runs: Sequence[Mapping[str, float]], floor: float) -> Row:
    """Means over the seeds; the spread is half the distance between the best and the worst seed's SI-SDR."""
    columns: dict[str, float | str] = {metric: float(np.mean([run[metric] for run in runs])) for metric in SHOWN}
    if "steps" in runs[0]:
        columns["+-"] = float(np.ptp([run["SI-SDR"] for run in runs])) / 2
        columns |= {about: float(np.mean([run[about] for run in runs])) for about in ("steps", "CPU s", "parameters")}
    return Row(way=name, rate=float(columns["SI-SDR"]) - floor, columns=columns)


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
