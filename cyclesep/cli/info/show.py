"""Descriptions as text in the terminal: a few lines and small tables, 80 columns wide."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from cyclesep.checkpoints.metadata import format_validation
from cyclesep.cli.info.descriptions import (
    CheckpointDescription,
    CorpusDescription,
    Description,
    EvaluationScores,
    RunDescription,
)
from cyclesep.console.terminal_table import plain_table
from cyclesep.evaluation import score_display


def show(description: Description, console: Console) -> None:
    """Print a description."""
    match description:
        case CorpusDescription():
            _show_corpus(description, console)
        case CheckpointDescription():
            _show_checkpoint(description, console)
        case RunDescription():
            _show_run(description, console)


def format_bytes(num_bytes: int) -> str:
    """Format a number of bytes with a unit: 950 B, 1.2 MB, 3.4 GB (powers of 1000)."""
    number = float(num_bytes)
    for unit in ("B", "kB", "MB", "GB"):
        if number < 1000:
            return f"{number:.0f} {unit}" if unit == "B" else f"{number:.1f} {unit}"
        number /= 1000
    return f"{number:.1f} TB"


def format_duration(hours: float) -> str:
    """Format a duration in seconds, minutes or hours."""
    seconds = hours * 3600
    if seconds < 120:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} minutes" if hours < 2 else f"{hours:.1f} hours"


def _show_corpus(corpus: CorpusDescription, console: Console) -> None:
    splits = ", ".join(f"{split.name} {split.tracks} ({format_duration(split.hours)})" for split in corpus.splits)
    _lines(
        console,
        f"{corpus.path}: shards",
        {
            "audio": f"{corpus.tracks} tracks, {format_duration(corpus.hours)}, "
            f"{_format(corpus.sample_rate, corpus.channels)}",
            "splits": splits,
            "disk": format_bytes(corpus.disk_bytes),
            "clipped": f"{corpus.clipped_tracks} tracks" if corpus.clipped_tracks else "",
            "warnings": f"{corpus.warned_tracks} tracks (see the manifest)" if corpus.warned_tracks else "",
            "manifest": corpus.digest[:12],
        },
    )
    with_lufs = any(stem.lufs is not None for stem in corpus.stems)
    table = plain_table("stem", right=("tracks", "length", "level dB", "silent", *(["LUFS"] if with_lufs else [])))
    for stem in corpus.stems:
        loudness = ["-" if stem.lufs is None else f"{stem.lufs:.1f}"] if with_lufs else []
        level = "-" if stem.level_db is None else f"{stem.level_db:.1f}"
        table.add_row(
            stem.name,
            str(stem.tracks),
            format_duration(stem.hours),
            level,
            f"{100 * stem.silent_fraction:.1f} %",
            *loudness,
        )
    console.print()
    console.print(table)
    legend = f"level: mean power of seconds above {corpus.silence_threshold_db:g} dB; silent: seconds below that level"
    console.print(f"{legend}; LUFS: median over tracks" if with_lufs else legend, style="dim")


def _show_checkpoint(checkpoint: CheckpointDescription, console: Console) -> None:
    _lines(console, f"{checkpoint.path}: checkpoint", _facts(checkpoint))


def _facts(checkpoint: CheckpointDescription) -> dict[str, str]:
    metadata = checkpoint.metadata
    duration = format_duration(metadata.training_seconds / 3600)
    return {
        "separates": f"{', '.join(metadata.targets)} at {_format(metadata.sample_rate, metadata.channels)}",
        "network": f"{checkpoint.separator}, {checkpoint.parameters:,} parameters",
        "trained": f"{metadata.step} steps in {duration} on {metadata.hardware or 'unknown'}",
        "validation": format_validation(metadata.metrics),
        "made by": f"cyclesep {metadata.version} {metadata.commit}",
        "audio": f"manifest {metadata.manifest_digest[:12]}" if metadata.manifest_digest else "",
        "disk": format_bytes(checkpoint.disk_bytes),
        "settings": ", ".join(f"{name}={_value(value)}" for name, value in checkpoint.changed_settings.items()),
    }


def _show_run(run: RunDescription, console: Console) -> None:
    state = "" if run.finished else ", not finished"
    if run.best is None:
        _lines(console, f"{run.path}: run{state}", {"checkpoints": "none yet", "disk": format_bytes(run.disk_bytes)})
        return
    disk = f"{format_bytes(run.disk_bytes)}, of which the best checkpoint {format_bytes(run.best.disk_bytes)}"
    best = f"{Path(run.best.path).name} is {'the best' if run.finished else 'the last'} of {len(run.checkpoints)}"
    _lines(console, f"{run.path}: run{state}", {"checkpoint": best} | _facts(run.best) | {"disk": disk})
    for scores in run.evaluations:
        _show_scores(scores, console)


def _show_scores(scores: EvaluationScores, console: Console) -> None:
    console.print(f"\n{scores.path}")
    console.print(score_display.summary_table(scores.rows))


def _lines(console: Console, title: str, facts: Mapping[str, str]) -> None:
    console.print(title, style="bold", markup=False, soft_wrap=True)
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(overflow="fold")
    for name, fact in facts.items():
        if fact:
            grid.add_row(f"  {name}", fact)
    console.print(grid, markup=False)


def _format(sample_rate: int, channels: int) -> str:
    return f"{sample_rate} Hz, {channels} channel{'s' * (channels > 1)}"


def _value(value: Any) -> str:
    return "none" if value is None else str(value).replace("'", "").replace(" ", "")
