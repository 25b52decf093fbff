"""Audio that libsndfile does not know, decoded in this process by FFmpeg's libraries (PyAV): no program, no pipes."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cyclesep.errors import AudioError

# The full scale of what numpy turns into float32 without loss and without help; of all else FFmpeg makes float32.
_FULL_SCALE = {"fltp": np.float32(1.0), "s16p": np.float32(1 / 32768)}

# What a container declares is believed up to 100 million samples; a longer array grows as it is filled.
_LONGEST = 10**8


class NotAudioError(AudioError):
    """A file in which FFmpeg finds no audio at all."""


@dataclass(frozen=True, kw_only=True)
class DecodedStream:
    """One audio stream of a file."""

    samples: NDArray[np.float32]
    """`(channels, time)`, integers divided by their full scale."""
    sample_rate: int
    declared_seconds: float
    """The length that the container tells, 0 where it tells none."""


def decode(path: Path, *, only_first: bool = False) -> list[DecodedStream]:
    """All audio streams of a file, or the first one, in their order and in one pass.

    Raises NotAudioError where there is none, AudioError for one that does not decode to its end.
    """
    import av

    with _opened(path) as container:
        lenient = _is_lenient(container)
        streams = list(container.streams.audio)[: 1 if only_first else None]
        sinks = {stream.index: _Sink(stream) for stream in streams}
        try:
            for packet in container.demux(streams):
                for frame in _frames(packet, lenient=lenient):
                    sinks[packet.stream.index].take(frame)
            return [sink.finish() for sink in sinks.values()]
        except (av.FFmpegError, ValueError) as problem:
            raise _undecodable(path, problem) from problem


class BlockDecoder:
    """The first audio stream of a file as float32 blocks `(channels, time)`, in constant memory; read it once.

    Raises NotAudioError where there is none, AudioError for one that does not decode to its end.
    """

    def __init__(self, path: Path, *, block_samples: int) -> None:
        self._path = path
        self._block_samples = block_samples
        self._container = _opened(path)
        self._lenient = _is_lenient(self._container)
        stream = self._container.streams.audio[0]
        self._frames = self._decoded(stream)
        try:
            # Rate and channels are those of the first frame: of some AAC the container tells half of them.
            self._first = next(self._frames)
        except StopIteration:
            raise AudioError(f"{path}: holds no samples; leave the file out or export it again") from None
        self.channels = int(self._first.layout.nb_channels)
        self.sample_rate = int(self._first.sample_rate)
        declared = float(stream.duration * stream.time_base) if stream.duration else 0.0
        self.expected = round(declared * self.sample_rate)
        """Samples that the container tells, 0 where it tells none."""

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

    def _decoded(self, stream: Any) -> Iterator[Any]:
        """Frames of planar float, whatever the codec gives."""
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
    """One stream on its way into one array, which is made for the declared length and grows if there is more."""

    def __init__(self, stream: Any) -> None:
        # Rate and channels are those of the first frame: of some AAC the container tells half of them.
        self._sample_rate = 0
        self._declared_seconds = float(stream.duration * stream.time_base) if stream.duration else 0.0
        self._samples = np.empty((0, 0), dtype=np.float32)
        self._filled = 0
        self._full_scale = np.float32(1.0)
        self._resampler: Any = None

    def finish(self) -> DecodedStream:
        """What was taken; ValueError if it was nothing."""
        if self._resampler is not None:
            self._append_converted(None)
        if not self._filled:
            raise ValueError("a stream holds no samples")
        samples = self._samples[:, : self._filled]
        if self._full_scale != 1.0:
            np.multiply(samples, self._full_scale, out=samples)
        return DecodedStream(samples=samples, sample_rate=self._sample_rate, declared_seconds=self._declared_seconds)

    def take(self, frame: Any) -> None:
        """Append a frame; ValueError for one of another rate or other channels than the first."""
        if not self._sample_rate:
            self._sample_rate = frame.sample_rate
            declared = round(self._declared_seconds * frame.sample_rate)
            self._samples = np.empty((frame.layout.nb_channels, min(declared, _LONGEST) or 2**16), dtype=np.float32)
        if (frame.sample_rate, frame.layout.nb_channels) != (self._sample_rate, len(self._samples)):
            raise ValueError("its rate or channels change on the way")
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
    """A container with at least one audio stream."""
    # Here, because it takes half a second and most programs never need it.
    import av

    try:
        container = av.open(f"file:{path}", metadata_errors="ignore")
    except (av.FFmpegError, OSError, ValueError) as problem:
        raise NotAudioError(f"{path}: ffmpeg cannot read it ({_told(problem)}); fetch or export it again") from problem
    if not container.streams.audio:
        container.close()
        raise NotAudioError(f"{path}: ffmpeg finds no audio in it; fetch or export it again")
    return container


def _is_lenient(container: Any) -> bool:
    """Whether damage is passed over: of an mp3, in which tags and the rests of others are usual, as players do."""
    return bool(container.format.name == "mp3")


def _frames(packet: Any, *, lenient: bool) -> list[Any]:
    """The frames of a packet; av.FFmpegError or ValueError for one that the container or the decoder calls damaged."""
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
    return AudioError(f"{path}: ffmpeg cannot decode it ({_told(problem)}); fetch or export it again")


def _told(problem: Exception) -> str:
    return getattr(problem, "strerror", None) or str(problem) or type(problem).__name__
