"""Composition of a song: key, tempo, form, chords, and the stems that rest in each section."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from cyclesep.data.corpora.composer.signals import pick
from cyclesep.data.corpora.composer.styles import MODES, PROGRESSIONS, STYLES, Style

ENERGY = {"intro": 0.55, "verse": 0.7, "chorus": 1.0, "bridge": 0.6, "outro": 0.6}

SECTIONS = tuple(ENERGY)

# Probabilities of the sets of stems that rest in a section. In the chorus all stems play.
RESTS: dict[str, tuple[tuple[float, tuple[str, ...]], ...]] = {
    "intro": ((0.3, ("vocals",)), (0.3, ("vocals", "drums")), (0.2, ("vocals", "bass")), (0.2, ("vocals", "other"))),
    "verse": ((0.65, ()), (0.2, ("drums",)), (0.15, ("other",))),
    "chorus": ((1.0, ()),),
    "bridge": ((0.4, ("drums",)), (0.2, ("drums", "bass")), (0.2, ("other",)), (0.2, ("vocals",))),
    "outro": ((0.5, ("vocals",)), (0.2, ("vocals", "drums")), (0.3, ())),
}


@dataclass(frozen=True, kw_only=True)
class Bar:
    """A bar: section, degree of the chord, playing intensity from 0 to 1, and the stems that are silent in it."""

    section: str
    degree: int
    energy: float
    closes_section: bool
    resting: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Note:
    """A note: start and duration in seconds, MIDI pitch, velocity from 0 to 1."""

    start: float
    seconds: float
    midi: int
    velocity: float


@dataclass(frozen=True, kw_only=True)
class Song:
    """The composition from which all stems of a song are arranged."""

    style_name: str
    tempo_bpm: float
    tonic: int
    mode: str
    swing: float
    bars: tuple[Bar, ...]

    @property
    def style(self) -> Style:
        return STYLES[self.style_name]

    @property
    def step_seconds(self) -> float:
        """Length of a sixteenth note."""
        return 15.0 / self.tempo_bpm

    @property
    def bar_seconds(self) -> float:
        return self.style.steps_per_bar * self.step_seconds

    def time(self, bar: int, step: float) -> float:
        """Return the time of a step in a bar in seconds, including swing; steps may extend into later bars."""
        delay = self.swing if step % 2 == 1 else 0.0
        return bar * self.bar_seconds + (step + delay) * self.step_seconds

    def chord(self, degree: int, tones: int = 3) -> tuple[int, ...]:
        """Return the chord on a degree as semitones above C, stacked in thirds: 3 tones are a triad, 4 a seventh."""
        scale = MODES[self.mode]
        steps = [degree + 2 * third for third in range(tones)]
        return tuple(self.tonic + scale[step % 7] + 12 * (step // 7) for step in steps)

    def in_scale(self, midi: int) -> bool:
        return (midi - self.tonic) % 12 in MODES[self.mode]

    def scale_between(self, low: int, high: int) -> list[int]:
        """Return the MIDI notes of the scale from `low` to `high`, inclusive."""
        return [midi for midi in range(low, high + 1) if self.in_scale(midi)]

    def playing(self, stem: str) -> Iterator[tuple[int, Bar]]:
        """Return the bars in which a stem plays, with their indices."""
        return ((number, bar) for number, bar in enumerate(self.bars) if stem not in bar.resting)

    def bar_at(self, seconds: float) -> Bar:
        return self.bars[min(len(self.bars) - 1, max(0, int(seconds / self.bar_seconds)))]


def compose(rng: np.random.Generator, seconds: float) -> Song:
    """Compose a song of at least `seconds`; rendering may truncate the last bar."""
    style_name = pick(rng, list(STYLES))
    style = STYLES[style_name]
    tempo_bpm = float(rng.uniform(*style.tempo_bpm))
    mode = pick(rng, style.modes)
    num_bars = int(np.ceil(seconds * tempo_bpm / 15.0 / style.steps_per_bar))
    return Song(
        style_name=style_name,
        tempo_bpm=tempo_bpm,
        tonic=int(rng.integers(12)),
        mode=mode,
        swing=float(rng.uniform(*style.swing)),
        bars=_write_bars(rng, mode, num_bars),
    )


def _write_bars(rng: np.random.Generator, mode: str, num_bars: int) -> tuple[Bar, ...]:
    progressions = {section: pick(rng, PROGRESSIONS[mode]) for section in ENERGY}
    bars: list[Bar] = []
    for section, length in _form(rng, num_bars):
        resting = _draw_resting_stems(rng, section) if num_bars > 4 else ()
        for number in range(length):
            progression = progressions[section]
            bar = Bar(
                section=section,
                degree=progression[number % len(progression)],
                energy=ENERGY[section],
                closes_section=number == length - 1,
                resting=resting,
            )
            bars.append(bar)
    return tuple(bars[:num_bars])


def _draw_resting_stems(rng: np.random.Generator, section: str) -> tuple[str, ...]:
    choices = RESTS[section]
    index = rng.choice(len(choices), p=[probability for probability, _ in choices])
    return choices[int(index)][1]


def _form(rng: np.random.Generator, num_bars: int) -> list[tuple[str, int]]:
    """Return sections and their lengths in bars, at least `num_bars` in total.

    A short song consists of the chorus only, so that all stems play. A longer one starts with a short intro and reaches
    the chorus in its first half.
    """
    if num_bars <= 4:
        return [("chorus", num_bars)]
    if num_bars <= 16:
        verse = int(rng.integers(1, 1 + num_bars // 3))
        return [("intro", 1), ("verse", verse), ("chorus", num_bars // 2), ("bridge", 1), ("chorus", num_bars)]
    unit = 4 if num_bars < 40 else 8
    round_of_song = [
        ("verse", unit),
        ("chorus", unit),
        ("verse", unit),
        ("chorus", unit),
        ("bridge", 4),
        ("chorus", unit),
    ]
    form = [("intro", int(rng.choice([2, 4])))]
    while sum(length for _, length in form) < num_bars - 4:
        form += round_of_song
    return _with_outro(form, num_bars)


def _with_outro(form: list[tuple[str, int]], num_bars: int) -> list[tuple[str, int]]:
    """Truncate a form to `num_bars` and replace the last four bars by an outro."""
    remaining = num_bars - 4
    kept = []
    for section, length in form:
        if remaining > 0:
            kept.append((section, min(length, remaining)))
        remaining -= length
    return [*kept, ("outro", 4)]
