"""What the singer sings: phrases of two bars with breaths between them, on the chords, with words of a sort."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from cyclesep.data.corpora.composer.composition import SECTIONS, Bar, Song
from cyclesep.data.corpora.composer.signals import pick

VOWELS = ("i", "e", "E", "a", "A", "O", "o", "u")
DIPHTHONGS = ("ai", "ei", "au", "ou")
# A syllable starts with one of these; the empty one is a vowel alone.
CONSONANTS = ("s", "S", "f", "t", "k", "p", "h", "d", "b", "g", "m", "n", "l", "r", "w", "j", "v", "z", "", "")
SYLLABLE_STEPS = (1, 2, 2, 2, 3, 4, 4, 6, 8)


@dataclass(frozen=True, kw_only=True)
class SungNote:
    """One sung syllable: seconds, MIDI pitch, loudness 0 to 1, its consonant and the vowel(s) it moves through."""

    start: float
    seconds: float
    midi: float
    velocity: float
    consonant: str
    vowel: str


@dataclass(frozen=True, kw_only=True)
class Syllable:
    """One syllable of a phrase: its first step, its length in steps, its sounds."""

    step: int
    steps: int
    consonant: str
    vowel: str


def compose_melody(song: Song, low: int, high: int, rng: np.random.Generator) -> list[SungNote]:
    """A melody for a voice that reaches from MIDI `low` to `high`, in the bars where the vocals play.

    Every section has a phrase of its own, rhythm and syllables, which comes back with small changes; pitches are
    drawn anew, by steps rather than leaps and on chord notes where the accent is.
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


def harmonised(notes: Sequence[SungNote], song: Song, semitones: int) -> list[SungNote]:
    """The same line about `semitones` away, moved up to the next note of the scale."""
    shifted = []
    for note in notes:
        midi = int(note.midi) + semitones
        while not song.in_scale(midi):
            midi += 1
        shifted.append(replace(note, midi=midi))
    return shifted


def _write_phrase(steps_per_bar: int, rng: np.random.Generator) -> list[Syllable]:
    """Rhythm and syllables of two bars; the last steps stay free for a breath."""
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
    """Every syllable with the number of its bar and the bar, its step counted from that bar."""
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
    """Draws the pitches of a melody: near the last one, near the middle of the voice, on the chord when accented."""

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
    """Split a long note in two on neighbouring notes of the scale, sung on one vowel."""
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
