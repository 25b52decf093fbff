"""Descriptions for people: a few lines and a small table each, 80 columns wide."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from cyclesep.cli.info.descriptions import CheckpointDescription, CorpusDescription, Description, RunDescription, Scores
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


def size(num_bytes: int) -> str:
    """Bytes as people read them: 950 B, 1.2 MB, 3.4 GB (powers of 1000)."""
    number = float(num_bytes)
    for unit in ("B", "kB", "MB", "GB"):
        if number < 1000:
            return f"{number:.0f} {unit}" if unit == "B" else f"{number:.1f} {unit}"
        number /= 1000
    return f"{number:.1f} TB"


def length(hours: float) -> str:
    """Hours as people read them: seconds, minutes or hours."""
    seconds = hours * 3600
    if seconds < 120:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} minutes" if hours < 2 else f"{hours:.1f} hours"


def _show_corpus(corpus: CorpusDescription, console: Console) -> None:
    splits = ", ".join(f"{split.name} {split.tracks} ({length(split.hours)})" for split in corpus.splits)
    _lines(
        console,
        f"{corpus.place}: shards",
        {
            "audio": f"{corpus.tracks} tracks, {length(corpus.hours)}, {corpus.sample_rate} Hz, {corpus.channels} "
            f"channel{'s' * (corpus.channels > 1)}",
            "splits": splits,
            "disk": size(corpus.disk_bytes),
            "clipped": f"{corpus.clipped_tracks} tracks" if corpus.clipped_tracks else "",
            "warnings": f"{corpus.warned_tracks} tracks, told in the manifest" if corpus.warned_tracks else "",
            "manifest": corpus.digest[:12],
        },
    )
    with_lufs = any(stem.lufs is not None for stem in corpus.stems)
    table = plain_table("stem", right=("tracks", "length", "level dB", "silent", *(["LUFS"] if with_lufs else [])))
    for stem in corpus.stems:
        loudness = ["-" if stem.lufs is None else f"{stem.lufs:.1f}"] if with_lufs else []
        level = "-" if stem.level_db is None else f"{stem.level_db:.1f}"
        table.add_row(
            stem.name, str(stem.tracks), length(stem.hours), level, f"{100 * stem.silent_share:.1f} %", *loudness
        )
    console.print()
    console.print(table)
    told = f"level: mean power of the seconds above {corpus.silence_threshold_db:g} dB; silent: share of those below"
    console.print(f"{told}; LUFS: median over tracks" if with_lufs else told, style="dim")


def _show_checkpoint(checkpoint: CheckpointDescription, console: Console) -> None:
    _lines(console, f"{checkpoint.place}: checkpoint", _card(checkpoint))


def _card(checkpoint: CheckpointDescription) -> dict[str, str]:
    card = checkpoint.card
    metrics = [
        f"{told} {card.metrics[name]:{form}} dB"
        for name, told, form in (
            ("validation/sdr", "SDR", ".2f"),
            ("validation/si_sdr_gain", "SI-SDR against the mixture", "+.2f"),
        )
        if name in card.metrics
    ]
    return {
        "separates": f"{', '.join(card.targets)} at {card.sample_rate} Hz, {card.channels} "
        f"channel{'s' * (card.channels > 1)}",
        "network": f"{checkpoint.separator}, {checkpoint.parameters:,} parameters",
        "trained": f"{card.step} steps in {length(card.training_seconds / 3600)} on {card.hardware or 'unknown'}",
        "validation": ", ".join(metrics),
        "made by": f"cyclesep {card.version} {card.commit}",
        "audio": f"manifest {card.manifest_digest[:12]}" if card.manifest_digest else "",
        "disk": size(checkpoint.disk_bytes),
        "settings": ", ".join(f"{name}={_word(value)}" for name, value in checkpoint.changed_settings.items()),
    }


def _show_run(run: RunDescription, console: Console) -> None:
    state = "" if run.finished else ", not finished"
    if run.best is None:
        _lines(console, f"{run.place}: run{state}", {"checkpoints": "none yet", "disk": size(run.disk_bytes)})
        return
    disk = f"{size(run.disk_bytes)}, of which the best checkpoint {size(run.best.disk_bytes)}"
    best = f"{Path(run.best.place).name} is {'the best' if run.finished else 'the last'} of {len(run.checkpoints)}"
    _lines(console, f"{run.place}: run{state}", {"checkpoint": best} | _card(run.best) | {"disk": disk})
    for scores in run.evaluations:
        _show_scores(scores, console)


def _show_scores(scores: Scores, console: Console) -> None:
    console.print(f"\n{scores.place}")
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


def _word(value: Any) -> str:
    return "none" if value is None else str(value).replace("'", "").replace(" ", "")
