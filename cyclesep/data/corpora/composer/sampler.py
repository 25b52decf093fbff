"""Plays notes on an instrument, each pitch and loudness rendered once per song."""

from collections.abc import Iterable
from typing import Protocol

import numpy as np

from cyclesep.data.corpora.composer.composition import Note
from cyclesep.data.corpora.composer.signals import Mono, mix_into, samples_in

LAYERS = (0.5, 0.75, 1.0)
TAKES = 2


class Instrument(Protocol):
    """Something that sounds one note, from its attack for as long as it can ring."""

    @property
    def release_seconds(self) -> float:
        """How long a note takes to fade once it is let go."""

    def note(self, midi: int, velocity: float, rng: np.random.Generator) -> Mono:
        """One note, `(time,)`, about as loud as `velocity`."""


class Sampler:
    """An instrument with a memory: a few loudness layers and takes of each pitch, kept while the song is rendered."""

    def __init__(self, instrument: Instrument, rng: np.random.Generator) -> None:
        self._instrument = instrument
        self._rng = rng
        self._takes: dict[tuple[int, float, int], Mono] = {}
        self._played = 0

    def play(self, midi: int, seconds: float, velocity: float) -> Mono:
        """One note that is held for `seconds` and then released."""
        layer = next((layer for layer in LAYERS if velocity <= layer), LAYERS[-1])
        self._played += 1
        key = (midi, layer, self._played % TAKES)
        if key not in self._takes:
            self._takes[key] = self._instrument.note(midi, layer, self._rng)
        return released(self._takes[key], seconds, self._instrument.release_seconds) * np.float32(velocity / layer)


def released(samples: Mono, seconds: float, release_seconds: float) -> Mono:
    """The first `seconds` of a note, then a fade to silence; a note that rings less long fades where it ends."""
    release = max(8, samples_in(release_seconds))
    cut = samples[: samples_in(seconds) + release].copy()
    release = min(release, cut.size)
    cut[-release:] *= np.linspace(1.0, 0.0, release, dtype=np.float32) ** 2
    return cut


def perform(notes: Iterable[Note], sampler: Sampler, num_samples: int) -> Mono:
    """Play all notes into one line, `(time,)`."""
    line = np.zeros(num_samples, dtype=np.float32)
    for note in notes:
        mix_into(line, samples_in(note.start), sampler.play(note.midi, note.seconds, note.velocity))
    return line
