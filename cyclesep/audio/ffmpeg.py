"""Decode audio formats unknown to libsndfile with FFmpeg's libraries (PyAV), without starting a program."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cyclesep.errors import AudioError

# Full scale of formats that numpy converts to float32 without loss; FFmpeg converts all others.
_FULL_SCALE = {"fltp": np.float32(1.0), "s16p": np.float32(1 / 32768)}

# Declared lengths up to 100 million samples are allocated at once; longer arrays grow while they are filled.
_MAX_PREALLOCATED = 10**8


class NotAudioError(AudioError):
    """A file in which FFmpeg finds no audio."""


@dataclass(frozen=True, kw_only=True)
class DecodedStream:
    """One audio stream of a file."""

    samples: NDArray[np.float32]
    """`(channels, time)`, integers divided by their full scale."""
    sample_rate: int
    declared_seconds: float
    """Length according to the container, 0 if unknown."""


def decode(path: Path, *, only_first: bool = False) -> list[DecodedStream]:
    """Decode all audio streams of a file, or the first one, in one pass; return them in their order.

    Raises NotAudioError if there is none, AudioError if a stream cannot be decoded completely.
    """
    import av

    with _opened(path) as container:
        lenient = _is_lenient(container)
        streams = list(container.streams.audio)[: 1 if only_first else None]
        sinks = {stream.index: _Sink(stream) for stream in streams}
        try:
            for packet in container.demux(streams):
                for frame in _frames(packet, lenient=lenient):
                    sinks[packet.stream.index].append(frame)
            return [sink.finish() for sink in sinks.values()]
        except (av.FFmpegError, ValueError) as problem:
            raise _undecodable(path, problem) from problem


class BlockDecoder:
    """Iterator over float32 blocks `(channels, time)` of the first audio stream of a file, in constant memory.

    Raises NotAudioError if there is none, AudioError if it cannot be decoded completely.
    """

    def __init__(self, path: Path, *, block_samples: int) -> None:
        self._path = path
        self._block_samples = block_samples
        self._container = _opened(path)
        self._lenient = _is_lenient(self._container)
        stream = self._container.streams.audio[0]
        self._frames = self._decode(stream)
        try:
            # From the first frame, because for some AAC files the container declares half the rate or channels.
            self._first = next(self._frames)
        except StopIteration:
            raise AudioError(f"{path}: contains no samples; exclude the file or export it again") from None
        self.channels = int(self._first.layout.nb_channels)
        self.sample_rate = int(self._first.sample_rate)
        declared = float(stream.duration * stream.time_base) if stream.duration else 0.0
        self.expected = round(declared * self.sample_rate)
        """Number of samples according to the container, 0 if unknown."""

    def close(self) -> None:
        """Close the file."""
        self._container.close()

    def __iter__(self) -> Iterator[NDArray[np.float32]]:
        waiting: list[NDArray[np.float32]] = []
        num_waiting = 0
        for frame in itertools.chain([self._first], self._frames):
            waiting.append(frame.to_ndarray())
            num_waiting += waiting[-1].shape[1]
            if num_waiting >= self._block_samples:
                yield np.concatenate(waiting, axis=1)
                waiting, num_waiting = [], 0
        if waiting:
            yield np.concatenate(waiting, axis=1)

    def _decode(self, stream: Any) -> Iterator[Any]:
        """Yield frames converted to planar float."""
        import av

        resampler = av.AudioResampler(format="fltp")
        try:
            for packet in self._container.demux(stream):
                for frame in _frames(packet, lenient=self._lenient):
                    yield from resampler.resample(frame)
            yield from resampler.resample(None)
        except (av.FFmpegError, ValueError) as problem:
            raise _undecodable(self._path, problem) from problem


class _Sink:
    """Collects one stream in an array, which is allocated for the declared length and grows if needed."""

    def __init__(self, stream: Any) -> None:
        # Set by the first frame, because for some AAC files the container declares half the rate or channels.
        self._sample_rate = 0
        self._declared_seconds = float(stream.duration * stream.time_base) if stream.duration else 0.0
        self._samples = np.empty((0, 0), dtype=np.float32)
        self._filled = 0
        self._full_scale = np.float32(1.0)
        self._resampler: Any = None

    def finish(self) -> DecodedStream:
        """Return the collected stream; raise ValueError if it is empty."""
        if self._resampler is not None:
            self._append_converted(None)
        if not self._filled:
            raise ValueError("a stream contains no samples")
        samples = self._samples[:, : self._filled]
        if self._full_scale != 1.0:
            np.multiply(samples, self._full_scale, out=samples)
        return DecodedStream(samples=samples, sample_rate=self._sample_rate, declared_seconds=self._declared_seconds)

    def append(self, frame: Any) -> None:
        """Append a frame; raise ValueError if its rate or channels differ from the first frame."""
        if not self._sample_rate:
            self._sample_rate = frame.sample_rate
            declared = round(self._declared_seconds * frame.sample_rate)
            self._samples = np.empty(
                (frame.layout.nb_channels, min(declared, _MAX_PREALLOCATED) or 2**16), dtype=np.float32
            )
        if (frame.sample_rate, frame.layout.nb_channels) != (self._sample_rate, len(self._samples)):
            raise ValueError("its sample rate or channels change within the file")
        full_scale = _FULL_SCALE.get(frame.format.name)
        if full_scale is None:
            self._append_converted(frame)
        else:
            self._full_scale = full_scale
            self._append_block(frame.to_ndarray())

    def _append_converted(self, frame: Any) -> None:
        import av

        self._resampler = self._resampler or av.AudioResampler(format="fltp")
        for converted in self._resampler.resample(frame):
            self._append_block(converted.to_ndarray())

    def _append_block(self, block: NDArray[Any]) -> None:
        end = self._filled + block.shape[1]
        if end > self._samples.shape[1]:
            grown = np.empty((len(self._samples), max(end, 2 * self._filled)), dtype=np.float32)
            grown[:, : self._filled] = self._samples[:, : self._filled]
            self._samples = grown
        self._samples[:, self._filled : end] = block
        self._filled = end


def _opened(path: Path) -> Any:
    """Open a container with at least one audio stream."""
    # Imported here, because it takes half a second and is rarely needed.
    import av

    try:
        container = av.open(f"file:{path}", metadata_errors="ignore")
    except (av.FFmpegError, OSError, ValueError) as problem:
        raise NotAudioError(
            f"{path}: ffmpeg cannot read it ({_message(problem)}); copy or export it again"
        ) from problem
    if not container.streams.audio:
        container.close()
        raise NotAudioError(f"{path}: ffmpeg finds no audio in it; copy or export it again")
    return container


def _is_lenient(container: Any) -> bool:
    """Return whether damaged packets are skipped: in mp3, where misplaced tags are common and players skip them too."""
    return bool(container.format.name == "mp3")


def _frames(packet: Any, *, lenient: bool) -> list[Any]:
    """Return the frames of a packet; raise av.FFmpegError or ValueError if the container or decoder reports damage."""
    import av

    try:
        frames: list[Any] = packet.decode()
    except av.InvalidDataError:
        if not lenient:
            raise
        return []
    if not lenient and (packet.is_corrupt or any(frame.is_corrupt for frame in frames)):
        raise ValueError("a packet is damaged")
    return frames


def _undecodable(path: Path, problem: Exception) -> AudioError:
    return AudioError(f"{path}: ffmpeg cannot decode it ({_message(problem)}); copy or export it again")


def _message(problem: Exception) -> str:
    return getattr(problem, "strerror", None) or str(problem) or type(problem).__name__
