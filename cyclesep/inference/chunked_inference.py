"""Separation of audio of any length in constant memory: overlapping segments, batched and crossfaded.

The network separates one segment at a time. The context at both ends of its output is discarded, because the network
has no input beyond the segment; the rest overlaps with that of the neighboring segments and is crossfaded. If the
network's receptive field is no larger than the context, the result equals separating the whole file at once; an
identity network returns its input bit for bit.
"""

import itertools
import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import soxr
import torch
from torch import Tensor, nn

from cyclesep.audio.audio_io import Samples, fit_length
from cyclesep.errors import AudioError, CheckpointError, ConfigError, CyclesepError
from cyclesep.inference.config import SeparationConfig

_log = logging.getLogger(__name__)

# 40 dB above full scale. If the input peaks above this, the input causes output that is not finite, not the network.
_EXCESSIVE_PEAK = 100.0


class SeparatorLike(Protocol):
    """A network and its audio format, such as cyclesep.checkpoints.loaded_separator.LoadedSeparator."""

    @property
    def module(self) -> nn.Module: ...  # (batch, channels, time) -> (batch, targets, channels, time)
    @property
    def targets(self) -> tuple[str, ...]: ...
    @property
    def sample_rate(self) -> int: ...
    @property
    def channels(self) -> int: ...


def choose_device(name: str) -> torch.device:
    """Resolve `auto`, `cpu` or `cuda` to a device; raise ConfigError for `cuda` without a GPU."""
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device=cuda: torch finds no GPU on this machine; set device=cpu, or repair the driver")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


def separate_blocks(
    separator: SeparatorLike, blocks: Iterable[Samples], *, channels: int, sample_rate: int, config: SeparationConfig
) -> Iterator[tuple[Samples, Samples]]:
    """Separate a stream of `(channels, time)` blocks in memory independent of its length.

    Yields pairs of a chunk of the stream and its estimates `(targets, channels, time)`, at the stream's rate, channels
    and level. The chunks are not the blocks, but concatenated they are the same stream. A mono network separates each
    channel independently; a mono stream is duplicated for a stereo network, whose output channels are averaged.

    Raises AudioError for a channel count that the network does not support or a level at which it overflows,
    ConfigError for segments shorter than their ends.
    """
    network = _Network(separator, channels, config.batch_size)
    geometry = SegmentGeometry.of(config, separator.sample_rate)
    stream = _BufferedStream(blocks, channels)
    network_input = _resample(stream, channels, sample_rate, separator.sample_rate)
    num_rows = len(separator.targets) * channels
    estimates = _separate_segments(network, network_input, geometry)
    for estimate in _resample(estimates, num_rows, separator.sample_rate, sample_rate):
        mixture = stream.take(estimate.shape[1])
        if mixture.shape[1]:
            yield mixture, estimate[:, : mixture.shape[1]].reshape(-1, channels, mixture.shape[1])
    # Resampling twice may lose samples at the end by rounding.
    rest = stream.take(stream.num_buffered)
    if rest.shape[1]:
        yield rest, np.zeros((len(separator.targets), *rest.shape), dtype=np.float32)


class _BufferedStream:
    """Iterator over blocks that also buffers them until their estimates are ready."""

    def __init__(self, blocks: Iterable[Samples], channels: int) -> None:
        self._blocks = blocks
        self._buffer = np.zeros((channels, 0), dtype=np.float32)

    def __iter__(self) -> Iterator[Samples]:
        for block in self._blocks:
            self._buffer = np.concatenate([self._buffer, block], axis=1)
            yield block

    @property
    def num_buffered(self) -> int:
        return int(self._buffer.shape[1])

    def take(self, num_samples: int) -> Samples:
        """Remove and return up to `num_samples` from the front of the buffer."""
        front, self._buffer = self._buffer[:, :num_samples], self._buffer[:, num_samples:]
        return front


@dataclass(frozen=True, kw_only=True)
class SegmentGeometry:
    """Lengths of a segment in samples: context | overlap | middle | overlap | context."""

    segment: int
    context: int
    overlap: int

    @property
    def hop(self) -> int:
        """Distance between the starts of consecutive segments."""
        return self.segment - 2 * self.context - self.overlap

    @classmethod
    def of(cls, config: SeparationConfig, sample_rate: int) -> "SegmentGeometry":
        """Return the lengths at a sample rate; raise ConfigError for a segment shorter than its ends."""
        seconds = (config.segment_seconds, config.context_seconds, config.overlap_seconds)
        segment, context, overlap = (round(length * sample_rate) for length in seconds)
        if segment <= 2 * (context + overlap):
            raise ConfigError(
                f"segment_seconds={config.segment_seconds}: too short for context_seconds={config.context_seconds} and "
                f"overlap_seconds={config.overlap_seconds} at both ends; increase it"
            )
        return cls(segment=segment, context=context, overlap=overlap)


