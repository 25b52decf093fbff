"""The HTML report of a training run: learning curves, validation audio and model cards."""

from collections.abc import Mapping
from pathlib import Path

from markupsafe import Markup

from cyclesep import __version__
from cyclesep.checkpoints.metadata import CONFIG_FILE, METADATA_FILE, format_validation
from cyclesep.checkpoints.run_folder import RunFolder
from cyclesep.reports.audio_player import make_player
from cyclesep.reports.figures import Curve, curve_figure
from cyclesep.reports.jinja import clock, number, read_object, write_page
from cyclesep.reports.model_card import checkpoint_card
from cyclesep.reports.tensorboard_reader import ScalarSeries, read_samples, read_scalars
from cyclesep.storage.path import StoragePath

# Title, axis and prefixes of the metrics of each figure; a metric is drawn in the first figure that matches.
_FIGURES = (
    ("Validation SDR", "dB", ("validation/sdr",)),
    ("Validation SI-SDR, and SI-SDRi: its improvement over the mixture", "dB", ("validation/si_sdr",)),
    ("Total loss of the separator", "loss", ("separator/total",)),
    ("Fraction of time spent waiting for data", "fraction", ("perf/data_wait_fraction",)),
    ("Throughput of all workers", "crops per second", ("perf/crops_per_second",)),
    ("Step time", "seconds", ("perf/step_seconds",)),
    ("Gradient norms", "norm", ("separator/gradient_norm", "discriminators/gradient_norm")),
    (
        "Output and residual energy (fraction of mixture)",
        "fraction",
        ("separator/output_energy", "collapse/removed_energy_ratio"),
    ),
    ("Skipped and collapsed steps", "steps", ("steps_skipped", "separator/steps_", "collapse/")),
    ("Loss terms of the separator", "loss", ("separator/",)),
    ("Discriminators", "loss", ("target_discriminator/", "mixture_discriminator/", "discriminators/")),
)
_REMEDY = "specify the folder of a finished run of `cyclesep train`"


def write_training_report(folder: StoragePath | Path | str) -> str:
    """Write report.html into the folder of a run, local or in S3, and return its location.

    Raises StorageError if the run has not finished, or the report cannot be written.
    """
    folder = folder if isinstance(folder, StoragePath) else StoragePath.of(folder)
    run = read_object(folder, RunFolder.RESULT, remedy=_REMEDY)
    cards = {
        f"best checkpoint, {run['best']}": _checkpoint_card(folder, run["best"]),
        f"last checkpoint, {run['last']}": _checkpoint_card(folder, run["last"]),
    }
    if run["best"] == run["last"]:
        cards.popitem()
    name = folder.uri.rpartition("/")[2]
    last = read_object(folder, f"{run['last']}/{METADATA_FILE}", remedy=_REMEDY)
    samples = read_samples(folder, system=name)
    note = "output of the last validation"
    players = [make_player(sample, {}, note=note, colours={}, frame_seconds=1.0) for sample in samples]
    return write_page(
        folder,
        "training.html",
        {
            "version": __version__,
            "name": name,
            "lead": _lead(last),
            "sections": [("curves", "Curves"), *([("listen", "Listen")] if players else []), ("card", "Details")],
            "figures": _figures(read_scalars(folder)),
            "players": players,
            "cards": cards,
            "config": read_object(folder, RunFolder.CONFIG, remedy=_REMEDY),
        },
    )


def _checkpoint_card(folder: StoragePath, name: str) -> dict[str, str]:
    metadata = read_object(folder, f"{name}/{METADATA_FILE}", remedy=_REMEDY)
    metrics = {metric: number(value) for metric, value in metadata.get("metrics", {}).items()}
    config = read_object(folder, f"{name}/{CONFIG_FILE}", remedy=_REMEDY)
    return checkpoint_card(path=folder.file_uri(name), metadata=metadata, config=config) | metrics


def _lead(metadata: Mapping[str, object]) -> str:
    """Return a summary of the run: steps, validation scores and training time."""
    lead = f"{metadata['step']:,} steps"
    metrics = metadata.get("metrics")
    if isinstance(metrics, dict) and (scores := format_validation(metrics)):
        lead += f", validation {scores}"
    seconds = metadata.get("training_seconds")
    return lead + (f", {clock(seconds)} minutes of training" if isinstance(seconds, float) else "")


def _figures(scalars: Mapping[str, ScalarSeries]) -> list[tuple[str, Markup]]:
    """Return captions and figures: one per group of metrics, then one for each remaining metric."""
    remaining = dict(scalars)
    figures = []
    for caption, axis, prefixes in _FIGURES:
        names = [name for name in remaining if name.startswith(prefixes)]
        group = {name: remaining.pop(name) for name in names}
        if group:
            figures.append((caption, _figure(group, axis, caption)))
    return figures + [(name, _figure({name: series}, "", name)) for name, series in remaining.items()]


def _figure(scalars: Mapping[str, ScalarSeries], axis: str, caption: str) -> Markup:
    short = {name: name.partition("/")[2] or name for name in scalars}
    # Two networks can have loss terms of the same name.
    names = short if len(set(short.values())) == len(short) else {name: name for name in scalars}
    curves = [
        Curve(name=names[name], x=series.steps, y=series.values, colour=index)
        for index, (name, series) in enumerate(scalars.items())
    ]
    return curve_figure(curves, axis=axis, along="step", label=caption)
