"""Comparison of recipes with the same songs and compute and several seeds, relative to the supervised gain."""

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
from cyclesep.data.corpora.composer.config import SyntheticConfig
from cyclesep.data.corpora.composer.track import synthetic_tracks
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
_TFSEP: Mapping[str, Any] = {
    "separator": {"name": "tfsep", "depth": 2, "unet_levels": 0},
    "optimizer": {"lr_separator": 2e-3},
}
# The cycle without a gradient through the residual, which is the default.
_BOOTSTRAP = {"cycle": 0.0, "bootstrap": 10.0}
_NOTEBOOK = {
    "preset": "notebook",
    "notebook_exact": True,
    "separator": {"original_layers": True},
    "discriminator": {"phase_shuffle": 0},
}


def _remix(weights: Mapping[str, float]) -> dict[str, Any]:
    return {**_TFSEP, "recipe": "remix", "loss_weights": weights}


RUNS: Mapping[str, RecipeRun] = {
    SUPERVISED: RecipeRun(method={**_TFSEP, "recipe": "supervised"}, pairing="paired"),
    "supervised, paired, waveunet": RecipeRun(method={"recipe": "supervised"}, pairing="paired"),
    "paired, paired": RecipeRun(method={**_TFSEP, "recipe": "paired"}, pairing="paired", adversarial_fraction=0.3),
    "remix, paired": RecipeRun(method={**_TFSEP, "recipe": "remix"}, pairing="paired", adversarial_fraction=0.3),
    "remix, semi-supervised": RecipeRun(method=_remix(_BOOTSTRAP), pairing="semi_supervised", adversarial_fraction=0.3),
    "remix, unpaired": RecipeRun(method=_remix(_BOOTSTRAP), pairing="unpaired", adversarial_fraction=0.3),
    "remix, unpaired, discriminators from the first step": RecipeRun(method=_remix(_BOOTSTRAP), pairing="unpaired"),
    "remix, unpaired, adversarial weight 0": RecipeRun(
        method=_remix({**_BOOTSTRAP, "adversarial": 0.0}), pairing="unpaired"
    ),
    "remix, unpaired, gradient through the residual": RecipeRun(
        method=_remix({"cycle": 10.0, "bootstrap": 0.0}), pairing="unpaired", adversarial_fraction=0.3
    ),
    "discriminators alone, unpaired": RecipeRun(
        method=_remix({"cycle": 0.0, "bootstrap": 0.0, "identity": 0.0}), pairing="unpaired"
    ),
    "cyclegan, unpaired": RecipeRun(method={**_TFSEP, "recipe": "cyclegan"}, pairing="unpaired"),
    "notebook preset, unpaired": RecipeRun(method={"preset": "notebook"}, pairing="unpaired"),
    "notebook preset, supervised, paired": RecipeRun(
        method={"preset": "notebook", "recipe": "supervised"}, pairing="paired"
    ),
    "the notebook's step, paired": RecipeRun(method=_NOTEBOOK, pairing="paired"),
}


@dataclass(frozen=True, kw_only=True)
class RecipesBenchmark:
    """Configuration of the recipe benchmark."""

    folder: str = "runs/recipes-benchmark"
    """Folder of the synthetic songs and of the results of finished runs; the same settings resume there."""
    runs: tuple[str, ...] = tuple(RUNS)
    """Names of the rows to run."""
    seeds: Annotated[int, Gt(0)] = 3
    """Number of seeds (0, 1, ...) per row, for crops and initial weights."""
    cpu_seconds: Annotated[float, Gt(0)] = 120.0
    """CPU seconds of each training run, on one thread; ignored if `steps` is set."""
    steps: Annotated[int, Gt(0)] | None = None
    """Steps of each training run; none: as many as fit into `cpu_seconds`."""
    width: Annotated[int, Gt(0), MultipleOf(8)] = 16
    """Channels of the first layers of all networks, including those of the notebook preset."""
    depth: Annotated[int, Gt(0)] | None = None
    """Levels or blocks of all separators; none: 2 for tfsep, otherwise the network's default."""
    crops: CropConfig = field(default_factory=lambda: CropConfig(crop_seconds=1.024, batch_size=8))
    """Crops of all runs, except for their pairing, which each row sets."""
    songs: SyntheticConfig = field(
        default_factory=lambda: SyntheticConfig(num_train=96, num_valid=0, num_test=12, seconds=12.0)
    )
    """Synthetic songs for training and testing."""


