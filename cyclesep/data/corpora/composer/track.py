"""Tracks of synthetic songs."""

from dataclasses import dataclass

import numpy as np

from cyclesep.audio.audio_io import Waveform, from_pcm16
from cyclesep.data.corpora.composer.bass import render_bass
from cyclesep.data.corpora.composer.composition import Song, compose
from cyclesep.data.corpora.composer.config import SyntheticConfig
from cyclesep.data.corpora.composer.drums import render_drums
from cyclesep.data.corpora.composer.harmony import render_other
from cyclesep.data.corpora.composer.mastering import balance, limit, quantise
from cyclesep.data.corpora.composer.names import track_name
from cyclesep.data.corpora.composer.signals import SAMPLE_RATE, random_stream, samples_in
from cyclesep.data.corpora.composer.vocals import render_vocals

# Increase when the samples of a seed change.
GENERATOR_VERSION = 1

SPLIT_NUMBERS = {"train": 0, "valid": 1, "test": 2}
RENDERERS = {"vocals": render_vocals, "drums": render_drums, "bass": render_bass, "other": render_other}
COMPOSITION, MASTERING = 0, 1
FIRST_STEM = 2


@dataclass(frozen=True, kw_only=True)
class SyntheticTrack:
    """A synthetic song, 44.1 kHz stereo; every call of `read` renders it."""

    track_id: str
    split: str
    seed: int
    index: int
    seconds: float

    def song(self) -> Song:
        """Return the composition: key, tempo, form and chords."""
        return compose(self._stream(COMPOSITION), self.seconds)

    def read(self) -> dict[str, Waveform]:
        """Render the mixture and the stems vocals, drums, bass and other; samples are multiples of 1 / 32768.

        The mixture is the exact sum of the stems. Each stem uses its own random stream. The output is bit-exact on
        machines of the same type; on other processors the last bit may differ.
        """
        song, num_samples = self.song(), samples_in(self.seconds)
        stems = {
            stem: render(song, num_samples, self._stream(FIRST_STEM + number))
            for number, (stem, render) in enumerate(RENDERERS.items())
        }
        mastering = self._stream(MASTERING)
        quantised = quantise(limit(balance(stems, mastering), mastering))
        return {
            name: Waveform(samples=from_pcm16(np.ascontiguousarray(samples)), sample_rate=SAMPLE_RATE)
            for name, samples in quantised.items()
        }

    def fingerprint(self) -> str:
        """Return a text with all parameters that determine the samples."""
        return f"synthetic-{GENERATOR_VERSION}:{self.seed}:{self.split}:{self.index}:{self.seconds!r}"

    def _stream(self, part: int) -> np.random.Generator:
        return random_stream(self.seed, SPLIT_NUMBERS[self.split], self.index, part)


def synthetic_tracks(config: SyntheticConfig) -> list[SyntheticTrack]:
    """Return the train, valid and test tracks of a corpus; they are rendered when read."""
    counts = {"train": config.num_train, "valid": config.num_valid, "test": config.num_test}
    return [
        SyntheticTrack(
            track_id=track_name(config.seed, SPLIT_NUMBERS[split], index),
            split=split,
            seed=config.seed,
            index=index,
            seconds=config.seconds,
        )
        for split, count in counts.items()
        for index in range(count)
    ]
