"""The report of a training run: learning curves, validation, and the card of what it has made."""

from collections.abc import Mapping
from pathlib import Path

from markupsafe import Markup

from cyclesep import __version__
from cyclesep.reports.audio_player import make_player
from cyclesep.reports.figures import Curve, curve_figure
from cyclesep.reports.jinja import clock, number, read_object, write_page
from cyclesep.reports.model_card import checkpoint_card
from cyclesep.reports.tensorboard_reader import Told, read_samples, read_scalars
from cyclesep.storage.path import StoragePath

# Title, axis and the beginnings of the names that stand in one figure; the first that fits takes a curve.
_FIGURES = (
    ("SDR of the validation crops", "dB", ("validation/sdr",)),
    ("SI-SDR of the validation crops, and above that of the mixture", "dB", ("validation/si_sdr",)),
    ("Weighted sum of the separator's losses", "loss", ("separator/total",)),
    ("Share of the time that the workers wait for data", "share", ("perf/data_wait_fraction",)),
    ("Speed over all workers", "crops per second", ("perf/crops_per_second",)),
    ("Time of a step", "seconds", ("perf/step_seconds",)),
    ("Norms of gradients", "norm", ("separator/gradient_norm", "discriminators/gradient_norm")),
    (
        "Energy of the estimates, and of what they leave out, over that of the mixtures",
        "share",
        ("separator/output_energy", "collapse/removed_energy_ratio"),
    ),
    ("Steps left out, near silence, or with everything let through", "steps", ("steps_skipped", "separator/steps_")),
    ("Terms of the separator's losses", "loss", ("separator/",)),
    ("Discriminators", "loss", ("target_discriminator/", "mixture_discriminator/", "discriminators/")),
)
# Present in the folder of a finished run.
RUN = "run.json"
_REMEDY = "give the folder of a run that `cyclesep train` has finished"


def write_training_report(folder: StoragePath | Path | str) -> str:
    """Write report.html into the folder of a run, local or in S3, out of what lies there; gives its place.

    Raises StorageError if the folder holds no finished run, or cannot be written to.
    """
    folder = folder if isinstance(folder, StoragePath) else StoragePath.of(folder)
    run = read_object(folder, RUN, remedy=_REMEDY)
    cards = {
        f"best checkpoint, {run['best']}": _checkpoint(folder, run["best"]),
        f"last checkpoint, {run['last']}": _checkpoint(folder, run["last"]),
    }
    if run["best"] == run["last"]:
        cards.popitem()
    name = folder.uri.rpartition("/")[2]
    last = read_object(folder, f"{run['last']}/metadata.json", remedy=_REMEDY)
    samples = read_samples(folder, system=name)
    rank = "as separated at the last validation"
    players = [make_player(sample, {}, rank=rank, colours={}, frame_seconds=1.0) for sample in samples]
    return write_page(
        folder,
        "training.html",
        {
            "version": __version__,
            "name": name,
            "lead": _lead(last),
            "sections": [("curves", "Curves"), *([("listen", "Listen")] if players else []), ("card", "Card")],
            "figures": _figures(read_scalars(folder)),
            "players": players,
            "cards": cards,
            "config": read_object(folder, "config.yaml", remedy=_REMEDY),
        },
    )


def _checkpoint(folder: StoragePath, name: str) -> dict[str, str]:
    progress = read_object(folder, f"{name}/metadata.json", remedy=_REMEDY)
    metrics = {metric: number(value) for metric, value in progress.get("metrics", {}).items()}
    config = read_object(folder, f"{name}/config.yaml", remedy=_REMEDY)
    return checkpoint_card(path=folder.file_uri(name), progress=progress, config=config) | metrics


def _lead(progress: Mapping[str, object]) -> str:
    told = f"{progress['step']:,} steps"
    metrics = progress.get("metrics")
    if isinstance(metrics, dict) and "validation/sdr" in metrics:
        told += f", validation SDR {number(metrics['validation/sdr'])} dB"
        told += f", SI-SDR {number(metrics['validation/si_sdr_gain'])} dB above the mixture"
    seconds = progress.get("training_seconds")
    return told + (f", {clock(seconds)} minutes of training" if isinstance(seconds, float) else "")


def _figures(scalars: Mapping[str, Told]) -> list[tuple[str, Markup]]:
    """A caption and a figure for each group of curves, then one for each curve that is in none."""
    left = dict(scalars)
    figures = []
    for caption, axis, starts in _FIGURES:
        names = [name for name in left if name.startswith(starts)]
        told = {name: left.pop(name) for name in names}
        if told:
            figures.append((caption, _figure(told, axis, caption)))
    return figures + [(name, _figure({name: told}, "", name)) for name, told in left.items()]


def _figure(scalars: Mapping[str, Told], axis: str, caption: str) -> Markup:
    shown = {name: name.partition("/")[2] or name for name in scalars}
    # Two kinds of networks may have terms of one name.
    names = shown if len(set(shown.values())) == len(shown) else {name: name for name in scalars}
    curves = [
        Curve(name=names[name], x=told.steps, y=told.values, colour=index)
        for index, (name, told) in enumerate(scalars.items())
    ]
    return curve_figure(curves, axis=axis, along="step", label=caption)
