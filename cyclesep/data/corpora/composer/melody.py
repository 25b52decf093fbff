"""Vocal melodies: two-bar phrases on the chords, with pauses for breath and random syllables."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from cyclesep.data.corpora.composer.composition import SECTIONS, Bar, Song
from cyclesep.data.corpora.composer.signals import pick

VOWELS = ("i", "e", "E", "a", "A", "O", "o", "u")
DIPHTHONGS = ("ai", "ei", "au", "ou")
# Initial consonants of syllables; empty for a syllable that starts with its vowel.
CONSONANTS = ("s", "S", "f", "t", "k", "p", "h", "d", "b", "g", "m", "n", "l", "r", "w", "j", "v", "z", "", "")
SYLLABLE_STEPS = (1, 2, 2, 2, 3, 4, 4, 6, 8)


@dataclass(frozen=True, kw_only=True)
class SungNote:
    """A sung syllable: times in seconds, MIDI pitch, velocity from 0 to 1, initial consonant, vowel or diphthong."""

    start: float
    seconds: float
    midi: float
    velocity: float
    consonant: str
    vowel: str


@dataclass(frozen=True, kw_only=True)
class Syllable:
    """A syllable of a phrase: first step, length in steps, initial consonant, vowel or diphthong."""

    step: int
    steps: int
    consonant: str
    vowel: str


def compose_melody(song: Song, low: int, high: int, rng: np.random.Generator) -> list[SungNote]:
    """Compose a melody for a voice with the MIDI range `low` to `high`, in the bars in which the vocals play.

    Each kind of section repeats the rhythm and syllables of one phrase, with small variations. Pitches are drawn for
    each repetition, with a preference for small intervals, and for chord tones on accented syllables.
    """
    phrases = {section: _write_phrase(song.style.steps_per_bar, rng) for section in SECTIONS}
    walk = _PitchWalk(song=song, low=low, high=high, rng=rng)
    notes: list[SungNote] = []
    for number, bar, syllable in _syllables(song, phrases):
        if notes and rng.random() < 0.07:
            continue
        start = song.time(number, syllable.step) + (rng.normal(0.0, 0.008) if notes else 0.02)
        seconds = syllable.steps * song.step_seconds * rng.uniform(0.88, 1.0)
        velocity = (0.65 + 0.35 * bar.energy) * rng.uniform(0.85, 1.0)
        accented = syllable.step % 4 == 0 or syllable.steps >= 4
        note = SungNote(
            start=max(0.0, start),
            seconds=seconds,
            midi=walk.next(bar, accented=accented),
            velocity=velocity,
            consonant=syllable.consonant,
            vowel=syllable.vowel,
        )
        notes += _melisma(note, song, rng) if syllable.steps >= 4 and rng.random() < 0.35 else [note]
    return notes


def harmonize_melody(notes: Sequence[SungNote], song: Song, semitones: int) -> list[SungNote]:
    """Transpose notes by `semitones`, rounded up to the next note of the scale."""
    shifted = []
    for note in notes:
        midi = int(note.midi) + semitones
        while not song.in_scale(midi):
            midi += 1
        shifted.append(replace(note, midi=midi))
    return shifted


def _write_phrase(steps_per_bar: int, rng: np.random.Generator) -> list[Syllable]:
    """Return the rhythm and syllables of two bars; the last steps are a pause for breath."""
    step = 0 if rng.random() < 0.6 else int(rng.integers(1, 4))
    end = 2 * steps_per_bar - int(rng.integers(3, 7))
    phrase = []
    while step < end:
        steps = min(pick(rng, SYLLABLE_STEPS), end - step)
        vowel = pick(rng, DIPHTHONGS if steps >= 3 and rng.random() < 0.35 else VOWELS)
        phrase.append(Syllable(step=step, steps=steps, consonant=pick(rng, CONSONANTS), vowel=vowel))
        step += steps + (int(rng.integers(1, 4)) if rng.random() < 0.15 else 0)
    return phrase


def _syllables(song: Song, phrases: dict[str, list[Syllable]]) -> Iterator[tuple[int, Bar, Syllable]]:
    """Yield the bar index, the bar, and each syllable with its step relative to the bar."""
    per_bar = song.style.steps_per_bar
    position = 0
    for number, bar in enumerate(song.bars):
        if number and song.bars[number - 1].closes_section:
            position = 0
        if "vocals" not in bar.resting:
            for syllable in phrases[bar.section]:
                if syllable.step // per_bar == position % 2:
                    yield number, bar, replace(syllable, step=syllable.step % per_bar)
        position += 1


class _PitchWalk:
    """A random walk of pitches that prefers small intervals, the middle of the range, and chord tones on accents."""

    def __init__(self, *, song: Song, low: int, high: int, rng: np.random.Generator) -> None:
        self._song = song
        self._low, self._high = low, high
        self._rng = rng
        self._last = (low + high) // 2

    def next(self, bar: Bar, *, accented: bool) -> int:
        nearby = self._song.scale_between(max(self._low, self._last - 5), min(self._high, self._last + 5))
        pitches = np.array(nearby)
        middle = (self._low + self._high) / 2.0 + (3.0 if bar.section == "chorus" else -1.0)
        weights = np.exp(-np.abs(pitches - self._last) / 2.2 - np.abs(pitches - middle) / 5.0)
        weights[pitches == self._last] *= 0.7
        if accented:
            chord = {tone % 12 for tone in self._song.chord(bar.degree)}
            weights *= np.array([4.0 if pitch % 12 in chord else 1.0 for pitch in nearby])
        self._last = int(self._rng.choice(pitches, p=weights / weights.sum()))
        return self._last


def _melisma(note: SungNote, song: Song, rng: np.random.Generator) -> list[SungNote]:
    """Split a long note into two neighbouring notes of the scale, sung on one vowel."""
    neighbours = [midi for midi in song.scale_between(int(note.midi) - 2, int(note.midi) + 2) if midi != note.midi]
    first_seconds = note.seconds * rng.uniform(0.3, 0.7)
    second = replace(
        note,
        start=note.start + first_seconds,
        seconds=note.seconds - first_seconds,
        midi=pick(rng, neighbours),
        consonant="",
        vowel=note.vowel[-1],
    )
    return [replace(note, seconds=first_seconds, vowel=note.vowel[0]), second]
