"""What became of one track under one system: a row for each of its targets, or the reason why there are none."""

from dataclasses import dataclass

from cyclesep.evaluation.track_scores import TrackRow


@dataclass(frozen=True, kw_only=True)
class TrackResult:
    """One track under one system; what it took stands in every row."""

    rows: tuple[TrackRow, ...]

    @classmethod
    def failure(
        cls, *, system: str, checkpoint: str, track_id: str, split: str, targets: tuple[str, ...], reason: str
    ) -> "TrackResult":
        """A row for each target that should have been scored, or one without a target if they are not known."""
        rows = tuple(
            TrackRow(system=system, checkpoint=checkpoint, track_id=track_id, split=split, target=target, reason=reason)
            for target in targets or ("",)
        )
        return cls(rows=rows)

    @property
    def system(self) -> str:
        return self.rows[0].system

    @property
    def track_id(self) -> str:
        return self.rows[0].track_id

    @property
    def reason(self) -> str:
        """Why the track could not be scored; empty if it was."""
        return self.rows[0].reason

    @property
    def seconds(self) -> float:
        """Of audio."""
        return self.rows[0].seconds

    @property
    def failed(self) -> bool:
        return bool(self.reason)

    def __str__(self) -> str:
        told = self.reason.removeprefix(f"{self.track_id}: ") or "scored"
        return f"{self.system}: {self.track_id}: {told}"
