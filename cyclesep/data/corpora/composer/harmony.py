"""The stem `other`: two or three parts, each an instrument that plays an accompaniment figure on the chords."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from cyclesep.data.corpora.composer.composition import SECTIONS, Bar, Note, Song
from cyclesep.data.corpora.composer.effects import (
    compress,
    highpass,
    lowpass,
    pan,
    reverberate,
    room,
    saturate,
    set_level,
    widen,
)
from cyclesep.data.corpora.composer.instruments import SUSTAINED_INSTRUMENTS, draw_instrument
from cyclesep.data.corpora.composer.sampler import Sampler, perform
from cyclesep.data.corpora.composer.signals import Mono, Stereo, pick
from cyclesep.data.corpora.composer.styles import parse_pattern

PART_LEVEL_DB = -20.0

# A note of an accompaniment figure: (step, length in steps, MIDI note, velocity, delay in seconds).
FigureNote = tuple[float, float, int, float, float]
Figure = Callable[[Song, Bar, str, np.random.Generator], Iterator[FigureNote]]


@dataclass(frozen=True, kw_only=True)
class Part:
    """An instrument, its figure and its patterns, which use the notation of styles.py and are cut to the bar length."""

    instrument: str
    figure: str
    patterns: tuple[str, ...] = ("",)
    wide: bool = False
    distorted: bool = False


HELD = ("9---------------",)
STRUMS = ("9---6-7-..6-8-6-", "9-6-8-6-9-6-8-6-", "9--6--7---6-7-6-", "9---7---9---7-6-")
COMPS = ("9-----7-----6---", "9--8----7--6----", "9-------8---6---", "8--7--8---7-6---")

PARTS: Mapping[str, Part] = {
    "piano": Part(instrument="piano", figure="broken", patterns=COMPS),
    "electric_piano": Part(instrument="electric piano", figure="chords", patterns=COMPS),
    "organ": Part(instrument="organ", figure="chords", patterns=(*HELD, "8-------8-------"), wide=True),
    "pad": Part(instrument="strings", figure="chords", patterns=HELD, wide=True),
    "strings": Part(instrument="strings", figure="chords", patterns=(*HELD, "8-------8-------"), wide=True),
    "acoustic_guitar": Part(instrument="guitar", figure="strum", patterns=STRUMS),
    "clean_guitar": Part(instrument="guitar", figure="strum", patterns=STRUMS),
    "picked_guitar": Part(instrument="guitar", figure="arpeggio", patterns=("9-7-8-7-9-7-8-7-", "9-77-7-77-7-8-7-")),
    "offbeat_guitar": Part(instrument="guitar", figure="strum", patterns=("..8...8...8...8.", "....9.......9...")),
    "crunch": Part(
        instrument="guitar",
        figure="power",
        patterns=("9-9-9-9-9-9-9-9-", "9---9-9---9-9-9-", "9-------9---9---"),
        wide=True,
        distorted=True,
    ),
    "crunch_high": Part(instrument="guitar", figure="strum", patterns=HELD + STRUMS[2:], distorted=True),
    "clavinet": Part(instrument="clavinet", figure="chords", patterns=("9..8.8..7.8..8.7", "8.6.9..7.68..9..")),
    "stabs": Part(
        instrument="synthesiser", figure="chords", patterns=("9..8..9...8..7..", "..9..8....9..8..", "9..9..9..9..9.9.")
    ),
    "arpeggio_synth": Part(
        instrument="synthesiser", figure="arpeggio", patterns=("9686968696869686", "9.8.96.89.8.96.8")
    ),
    "bells": Part(instrument="bells", figure="arpeggio", patterns=("9-7-7-8-7-7-8-7-", "9---7---8---7---")),
    "lead_synth": Part(instrument="synthesiser", figure="line"),
    "brass": Part(
        instrument="brass", figure="chords", patterns=("9-....9-........", "......8-....9--.", "9---....8-8-....")
    ),
    "flute": Part(instrument="flute", figure="line"),
    "clarinet": Part(instrument="clarinet", figure="line"),
    "saxophone": Part(instrument="saxophone", figure="line"),
    "trumpet": Part(instrument="trumpet", figure="line"),
    "violin": Part(instrument="violin", figure="line"),
    "cello": Part(instrument="cello", figure="line"),
}


def render_other(song: Song, num_samples: int, rng: np.random.Generator) -> Stereo:
    """Render the accompaniment, `(2, time)`."""
    names = pick(rng, song.style.ensembles)
    positions = rng.permutation(np.linspace(-0.7, 0.7, len(names)))
    other = np.zeros((2, num_samples), dtype=np.float32)
    for number, (name, position) in enumerate(zip(names, positions, strict=True)):
        other += _render_part(song, PARTS[name], float(position), num_samples, rng, leading=number == 0)
    other = compress(other, threshold_db=-15.0, ratio=2.5)
    hall = room(rng, rng.uniform(0.5, 1.6), brightness=0.5)
    return reverberate(other, hall, wet=rng.uniform(0.08, 0.3))


def _render_part(
    song: Song, part: Part, position: float, num_samples: int, rng: np.random.Generator, *, leading: bool
) -> Stereo:
    sampler = Sampler(draw_instrument(part.instrument, rng), rng)
    line = perform(_arrange(song, part, rng, leading=leading), sampler, num_samples)
    if part.distorted:
        line = _distort(line, rng)
    line = set_level(line, PART_LEVEL_DB + rng.uniform(-3.0, 1.0) - (0.0 if leading else 2.0))
    return widen(line, position, rng.uniform(0.006, 0.018)) if part.wide else pan(line, position)


def _arrange(song: Song, part: Part, rng: np.random.Generator, *, leading: bool) -> Iterator[Note]:
    """Yield all notes of a part; parts other than the leading one may rest in verses."""
    figure = _LinePlayer(part.instrument) if part.figure == "line" else FIGURES[part.figure]
    pattern_of = {section: pick(rng, part.patterns) for section in SECTIONS}
    pauses = not leading and rng.random() < 0.4
    for number, bar in song.playing("other"):
        if pauses and bar.section == "verse":
            continue
        pattern = pattern_of[bar.section][: song.style.steps_per_bar]
        for step, steps, midi, velocity, delay in figure(song, bar, pattern, rng):
            yield Note(
                start=max(0.0, song.time(number, step) + delay + rng.normal(0.0, 0.004)),
                seconds=steps * song.step_seconds,
                midi=midi,
                velocity=float(np.clip(velocity * (0.8 + 0.2 * bar.energy) * rng.uniform(0.85, 1.05), 0.1, 1.0)),
            )


def _distort(line: Mono, rng: np.random.Generator) -> Mono:
    """Simulate a distorting guitar amplifier and its loudspeaker."""
    driven = saturate(highpass(line, 90.0, order=1) / (np.abs(line).max() + np.float32(1e-9)), rng.uniform(8.0, 30.0))
    return highpass(lowpass(driven, rng.uniform(3200.0, 5500.0), order=3), 80.0)


def close_voicing(song: Song, bar: Bar, lowest: int, tones: int = 3) -> list[int]:
    """Return the chord of a bar within the octave above `lowest`, in ascending order."""
    return sorted(lowest + (tone - lowest) % 12 for tone in song.chord(bar.degree, tones))


def _chords(song: Song, bar: Bar, pattern: str, rng: np.random.Generator) -> Iterator[FigureNote]:
    tones = 4 if song.style_name in ("funk", "hip-hop", "bossa nova") else 3
    for step, steps, loudness in parse_pattern(pattern):
        for midi in close_voicing(song, bar, 57, tones):
            yield step, 0.95 * steps, midi, int(loudness) / 10.0, float(rng.uniform(0.0, 0.01))


def _broken(song: Song, bar: Bar, pattern: str, rng: np.random.Generator) -> Iterator[FigureNote]:
    """Yield chords for the right hand, root octaves for the left hand, and a few notes between the chords."""
    yield from _chords(song, bar, pattern, rng)
    root = close_voicing(song, bar, 36, tones=1)[0]
    half = song.style.steps_per_bar // 2
    yield 0, half, root, 0.75, 0.0
    yield half, half, root + 12, 0.65, 0.0
    if rng.random() < 0.4:
        for step in (half - 2, half + 2, half + 4):
            yield step, 2, pick(rng, close_voicing(song, bar, 69)), 0.7, 0.0


def _strum(song: Song, bar: Bar, pattern: str, rng: np.random.Generator) -> Iterator[FigureNote]:
    """Yield strums of five strings: downstrokes on the beat, upstrokes between beats."""
    chord = close_voicing(song, bar, 52)
    seconds_per_string = rng.uniform(0.006, 0.012)
    strings = [chord[0] - 5 if song.in_scale(chord[0] - 5) else chord[0] - 12, *chord, chord[0] + 12]
    for step, steps, loudness in parse_pattern(pattern):
        upward = step % 4 == 2
        for number, midi in enumerate(reversed(strings) if upward else strings):
            yield step, 1.1 * steps, midi, int(loudness) / 10.0, seconds_per_string * number


def _arpeggio(song: Song, bar: Bar, pattern: str, rng: np.random.Generator) -> Iterator[FigureNote]:
    chord = close_voicing(song, bar, 60)
    tones = [*chord, chord[0] + 12, chord[2], chord[1]]
    for number, (step, steps, loudness) in enumerate(parse_pattern(pattern)):
        yield step, 1.4 * steps, tones[number % len(tones)], int(loudness) / 10.0, float(rng.uniform(0.0, 0.004))


def _power(song: Song, bar: Bar, pattern: str, rng: np.random.Generator) -> Iterator[FigureNote]:
    root = close_voicing(song, bar, 40, tones=1)[0]
    for step, steps, loudness in parse_pattern(pattern):
        for midi in (root, root + 7, root + 12):
            yield step, 0.9 * steps, midi, int(loudness) / 10.0, float(rng.uniform(0.0, 0.004))


FIGURES: Mapping[str, Figure] = {
    "chords": _chords,
    "broken": _broken,
    "strum": _strum,
    "arpeggio": _arpeggio,
    "power": _power,
}


class _LinePlayer:
    """A figure that plays a random melody within the range of the instrument."""

    def __init__(self, instrument: str) -> None:
        player = SUSTAINED_INSTRUMENTS.get(instrument)
        self._low, self._high = (player.lowest + 3, player.highest - 3) if player else (60, 84)
        self._last = (self._low + self._high) // 2

    def __call__(self, song: Song, bar: Bar, _pattern: str, rng: np.random.Generator) -> Iterator[FigureNote]:
        step = 0
        while step < song.style.steps_per_bar:
            steps = pick(rng, (2, 2, 3, 4, 4, 6))
            if step == 0 or rng.random() < 0.85:
                self._last = self._choose(song, bar, rng, on_chord=step % 8 == 0)
                yield step, 0.95 * steps, self._last, float(rng.uniform(0.6, 0.95)), 0.0
            step += steps

    def _choose(self, song: Song, bar: Bar, rng: np.random.Generator, *, on_chord: bool) -> int:
        nearby = song.scale_between(max(self._low, self._last - 5), min(self._high, self._last + 5))
        chord = {tone % 12 for tone in song.chord(bar.degree)}
        choices = [midi for midi in nearby if midi % 12 in chord] if on_chord else nearby
        return pick(rng, choices or nearby)
