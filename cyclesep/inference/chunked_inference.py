"""Separation of audio of any length in constant memory: windows with context, batched, joined without a seam.

A window is what the network sees at once. At both of its ends the context is discarded, because the network did not see
what lies beyond; what is kept of neighbouring windows overlaps a little and is crossfaded. A network whose estimates
depend on nothing farther away than the context gives what it would give on the whole file, and one that returns its
input gives back the input to the bit.
"""

import itertools
import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import soxr
import torch
from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor, nn

from cyclesep.audio.audio_io import Samples, fit_length
from cyclesep.errors import AudioError, CheckpointError, ConfigError, CyclesepError

_log = logging.getLogger(__name__)

# Full scale is 1: of audio 40 dB above it, not the network, is to blame for values that are not finite.
_ABSURD_PEAK = 100.0


@dataclass(frozen=True, kw_only=True)
class SeparationConfig:
    """How a track is cut into windows, and where they are separated."""

    segment_seconds: PositiveFloat = 8.0
    """What the network sees at once."""

    context_seconds: NonNegativeFloat = 0.5
    """Discarded at each end of a window, where the network did not see what lies beyond."""

    overlap_seconds: NonNegativeFloat = 0.1
    """Over this long one window's estimate turns into the next one's."""

    batch_size: PositiveInt = 4
    """Windows separated together; halved, with a warning, for as long as GPU memory does not suffice."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where the network computes; `auto` takes a GPU if there is one, `cuda` without a GPU is an error."""


class Separator(Protocol):
    """A network and what it works on; `checkpoints.load_separator` gives one."""

    @property
    def module(self) -> nn.Module: ...  # (batch, channels, time) -> (batch, targets, channels, time)
    @property
    def targets(self) -> tuple[str, ...]: ...
    @property
    def sample_rate(self) -> int: ...
    @property
    def channels(self) -> int: ...


def choose_device(name: str) -> torch.device:
    """The device that `auto`, `cpu` or `cuda` means here; raises ConfigError for `cuda` without a GPU."""
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError(
            "device: cuda was asked for, but torch finds no GPU here; set device=cpu, or repair the driver"
        )
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


def separate_blocks(
    separator: Separator, blocks: Iterable[Samples], *, channels: int, sample_rate: int, config: SeparationConfig
) -> Iterator[tuple[Samples, Samples]]:
    """Separate a stream of `(channels, time)` blocks; memory does not grow with the length of the stream.

    Yields pairs of a piece of the stream, unchanged, and its estimates `(targets, channels, time)`: same rate, length,
    channels and gain. Pieces have other lengths than the blocks; together they are the stream. A mono network separates
    each channel by itself; a mono stream is doubled for a stereo network, and the mean of its output is taken.

    Raises AudioError for a channel count that the network cannot take or a level at which it overflows, ConfigError for
    windows shorter than their ends.
    """
    network = _Network(separator, channels, config.batch_size)
    geometry = Geometry.of(config, separator.sample_rate)
    stream = _Stream(blocks, channels)
    heard = _resampled(stream, channels, sample_rate, separator.sample_rate)
    parts = len(separator.targets) * channels
    estimates = _resampled(_windowed(network, heard, geometry), parts, separator.sample_rate, sample_rate)
    for estimate in estimates:
        mixture = stream.take(estimate.shape[1])
        if mixture.shape[1]:
            yield mixture, estimate[:, : mixture.shape[1]].reshape(-1, channels, mixture.shape[1])
    # Two resamplings may round the end away.
    rest = stream.take(stream.waiting)
    if rest.shape[1]:
        yield rest, np.zeros((len(separator.targets), *rest.shape), dtype=np.float32)


class _Stream:
    """Blocks on their way into the network; each is kept until its estimates come out."""

    def __init__(self, blocks: Iterable[Samples], channels: int) -> None:
        self._blocks = blocks
        self._kept = np.zeros((channels, 0), dtype=np.float32)

    def __iter__(self) -> Iterator[Samples]:
        for block in self._blocks:
            self._kept = np.concatenate([self._kept, block], axis=1)
            yield block

    @property
    def waiting(self) -> int:
        return int(self._kept.shape[1])

    def take(self, num_samples: int) -> Samples:
        """Take up to `num_samples` off the front of what is kept."""
        front, self._kept = self._kept[:, :num_samples], self._kept[:, num_samples:]
        return front


@dataclass(frozen=True, kw_only=True)
class Geometry:
    """A window in samples: context | fade | plain | fade | context; the next one begins `hop` later."""

    window: int
    context: int
    fade: int

    @property
    def hop(self) -> int:
        """From the beginning of one window to that of the next."""
        return self.window - 2 * self.context - self.fade

    @classmethod
    def of(cls, config: SeparationConfig, sample_rate: int) -> "Geometry":
        """The geometry at a sample rate; raises ConfigError for a window shorter than its ends."""
        seconds = (config.segment_seconds, config.context_seconds, config.overlap_seconds)
        window, context, fade = (round(length * sample_rate) for length in seconds)
        if window <= 2 * (context + fade):
            raise ConfigError(
                f"segment_seconds: {config.segment_seconds} leaves nothing between its ends of context_seconds="
                f"{config.context_seconds} and overlap_seconds={config.overlap_seconds}; make it longer"
            )
        return cls(window=window, context=context, fade=fade)


