"""The signals to be scored, read block by block as float64, and how they are paired."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from cyclesep.audio.audio_io import PCM16_SCALE
from cyclesep.errors import ScoringError

Array = NDArray[np.float64]

# Samples per block when channels are compared; different channels differ within the first block.
COMPARISON_BLOCK = 4096


@dataclass(frozen=True, kw_only=True)
class Sources:
    """Reference signals, then estimate signals: each `(channels, time)` of any real type and length.

    The arrays are not copied; `read` converts, rounds, pads and cuts the requested samples.
    """

    signals: tuple[NDArray[np.number], ...]
    num_references: int
    steps: float | None = None
    """Samples are rounded to integer multiples of 1 / steps (a power of two: 32768 for 16 bits); None: not rounded."""

    def __post_init__(self) -> None:
        channels = {signal.shape[0] for signal in self.signals}
        if len(channels) != 1:
            raise ScoringError(
                f"references and estimates have {sorted(channels)} channels; all must have the same number"
            )

    @property
    def channels(self) -> int:
        return int(self.signals[0].shape[0])

    @property
    def num_samples(self) -> int:
        """The length of the longest reference; shorter signals are zero-padded, longer estimates cut."""
        return max(int(signal.shape[1]) for signal in self.signals[: self.num_references])

    @cached_property
    def references_on_grid(self) -> bool:
        """Whether the references are 16-bit, originally or because of `steps`."""
        return self.steps is not None or are_on_grid(self.signals[: self.num_references], PCM16_SCALE)

    @property
    def reference_channels(self) -> int:
        return self.num_references * self.channels

    @property
    def all_channels(self) -> int:
        return len(self.signals) * self.channels

    def read(self, start: int, stop: int, out: Array) -> None:
        """Write samples `start:stop` of the first signals to `out` (channels, stop - start); its rows set how many.

        Samples before and after the track and after the end of a signal are zero.
        """
        blocks = out.reshape(-1, self.channels, out.shape[1])
        for block, signal in zip(blocks, self.signals, strict=False):
            first = min(max(start, 0), stop)
            last = max(min(stop, self.num_samples, signal.shape[1]), first)
            block[:, : first - start] = 0.0
            self._convert(signal[:, first:last], block[:, first - start : last - start])
            block[:, last - start :] = 0.0

    def _convert(self, samples: NDArray[np.number], out: Array) -> None:
        if self.steps is None or samples.dtype.kind not in "f":
            out[...] = samples
            return
        scaled = _scaled(samples, self.steps)
        np.multiply(np.rint(scaled, out=scaled), 1.0 / self.steps, out=out)


@dataclass(frozen=True, kw_only=True)
class Pairing:
    """The sums of signals that are scored against each other.

    For each target: the indices of the references that are summed, and of the estimates (counted from the first
    estimate). Vocals and accompaniment are a pairing of the same signals as the four stems, so both share all spectra.
    """

    references: tuple[tuple[int, ...], ...]
    estimates: tuple[tuple[int, ...], ...]

    @property
    def num_targets(self) -> int:
        return len(self.references)

    def reference_mixing(self, sources: Sources) -> Array:
        """Return the 0/1 matrix (targets x channels, reference channels) that sums the references."""
        return _mixing(self.references, sources.num_references, sources.channels)

    def estimate_mixing(self, sources: Sources) -> Array:
        """Return the 0/1 matrix (targets x channels, estimate channels) that sums the estimates."""
        return _mixing(self.estimates, len(sources.signals) - sources.num_references, sources.channels)

    def silent(self, sources: Sources, block: Array) -> NDArray[np.bool_]:
        """Return whether each reference, then each estimate, is silent in `block` (all channels, time).

        As in museval, a signal is silent if its channels sum to zero at every sample, which includes a left channel
        that is the negative of the right one.
        """
        signals = block.reshape(len(sources.signals), sources.channels, -1)
        references, estimates = signals[: sources.num_references], signals[sources.num_references :]
        return np.array(
            [_silent(references, group) for group in self.references]
            + [_silent(estimates, group) for group in self.estimates]
        )

    def duplicates(self, sources: Sources, span: tuple[int, int]) -> list[int]:
        """Return, for each reference channel of each target, the first bit-identical channel in `span`."""
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
    """Raise ScoringError naming the first signal `(channels, time)` with NaN or infinite samples."""
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


def are_on_grid(signals: Sequence[NDArray[np.number]], steps: float) -> bool:
    """Return whether all samples, which must be finite floats, are integer multiples of 1 / steps."""
    for signal in signals:
        if signal.dtype.kind != "f":
            return False
        for start in range(0, signal.shape[1], COMPARISON_BLOCK):
            scaled = _scaled(signal[:, start : start + COMPARISON_BLOCK], steps)
            if not np.array_equal(scaled, np.rint(scaled)):
                return False
    return True


def _scaled(samples: NDArray[np.number], steps: float) -> NDArray[np.floating]:
    """Return `samples` times a power of two, in their own type (which is exact) but at least float32."""
    kind = np.result_type(samples.dtype, np.float32)
    scaled: NDArray[np.floating] = np.multiply(samples, np.asarray(steps, dtype=kind), dtype=kind)
    return scaled


def _mixing(groups: tuple[tuple[int, ...], ...], num_signals: int, channels: int) -> Array:
    chosen = np.zeros((len(groups), num_signals))
    for row, group in zip(chosen, groups, strict=True):
        row[list(group)] = 1.0
    return np.asarray(np.kron(chosen, np.eye(channels)), dtype=np.float64)


def _silent(signals: Array, group: tuple[int, ...]) -> bool:
    # Most frames are not silent in their first samples, which is quick to check.
    parts = (signals[..., :64], signals)
    return all(not part[list(group)].sum(axis=0).sum(axis=0).any() for part in parts)


def _first_identical(sources: Sources, span: tuple[int, int]) -> list[int]:
    """Return, for each reference channel, the first channel that equals it at every sample of `span`."""
    count = sources.reference_channels
    identical = np.ones((count, count), dtype=bool)
    block = np.empty((count, COMPARISON_BLOCK))
    for start in range(span[0], span[1], COMPARISON_BLOCK):
        stop = min(start + COMPARISON_BLOCK, span[1])
        rows = np.empty((count, stop - start)) if stop - start < COMPARISON_BLOCK else block
        sources.read(start, stop, rows)
        for p, q in zip(*np.nonzero(np.tril(identical, -1)), strict=True):
            identical[p, q] = np.array_equal(rows[p], rows[q])
        if not np.tril(identical, -1).any():
            break
    return [int(np.argmax(row)) for row in identical]
