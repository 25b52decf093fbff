"""Decode audio formats unknown to libsndfile with FFmpeg's libraries (PyAV), without starting a program."""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cyclesep.errors import AudioError


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


def decode(path: Path) -> list[DecodedStream]:
    """Decode all audio streams of a file in one pass; return them in their order.

    Raises NotAudioError if there is none, AudioError if a stream cannot be decoded completely.
    """
    with _opened(path) as container:
        streams = list(container.streams.audio)
        blocks: dict[int, list[NDArray[np.float32]]] = {stream.index: [] for stream in streams}
        sample_rates: dict[int, int] = {}
        for index, sample_rate, block in _blocks(path, container, streams):
            blocks[index].append(block)
            sample_rates[index] = sample_rate
        if not all(blocks.values()):
            raise _undecodable(path, ValueError("a stream contains no samples"))
        return [
            DecodedStream(
                # Removes the blocks, so that only one stream is in memory twice.
                samples=np.concatenate(blocks.pop(stream.index), axis=1),
                sample_rate=sample_rates[stream.index],
                declared_seconds=_declared_seconds(stream),
            )
            for stream in streams
        ]


class BlockDecoder:
    """Iterator over float32 blocks `(channels, time)` of the first audio stream of a file, in constant memory.

    Raises NotAudioError if there is none, AudioError if it cannot be decoded completely.
    """

    def __init__(self, path: Path, *, block_samples: int) -> None:
        self._block_samples = block_samples
        self._container = _opened(path)
        stream = self._container.streams.audio[0]
        self._blocks = _blocks(path, self._container, [stream])
        try:
            # From the first frame, because for some AAC files the container declares half the rate or channels.
            _, self.sample_rate, self._first = next(self._blocks)
        except StopIteration:
            raise AudioError(f"{path}: contains no samples; exclude the file or export it again") from None
        self.channels = len(self._first)
        self.expected = round(_declared_seconds(stream) * self.sample_rate)
        """Number of samples according to the container, 0 if unknown."""

    def close(self) -> None:
        """Close the file."""
        self._container.close()

    def __iter__(self) -> Iterator[NDArray[np.float32]]:
        waiting: list[NDArray[np.float32]] = []
        num_waiting = 0
        for block in itertools.chain([self._first], (block for *_, block in self._blocks)):
            waiting.append(block)
            num_waiting += block.shape[1]
            if num_waiting >= self._block_samples:
                yield np.concatenate(waiting, axis=1)
                waiting, num_waiting = [], 0
        if waiting:
            yield np.concatenate(waiting, axis=1)


def _blocks(path: Path, container: Any, streams: Sequence[Any]) -> Iterator[tuple[int, int, NDArray[np.float32]]]:
    """Yield index, sample rate and a float32 block `(channels, time)` of one of `streams`, in the order of the file.

    Raises AudioError if a stream is damaged, or if its rate or channels change.
    """
    import av

    # Damaged packets are skipped in mp3, where misplaced tags are common and players skip them too.
    lenient = container.format.name == "mp3"
    resamplers = {stream.index: av.AudioResampler(format="fltp") for stream in streams}
    formats: dict[int, tuple[int, int]] = {}
    try:
        for packet in container.demux(streams):
            index = packet.stream.index
            for frame in _frames(packet, lenient=lenient):
                format = (frame.sample_rate, frame.layout.nb_channels)
                if formats.setdefault(index, format) != format:
                    raise ValueError("its sample rate or channels change within the file")
                if frame.format.name == "s16p":
                    # The same values as from the resampler, in less time.
                    yield index, frame.sample_rate, frame.to_ndarray() * np.float32(1 / 32768)
                    continue
                for converted in resamplers[index].resample(frame):
                    yield index, frame.sample_rate, converted.to_ndarray()
        for index, resampler in resamplers.items():
            for converted in resampler.resample(None):
                yield index, converted.sample_rate, converted.to_ndarray()
    except (av.FFmpegError, ValueError) as problem:
        raise _undecodable(path, problem) from problem


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


def _declared_seconds(stream: Any) -> float:
    return float(stream.duration * stream.time_base) if stream.duration else 0.0


def _undecodable(path: Path, problem: Exception) -> AudioError:
    return AudioError(f"{path}: ffmpeg cannot decode it ({_message(problem)}); copy or export it again")


def _message(problem: Exception) -> str:
    return getattr(problem, "strerror", None) or str(problem) or type(problem).__name__
