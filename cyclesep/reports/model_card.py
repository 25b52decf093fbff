"""The card of a checkpoint or a result: where it comes from, in lines that a person reads."""

from collections.abc import Mapping
from typing import Any

from cyclesep.reports.jinja import clock

_CHANNELS = {1: "mono", 2: "stereo"}


def shown_card(card: Mapping[str, Any]) -> dict[str, str]:
    """The lines that have something to say, as text."""
    return {name: str(value) for name, value in card.items() if value not in (None, "", (), [])}


def checkpoint_card(*, path: str, progress: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, str]:
    """The card of a checkpoint: `progress` and `config` are what its metadata.json and config.yaml hold."""
    training = config.get("cyclegan") or {}
    seconds = progress.get("training_seconds") or 0.0
    return shown_card(
        {
            "checkpoint": path,
            "targets": ", ".join(progress.get("targets", ())),
            "audio": f"{progress['sample_rate']:,} Hz, {_CHANNELS.get(progress['channels'], progress['channels'])}",
            "steps": f"{progress['step']:,} of {config.get('steps', progress['step']):,}",
            "recipe": training.get("recipe"),
            "separator": (training.get("separator") or {}).get("name"),
            "seed": config.get("seed"),
            "shards": config.get("shards"),
            "digest of the shards": (progress.get("manifest_digest") or "")[:16],
            "trained on": progress.get("hardware"),
            "training time": f"{clock(seconds)} minutes" if seconds else "",
            "cyclesep": f"{progress.get('version') or 'unknown'}, commit {progress.get('commit') or 'unknown'}",
        }
    )