class _Network:
    """The separator on batches of windows with the channels of the stream, in as large a part as memory allows."""

    def __init__(self, separator: Separator, channels: int, batch_size: int) -> None:
        if separator.channels not in (1, channels) and channels != 1:
            raise AudioError(
                f"{channels} channels, where the separator takes {separator.channels}; mix the file down to "
                f"{separator.channels} channels first"
            )
        self.batch_size = batch_size
        self._separator = separator
        self._channels = channels
        parameter = next(separator.module.parameters(), None)
        self._device = torch.device("cpu") if parameter is None else parameter.device

    def __call__(self, windows: Samples) -> Samples:
        """From `(batch, channels, window)` to `(batch, targets * channels, window)`."""
        batch, channels, window = windows.shape
        mono = self._separator.channels == 1
        if mono:
            windows = windows.reshape(batch * channels, 1, window)
        elif channels < self._separator.channels:
            windows = np.repeat(windows, self._separator.channels, axis=1)
        estimates = self._in_parts(windows)
        if mono:
            estimates = estimates.reshape(batch, channels, -1, window).transpose(0, 2, 1, 3)
        elif channels < self._separator.channels:
            estimates = estimates.mean(axis=2, keepdims=True, dtype=np.float32)
        return estimates.reshape(batch, -1, window)

    def _in_parts(self, windows: Samples) -> Samples:
        estimates: list[Samples] = []
        first = 0
        while first < len(windows):
            try:
                estimates.append(self._separated(windows[first : first + self.batch_size]))
            except torch.OutOfMemoryError as problem:
                self._halve(problem)
                continue
            first += len(estimates[-1])
        return np.concatenate(estimates)

    @torch.inference_mode()
    def _separated(self, windows: Samples) -> Samples:
        # Benchmarking would choose other kernels from run to run, and with them other roundings.
        with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True):
            estimates: Tensor = self._separator.module(torch.from_numpy(np.ascontiguousarray(windows)).to(self._device))
        if not torch.isfinite(estimates).all():
            raise _not_finite(float(np.abs(windows).max()))
        return estimates.float().cpu().numpy()

    def _halve(self, problem: Exception) -> None:
        if self.batch_size == 1:
            raise ConfigError(
                "segment_seconds: not even one window fits into GPU memory; make it shorter, or set device=cpu"
            ) from problem
        self.batch_size //= 2
        torch.cuda.empty_cache()
        _log.warning("GPU memory does not suffice: going on with batch_size=%d", self.batch_size)


def _not_finite(peak: float) -> CyclesepError:
    """The error for estimates that are not finite, of windows with this peak."""
    if not peak < _ABSURD_PEAK:
        return AudioError(
            f"the audio peaks at {peak:.3g}, where full scale is 1, and the separator gives values that are not finite "
            f"for it; divide it by its full scale"
        )
    return CheckpointError("the separator gives values that are not finite; train it again with a lower lr")


def _resampled(blocks: Iterable[Samples], channels: int, old: int, new: int) -> Iterator[Samples]:
    """Band-limited resampling (soxr) of a stream, the same to the bit as of the whole."""
    if old == new:
        yield from blocks
        return
    resampler = soxr.ResampleStream(old, new, channels, dtype="float32", quality="HQ")
    for block in blocks:
        yield resampler.resample_chunk(np.ascontiguousarray(block.T)).T
    yield resampler.resample_chunk(np.zeros((0, channels), dtype=np.float32), last=True).T


def _windowed(network: _Network, blocks: Iterable[Samples], geometry: Geometry) -> Iterator[Samples]:
    """Estimates `(targets * channels, time)` of a stream, and of a little silence after it."""
    seam: Samples | None = None
    ramp = ((np.arange(geometry.fade) + 0.5) / max(geometry.fade, 1)).astype(np.float32)
    for windows in _batched(_cut(blocks, geometry), network.batch_size):
        for estimate in network(np.stack(windows)):
            kept = estimate[:, geometry.context : geometry.window - geometry.context].copy()
            if seam is not None:
                # This form of the crossfade is exact where both sides are equal.
                kept[:, : geometry.fade] = seam + (kept[:, : geometry.fade] - seam) * ramp
            seam = kept[:, geometry.hop :]
            yield kept[:, : geometry.hop]


def _cut(blocks: Iterable[Samples], geometry: Geometry) -> Iterator[Samples]:
    """Windows `(channels, window)` that begin `hop` apart, with zeros before and after the stream."""
    kept: Samples | None = None
    for block in blocks:
        kept = np.pad(block, ((0, 0), (geometry.context, 0))) if kept is None else np.concatenate([kept, block], axis=1)
        while kept.shape[1] >= geometry.window:
            yield kept[:, : geometry.window]
            kept = kept[:, geometry.hop :]
    while kept is not None and kept.shape[1] > geometry.context:
        yield fit_length(kept, geometry.window)
        kept = kept[:, geometry.hop :]


def _batched(windows: Iterator[Samples], batch_size: int) -> Iterator[list[Samples]]:
    while batch := list(itertools.islice(windows, batch_size)):
        yield batch
