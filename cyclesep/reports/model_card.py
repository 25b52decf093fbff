"""Model card: origin and settings of a checkpoint or result as readable lines."""

from collections.abc import Mapping
from typing import Any

from cyclesep.reports.jinja import clock

_CHANNELS = {1: "mono", 2: "stereo"}


def nonempty_card(card: Mapping[str, Any]) -> dict[str, str]:
    """Return the lines with a value, as text."""
    return {name: str(value) for name, value in card.items() if value not in (None, "", (), [])}


def checkpoint_card(*, path: str, metadata: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, str]:
    """Return the card of a checkpoint from the contents of its metadata.json and config.yaml."""
    method = config.get("method") or {}
    seconds = metadata.get("training_seconds") or 0.0
    return nonempty_card(
        {
            "checkpoint": path,
            "targets": ", ".join(metadata.get("targets", ())),
            "audio": f"{metadata['sample_rate']:,} Hz, {_CHANNELS.get(metadata['channels'], metadata['channels'])}",
            "steps": f"{metadata['step']:,} of {config.get('steps', metadata['step']):,}",
            "recipe": method.get("recipe"),
            "separator": (method.get("separator") or {}).get("name"),
            "seed": config.get("seed"),
            "shards": config.get("shards"),
            "SHA-256 of the shards": (metadata.get("manifest_digest") or "")[:16],
            "hardware": metadata.get("hardware"),
            "training time": f"{clock(seconds)} minutes" if seconds else "",
            "cyclesep": f"{metadata.get('version') or 'unknown'}, commit {metadata.get('commit') or 'unknown'}",
        }
    )
