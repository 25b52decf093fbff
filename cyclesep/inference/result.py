"""The result of `cyclesep separate`: separated and failed files."""

import json
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class SeparatedFile:
    """A file that was separated."""

    source: Path
    stems: dict[str, Path]
    seconds: float
    """Duration of the audio."""
    wall_seconds: float
    gain: float
    """Factor applied to the stems: 1, or less if `rescale` reduced it."""

    @property
    def times_real_time(self) -> float:
        """Seconds of audio per second of wall-clock time."""
        return self.seconds / max(self.wall_seconds, 1e-9)


@dataclass(frozen=True, kw_only=True)
class FailedFile:
    """A file that could not be separated."""

    source: Path
    reason: str


@dataclass(frozen=True, kw_only=True)
class SeparationResult:
    """All files of a separation."""

    separated: tuple[SeparatedFile, ...]
    failed: tuple[FailedFile, ...]
    checkpoint: str = ""
    """The checkpoint's path or URI; empty if the separator was not loaded from one."""
    device: str = ""

    def to_json(self) -> str:
        """Return one JSON document with `checkpoint`, `device`, `separated` and `failed`."""
        separated = [
            {
                "source": str(file.source),
                "stems": {stem: str(path) for stem, path in file.stems.items()},
                "seconds": round(file.seconds, 6),
                "wall_seconds": round(file.wall_seconds, 3),
                "times_real_time": round(file.times_real_time, 2),
                "gain": file.gain,
            }
            for file in self.separated
        ]
        failed = [{"source": str(file.source), "reason": file.reason} for file in self.failed]
        document = {"checkpoint": self.checkpoint, "device": self.device, "separated": separated, "failed": failed}
        return json.dumps(document, indent=2, ensure_ascii=False)
