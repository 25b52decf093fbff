"""Read audio files of any format, rate and channel count: whole, or in blocks in constant memory."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import numpy as np
import soundfile

from cyclesep.audio import audio_io, ffmpeg, integrity
from cyclesep.audio.audio_io import Samples, Waveform
from cyclesep.errors import AudioError

BLOCK_SAMPLES = 1 << 18


def read(path: Path | str) -> Waveform:
    """Read a whole audio file; raises AudioError as `AudioReader` does."""
    with AudioReader(Path(path), block_samples=None) as audio:
        (block,) = audio.unchecked_blocks()
        samples = np.ascontiguousarray(block)
        return audio_io.check_samples(Waveform(samples=samples, sample_rate=audio.sample_rate), name=str(path))


class AudioReader:
    """Iterator over blocks `(channels, time)` of an audio file; all samples are finite.

    libsndfile decodes the file, or FFmpeg for mp3 and formats that libsndfile does not support. Raises AudioError for a
    file that is missing, not audio, empty or truncated, or has NaN or infinite samples; a truncated mp3 is detected at
    its end.
    """

    def __init__(self, path: Path, *, block_samples: int | None = BLOCK_SAMPLES) -> None:
        """Open a file to read it in blocks of about `block_samples`; None: as one block."""
        self._path, self._block_samples = path, block_samples
        self._file: soundfile.SoundFile | None = None
        self._decoder: ffmpeg.BlockDecoder | None = None
        self.num_samples = 0
        """Samples read so far."""
        audio_io.check_is_file(path)
        # libsndfile guesses the end of an mp3 without a Xing header, and prints notes on stderr.
        if integrity.is_mp3(path):
            self._open_decoder()
        else:
            self._open()
        audio_io.check_rate(self.sample_rate, name=str(path))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()
        if self._decoder is not None:
            self._decoder.close()

    def __iter__(self) -> Iterator[Samples]:
        for block in self.unchecked_blocks():
            name = f"{self._path}, from {(self.num_samples - block.shape[1]) / self.sample_rate:.1f} s"
            yield audio_io.check_samples(Waveform(samples=block, sample_rate=self.sample_rate), name=name).samples

    def unchecked_blocks(self) -> Iterator[Samples]:
        """Iterate over blocks in which samples may be NaN or infinite."""
        for block in self._decoder or self._blocks():
            self.num_samples += block.shape[1]
            yield block
        if self._decoder is not None:
            self._check_length(self.num_samples)
        if self.num_samples == 0:
            raise AudioError(f"{self._path}: contains no samples; exclude the file or export it again")

    def _blocks(self) -> Iterator[Samples]:
        assert self._file is not None
        try:
            while len(block := self._file.read(self._block_samples or -1, dtype="float32", always_2d=True)):
                yield block.T
        except soundfile.LibsndfileError as problem:
            raise AudioError(
                f"{self._path}: damaged after {self.num_samples} samples ({problem}); export it again"
            ) from problem

    def _open(self) -> None:
        try:
            self._file = soundfile.SoundFile(self._path)
        except (soundfile.LibsndfileError, OSError) as problem:
            self._open_decoder(problem)
            return
        self.channels, self.sample_rate = self._file.channels, self._file.samplerate
        self.declared_samples = self._file.frames
        self._check_length(self.declared_samples)

    def _open_decoder(self, reason: Exception | None = None) -> None:
        try:
            self._decoder = ffmpeg.BlockDecoder(self._path, block_samples=self._block_samples or sys.maxsize)
        except ffmpeg.NotAudioError:
            raise AudioError(
                f"{self._path}: neither libsndfile nor FFmpeg can read it as audio; export it again"
            ) from reason
        self.channels, self.sample_rate = self._decoder.channels, self._decoder.sample_rate
        self.declared_samples = self._decoder.expected

    def _check_length(self, num_samples: int) -> None:
        integrity.check_not_truncated(self._path, num_samples=num_samples, sample_rate=self.sample_rate)
