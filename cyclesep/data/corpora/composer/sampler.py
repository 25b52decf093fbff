"""A sampler that renders each pitch and velocity layer of an instrument only once per song."""

from collections.abc import Iterable
from typing import Protocol

import numpy as np

from cyclesep.data.corpora.composer.composition import Note
from cyclesep.data.corpora.composer.signals import Mono, mix_into, samples_in

LAYERS = (0.5, 0.75, 1.0)
TAKES = 2


class Instrument(Protocol):
    """A synthesiser of single notes."""

    @property
    def release_seconds(self) -> float:
        """Fade-out time of a released note."""

    def note(self, midi: int, velocity: float, rng: np.random.Generator) -> Mono:
        """Render one note without release, `(time,)`, with an amplitude of about `velocity`."""


class Sampler:
    """A cache of an instrument's notes: a few velocity layers and takes of each pitch."""

    def __init__(self, instrument: Instrument, rng: np.random.Generator) -> None:
        self._instrument = instrument
        self._rng = rng
        self._takes: dict[tuple[int, float, int], Mono] = {}
        self._played = 0

    def play(self, midi: int, seconds: float, velocity: float) -> Mono:
        """Return one note that is held for `seconds` and then released."""
        layer = next((layer for layer in LAYERS if velocity <= layer), LAYERS[-1])
        self._played += 1
        key = (midi, layer, self._played % TAKES)
        if key not in self._takes:
            self._takes[key] = self._instrument.note(midi, layer, self._rng)
        return cut_note(self._takes[key], seconds, self._instrument.release_seconds) * np.float32(velocity / layer)


def cut_note(samples: Mono, seconds: float, release_seconds: float) -> Mono:
    """Return the first `seconds` of a note with a fade-out after them, or at the end of a shorter note."""
    release = max(8, samples_in(release_seconds))
    cut = samples[: samples_in(seconds) + release].copy()
    release = min(release, cut.size)
    cut[-release:] *= np.linspace(1.0, 0.0, release, dtype=np.float32) ** 2
    return cut


def perform(notes: Iterable[Note], sampler: Sampler, num_samples: int) -> Mono:
    """Render notes into one mono signal, `(time,)`."""
    line = np.zeros(num_samples, dtype=np.float32)
    for note in notes:
        mix_into(line, samples_in(note.start), sampler.play(note.midi, note.seconds, note.velocity))
    return line