class _Network:
    """Applies a separator to batches of segments with the stream's channels; splits batches that exceed GPU memory."""

    def __init__(self, separator: SeparatorLike, channels: int, batch_size: int) -> None:
        if separator.channels not in (1, channels) and channels != 1:
            raise AudioError(
                f"has {channels} channels, but the separator supports {separator.channels}; mix the file down to "
                f"{separator.channels} channels first"
            )
        self.batch_size = batch_size
        self._separator = separator
        parameter = next(separator.module.parameters(), None)
        self._device = torch.device("cpu") if parameter is None else parameter.device

    def __call__(self, segments: Samples) -> Samples:
        """Map `(batch, channels, segment)` to `(batch, targets * channels, segment)`."""
        batch, channels, length = segments.shape
        mono = self._separator.channels == 1
        if mono:
            segments = segments.reshape(batch * channels, 1, length)
        elif channels < self._separator.channels:
            segments = np.repeat(segments, self._separator.channels, axis=1)
        estimates = self._separate_in_batches(segments)
        if mono:
            estimates = estimates.reshape(batch, channels, -1, length).transpose(0, 2, 1, 3)
        elif channels < self._separator.channels:
            estimates = estimates.mean(axis=2, keepdims=True, dtype=np.float32)
        return estimates.reshape(batch, -1, length)

    def _separate_in_batches(self, segments: Samples) -> Samples:
        estimates: list[Samples] = []
        first = 0
        while first < len(segments):
            try:
                estimates.append(self._separate(segments[first : first + self.batch_size]))
            except torch.OutOfMemoryError as problem:
                self._halve_batch_size(problem)
                continue
            first += len(estimates[-1])
        return np.concatenate(estimates)

    @torch.inference_mode()
    def _separate(self, segments: Samples) -> Samples:
        # cuDNN's benchmark mode may select different kernels in each run, and so change the rounding.
        with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True):
            batch = torch.from_numpy(np.ascontiguousarray(segments)).to(self._device)
            estimates: Tensor = self._separator.module(batch)
        if not torch.isfinite(estimates).all():
            raise _not_finite_error(float(np.abs(segments).max()))
        return estimates.float().cpu().numpy()

    def _halve_batch_size(self, problem: Exception) -> None:
        if self.batch_size == 1:
            raise ConfigError(
                "segment_seconds: a single segment does not fit in GPU memory; decrease it, or set device=cpu"
            ) from problem
        self.batch_size //= 2
        torch.cuda.empty_cache()
        _log.warning("GPU memory exceeded: continuing with batch_size=%d", self.batch_size)


def _not_finite_error(peak: float) -> CyclesepError:
    """Return the error for estimates that are not finite, for segments with this peak."""
    if not peak < _EXCESSIVE_PEAK:
        return AudioError(
            f"the audio peaks at {peak:.3g}, where full scale is 1, and the separator's output is not finite; divide "
            "the audio by its full scale"
        )
    return CheckpointError("the separator's output is not finite; train it again with a lower learning rate")


def _resample(blocks: Iterable[Samples], channels: int, old: int, new: int) -> Iterator[Samples]:
    """Resample a stream with soxr (band-limited); bitwise identical to resampling the whole."""
    if old == new:
        yield from blocks
        return
    resampler = soxr.ResampleStream(old, new, channels, dtype="float32", quality="HQ")
    for block in blocks:
        yield resampler.resample_chunk(np.ascontiguousarray(block.T)).T
    yield resampler.resample_chunk(np.zeros((0, channels), dtype=np.float32), last=True).T


def _separate_segments(network: _Network, blocks: Iterable[Samples], geometry: SegmentGeometry) -> Iterator[Samples]:
    """Yield estimates `(targets * channels, time)` of a stream, and of some silence after its end."""
    previous: Samples | None = None
    ramp = ((np.arange(geometry.overlap) + 0.5) / max(geometry.overlap, 1)).astype(np.float32)
    for segments in _batch(_segments(blocks, geometry), network.batch_size):
        for estimate in network(np.stack(segments)):
            valid = estimate[:, geometry.context : geometry.segment - geometry.context].copy()
            if previous is not None:
                # This form of the crossfade is exact where both sides are equal.
                valid[:, : geometry.overlap] = previous + (valid[:, : geometry.overlap] - previous) * ramp
            previous = valid[:, geometry.hop :]
            yield valid[:, : geometry.hop]


def _segments(blocks: Iterable[Samples], geometry: SegmentGeometry) -> Iterator[Samples]:
    """Yield segments `(channels, segment)` at a distance of `hop`, zero-padded before and after the stream."""
    buffer: Samples | None = None
    for block in blocks:
        if buffer is None:
            buffer = np.pad(block, ((0, 0), (geometry.context, 0)))
        else:
            buffer = np.concatenate([buffer, block], axis=1)
        while buffer.shape[1] >= geometry.segment:
            yield buffer[:, : geometry.segment]
            buffer = buffer[:, geometry.hop :]
    while buffer is not None and buffer.shape[1] > geometry.context:
        yield fit_length(buffer, geometry.segment)
        buffer = buffer[:, geometry.hop :]


def _batch(segments: Iterator[Samples], batch_size: int) -> Iterator[list[Samples]]:
    while batch := list(itertools.islice(segments, batch_size)):
        yield batch
