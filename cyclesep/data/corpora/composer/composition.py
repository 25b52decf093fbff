"""A song on paper: key, tempo, form and chords; who rests where."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from cyclesep.data.corpora.composer.signals import pick
from cyclesep.data.corpora.composer.styles import MODES, PROGRESSIONS, STYLES, Style

ENERGY = {"intro": 0.55, "verse": 0.7, "chorus": 1.0, "bridge": 0.6, "outro": 0.6}

SECTIONS = tuple(ENERGY)

# Who may rest in a section, and how often. The chorus is always played by all.
RESTS: dict[str, tuple[tuple[float, tuple[str, ...]], ...]] = {
    "intro": ((0.3, ("vocals",)), (0.3, ("vocals", "drums")), (0.2, ("vocals", "bass")), (0.2, ("vocals", "other"))),
    "verse": ((0.65, ()), (0.2, ("drums",)), (0.15, ("other",))),
    "chorus": ((1.0, ()),),
    "bridge": ((0.4, ("drums",)), (0.2, ("drums", "bass")), (0.2, ("other",)), (0.2, ("vocals",))),
    "outro": ((0.5, ("vocals",)), (0.2, ("vocals", "drums")), (0.3, ())),
}


@dataclass(frozen=True, kw_only=True)
class Bar:
    """One bar: its section, the degree of its chord, how hard it is played, and which stems are silent in it."""

    section: str
    degree: int
    energy: float
    closes_section: bool
    resting: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Note:
    """A note to play: when and how long in seconds, which MIDI pitch, how hard from 0 to 1."""

    start: float
    seconds: float
    midi: int
    velocity: float


@dataclass(frozen=True, kw_only=True)
class Song:
    """A synthetic song; all stems are arranged from it."""

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
        """When a step of a bar falls, in seconds, swing included; steps may reach into later bars."""
        late = self.swing if step % 2 == 1 else 0.0
        return bar * self.bar_seconds + (step + late) * self.step_seconds

    def chord(self, degree: int, tones: int = 3) -> tuple[int, ...]:
        """The chord on a degree in thirds of the scale, as semitones above C; 3 tones for a triad, 4 for a seventh."""
        scale = MODES[self.mode]
        steps = [degree + 2 * third for third in range(tones)]
        return tuple(self.tonic + scale[step % 7] + 12 * (step // 7) for step in steps)

    def in_scale(self, midi: int) -> bool:
        return (midi - self.tonic) % 12 in MODES[self.mode]

    def scale_between(self, low: int, high: int) -> list[int]:
        """The notes of the scale from `low` to `high`, both included."""
        return [midi for midi in range(low, high + 1) if self.in_scale(midi)]

    def playing(self, stem: str) -> Iterator[tuple[int, Bar]]:
        """The bars in which a stem plays, with their numbers."""
        return ((number, bar) for number, bar in enumerate(self.bars) if stem not in bar.resting)

    def bar_at(self, seconds: float) -> Bar:
        return self.bars[min(len(self.bars) - 1, max(0, int(seconds / self.bar_seconds)))]


def compose(rng: np.random.Generator, seconds: float) -> Song:
    """Write a song that lasts `seconds`; its last bar may be cut."""
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
        resting = _draw_rest(rng, section) if num_bars > 4 else ()
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


def _draw_rest(rng: np.random.Generator, section: str) -> tuple[str, ...]:
    choices = RESTS[section]
    drawn = rng.choice(len(choices), p=[chance for chance, _ in choices])
    return choices[int(drawn)][1]


def _form(rng: np.random.Generator, num_bars: int) -> list[tuple[str, int]]:
    """Sections and their lengths in bars, at least `num_bars` in all.

    A short song is all chorus, so that every stem sounds; a longer one starts with a short intro and reaches its
    chorus within the first half.
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
    """Cut a form so that an outro of four bars ends it with bar `num_bars`."""
    left = num_bars - 4
    kept = []
    for section, length in form:
        if left > 0:
            kept.append((section, min(length, left)))
        left -= length
    return [*kept, ("outro", 4)]
