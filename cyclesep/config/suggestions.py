"""Suggestions for mistyped names in error messages."""

import difflib
from collections.abc import Iterable


def closest(name: str, known: Iterable[str], *, cutoff: float = 0.6) -> str | None:
    """Return the known name most similar to `name`, or None if none reaches the similarity `cutoff`."""
    return next(iter(difflib.get_close_matches(name, list(known), n=1, cutoff=cutoff)), None)


def closest_setting(name: str, known: Iterable[str]) -> str | None:
    """Return the dotted setting most similar to `name`: by its whole name, else by its last part alone."""
    known = list(known)
    last = name.rpartition(".")[2]
    return closest(name, known, cutoff=0.5) or next(
        (setting for setting in known if closest(last, [setting.rpartition(".")[2]])), None
    )


def did_you_mean(name: str, known: Iterable[str], *, label: str = "known") -> str:
    """Return `did you mean X?` for the most similar known name, else all known names after `label`."""
    known = list(known)
    near = closest(name, known)
    return f"did you mean {near}?" if near else f"{label}: {', '.join(known)}"
