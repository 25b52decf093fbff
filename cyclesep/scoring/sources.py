"""The signals that are compared, read block by block as float64, and how they are paired."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cyclesep.errors import ScoringError

Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Sources:
    """Reference signals, then estimate signals: each `(channels, time)` of any real type, all of one shape.

    They stay as they came (int16 of a track takes a quarter of its float64); `read` converts what is asked for and
    multiplies by `scale`, which brings 16-bit samples to the range of -1 to 1 that museval's ridge is meant for.
    """

    signals: tuple[NDArray[np.number], ...]
    num_references: int
    scale: float = 1.0

    def __post_init__(self) -> None:
        shapes = {signal.shape for signal in self.signals}
        if len(shapes) != 1:
            raise ScoringError(f"references and estimates have the shapes {sorted(shapes)}; they must be one")

    @property
    def channels(self) -> int:
        return int(self.signals[0].shape[0])

    @property
    def num_samples(self) -> int:
        return int(self.signals[0].shape[1])

    @property
    def reference_channels(self) -> int:
        return self.num_references * self.channels

    @property
    def all_channels(self) -> int:
        return len(self.signals) * self.channels

    def read(self, start: int, stop: int, out: Array) -> None:
        """Write samples `start:stop` to `out` (all channels, stop - start); zeros before and after the track."""
        first, last = max(start, 0), min(stop, self.num_samples)
        blocks = out.reshape(len(self.signals), self.channels, out.shape[1])
        for block, signal in zip(blocks, self.signals, strict=True):
            np.multiply(signal[:, first:last], self.scale, out=block[:, first - start : last - start], dtype=np.float64)
        out[:, : first - start] = 0.0
        out[:, max(last, start) - start :] = 0.0


@dataclass(frozen=True, kw_only=True)
class Pairing:
    """Which sums of signals are scored against each other: for each target the indices of the references that
    are added up, and those of the estimates (counted from the first estimate).

    Vocals against accompaniment is a pairing of the same signals as the four stems, so both share all spectra.
    """

    references: tuple[tuple[int, ...], ...]
    estimates: tuple[tuple[int, ...], ...]

    @property
    def num_targets(self) -> int:
        return len(self.references)

    def reference_mixing(self, sources: Sources) -> Array:
        """The 0/1 matrix (targets x channels, reference channels) that adds the references up."""
        return _mixing(self.references, sources.num_references, sources.channels)

    def estimate_mixing(self, sources: Sources) -> Array:
        """The 0/1 matrix (targets x channels, estimate channels) that adds the estimates up."""
        return _mixing(self.estimates, len(sources.signals) - sources.num_references, sources.channels)

    def silent(self, sources: Sources, block: Array) -> NDArray[np.bool_]:
        """Whether each reference, then each estimate, is silent in `block` (all channels, time), by museval's rule:
        its channels add up to zero at every sample, so a left channel that is minus the right one is silent too."""
        signals = block.reshape(len(sources.signals), sources.channels, -1)
        references, estimates = signals[: sources.num_references], signals[sources.num_references :]
        return np.array(
            [_silent(references, group) for group in self.references]
            + [_silent(estimates, group) for group in self.estimates]
        )

    def twins(self, sources: Sources, span: tuple[int, int]) -> list[int]:
        """For each reference channel of each target, the first that is bit-identical to it in `span`, or itself."""
        first_of = _first_identical(sources, span)
        channels = sources.channels
        made_of = [
            tuple(sorted(first_of[j * channels + c] for j in group))
            for group in self.references
            for c in range(channels)
        ]
        return [made_of.index(summed) for summed in made_of]


def each_alone(num_targets: int) -> Pairing:
    """Reference j against estimate j."""
    alone = tuple((j,) for j in range(num_targets))
    return Pairing(references=alone, estimates=alone)


def require_finite(signals: Sequence[NDArray[np.number]], names: Sequence[str]) -> None:
    """Raise ScoringError that names the first signal `(channels, time)` with NaN or infinite samples."""
    for signal, name in zip(signals, names, strict=True):
        if signal.dtype.kind in "iub":
            continue
        finite = np.isfinite(signal)
        if not finite.all():
            first = int(np.argmin(finite.all(axis=0)))
            raise ScoringError(
                f"{name}: {int((~finite).sum())} samples are NaN or infinite, the first at sample {first}; "
                "separate or export it again"
            )


def _mixing(groups: tuple[tuple[int, ...], ...], num_signals: int, channels: int) -> Array:
    chosen = np.zeros((len(groups), num_signals))
    for row, group in zip(chosen, groups, strict=True):
        row[list(group)] = 1.0
    return np.asarray(np.kron(chosen, np.eye(channels)), dtype=np.float64)


def _silent(signals: Array, group: tuple[int, ...]) -> bool:
    # Nearly every frame sounds at once, which a short look settles.
    parts = (signals[..., :64], signals)
    return all(not part[list(group)].sum(axis=0).sum(axis=0).any() for part in parts)


def _first_identical(sources: Sources, span: tuple[int, int]) -> list[int]:
    """For each reference channel the first that is equal to it at every sample of `span`."""
    channels = [row[span[0] : span[1]] for signal in sources.signals[: sources.num_references] for row in signal]
    return [next(q for q in range(p + 1) if q == p or _equal(row, channels[q])) for p, row in enumerate(channels)]


def _equal(a: NDArray[np.number], b: NDArray[np.number]) -> bool:
    starts = range(0, len(a), 4096)
    return all(np.array_equal(a[start : start + 4096], b[start : start + 4096]) for start in starts)