def run(config: RecipesBenchmark) -> Sequence[Table]:
    """Run all unfinished trainings and evaluations and return the table.

    Raises ConfigError for an unknown row, StorageError if the folder cannot be written.
    """
    unknown = [name for name in config.runs if name not in RUNS]
    if unknown:
        raise ConfigError(f"runs: no row named {unknown[0]!r}; known: {', '.join(RUNS)}")
    folder = Path(config.folder)
    songs = _Songs.load(config, folder)
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
    synthetic: ShardReader
    real: ShardReader
    """Six seconds of a MUSDB18 test track from stempeg."""

    @classmethod
    def load(cls, config: RecipesBenchmark, folder: Path) -> "_Songs":
        """Return the shards of these songs, writing them if they do not exist."""
        digest = _digest(settings.to_dict(config.songs))
        return cls(
            synthetic=_shards(folder / f"songs-{digest}", lambda: synthetic_tracks(config.songs)),
            real=_shards(
                folder / "excerpt",
                lambda: musdb18.find_tracks(Path(stempeg.example_stem_path()), default_split="test"),
            ),
        )

    def scored(self, score: Callable[[ShardReader], Mapping[str, float]]) -> dict[str, float]:
        """Return the scores on the synthetic songs, and as `real ...` those on the real track."""
        real = {f"real {metric}": value for metric, value in score(self.real).items()}
        return {**score(self.synthetic), **real}


def _shards(folder: Path, tracks: Callable[[], Iterable[Track]]) -> ShardReader:
    if not (folder / MANIFEST_NAME).exists():
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as problem:
            raise StorageError(f"{folder}: cannot be created ({problem.strerror}); choose another folder=") from problem
        recipe_runs.write_songs(folder, tracks())
    return ShardReader(folder)


def _references(config: RecipesBenchmark, songs: _Songs, done: "_Results") -> Mapping[str, Mapping[str, float]]:
    key = _digest({"songs": settings.to_dict(config.songs)})
    if key not in done.rows:
        for name, score in recipe_runs.REFERENCES.items():
            done.add(f"{key}/{name}", {"method": name, **songs.scored(score)})
        done.add(key, {"method": "references"})
    prefix = f"{key}/"
    return {row["method"]: row for found, row in done.rows.items() if found.startswith(prefix)}


def _finished(config: RecipesBenchmark, name: str, seed: int, songs: _Songs, done: "_Results") -> Mapping[str, float]:
    """Return the row of one run, running it unless there is a result with the same settings."""
    recipe = _sized(RUNS[name], config)
    values = settings.to_dict(config)
    relevant = {part: values[part] for part in ("cpu_seconds", "steps", "crops", "songs")}
    key = _digest({**dataclasses.asdict(recipe), "seed": seed, **relevant})
    if key not in done.rows:
        separator, cost = recipe_runs.train(
            recipe, songs.synthetic, config.crops, seed=seed, steps=config.steps, cpu_seconds=config.cpu_seconds
        )
        scores = songs.scored(lambda reader: recipe_runs.score_separator(separator, reader))
        done.add(key, {"method": name, "seed": seed, **cost, **scores})
    return done.rows[key]


def _sized(run: RecipeRun, config: RecipesBenchmark) -> RecipeRun:
    depth = {} if config.depth is None else {"depth": config.depth}
    separator = {"channels": config.width, **run.method.get("separator", {}), **depth}
    discriminator = {"channels": config.width, **run.method.get("discriminator", {})}
    return dataclasses.replace(run, method={**run.method, "separator": separator, "discriminator": discriminator})


def _table(
    config: RecipesBenchmark,
    references: Mapping[str, Mapping[str, Any]],
    found: Mapping[str, Sequence[Mapping[str, float]]],
) -> Table:
    mixture_si_sdr = references["mixture"]["SI-SDR"]
    budget = f"{config.steps} steps" if config.steps else f"{config.cpu_seconds:g} CPU s"
    rows = [_row(name, runs, mixture_si_sdr) for name, runs in found.items()]
    rows += [_row(name, [scores], mixture_si_sdr) for name, scores in references.items()]
    return Table(
        title=f"Vocals of {config.songs.num_test} synthetic songs after {budget} a run, {config.seeds} seeds. "
        "Gain: SI-SDRi in dB, the improvement of SI-SDR over the mixture. SDR, SIR, SAR: museval v4, median of songs. "
        "Real: six seconds of a MUSDB18 test track",
        unit=UNIT,
        baseline=SUPERVISED,
        rows=tuple(rows),
    )


def _row(name: str, runs: Sequence[Mapping[str, float]], mixture_si_sdr: float) -> Row:
    """Average over seeds; `+-` is half the difference between the best and the worst seed's SI-SDR."""
    columns: dict[str, float | str] = {metric: float(np.mean([run[metric] for run in runs])) for metric in SHOWN}
    if "steps" in runs[0]:
        columns["+-"] = float(np.ptp([run["SI-SDR"] for run in runs])) / 2
        columns |= {about: float(np.mean([run[about] for run in runs])) for about in ("steps", "CPU s", "parameters")}
    return Row(method=name, rate=float(columns["SI-SDR"]) - mixture_si_sdr, columns=columns)


class _Results:
    """Finished rows by key, one JSON object per line; the file is rewritten atomically with every row."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: dict[str, dict[str, Any]] = {}
        if path.exists():
            lines = [json.loads(line) for line in path.read_text().splitlines()]
            self.rows = {line.pop("key"): line for line in lines}

    def add(self, key: str, row: Mapping[str, Any]) -> None:
        """Add a row and write the file."""
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
