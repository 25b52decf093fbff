"""What was separated and what could not be."""

import json
from dataclasses import dataclass
from pathlib import Path

from cyclesep.inference.chunked_inference import Separator


@dataclass(frozen=True, kw_only=True)
class SeparatedFile:
    """One file that was separated."""

    source: Path
    stems: dict[str, Path]
    seconds: float
    wall_seconds: float
    gain: float
    """Factor that the stems were written with: 1, or less where `rescale` had to make them fit."""

    @property
    def times_real_time(self) -> float:
        """Seconds of audio per second of work."""
        return self.seconds / max(self.wall_seconds, 1e-9)


@dataclass(frozen=True, kw_only=True)
class FailedFile:
    """One file that could not be separated."""

    source: Path
    reason: str


@dataclass(frozen=True, kw_only=True)
class SeparationReport:
    """What `separate_paths` has done; whoever calls it exits non-zero if something failed."""

    separated: tuple[SeparatedFile, ...]
    failed: tuple[FailedFile, ...]
    checkpoint: str = ""
    """The checkpoint folder that was taken."""
    device: str = ""

    def to_json(self) -> str:
        """One JSON document: `checkpoint`, `device`, `separated` and `failed`."""
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
        told = {"checkpoint": self.checkpoint, "device": self.device, "separated": separated, "failed": failed}
        return json.dumps(told, indent=2, ensure_ascii=False)


def make_report(
    separator: Separator, device: str, separated: list[SeparatedFile], failed: list[FailedFile]
) -> SeparationReport:
    """The report of a run over files; `separator` may be one that comes from no checkpoint."""
    return SeparationReport(
        separated=tuple(separated),
        failed=tuple(failed),
        checkpoint=str(getattr(separator, "place", "")),
        device=device,
    )
