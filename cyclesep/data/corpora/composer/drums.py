"""The stem `drums`: a drum kit in a room that plays the grooves of the style, with fills."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from cyclesep.data.corpora.composer.composition import SECTIONS, Bar, Song
from cyclesep.data.corpora.composer.drum_kit import DrumKit
from cyclesep.data.corpora.composer.effects import bandpass, compress, high_shelf, lowpass, reverberate, room, set_level
from cyclesep.data.corpora.composer.signals import Stereo, mix_into, pick, samples_in
from cyclesep.data.corpora.composer.styles import Groove, parse_pattern

FILL_STEPS = 4
FILL_PIECES = ("high_tom", "middle_tom", "low_tom", "snare")


@dataclass(frozen=True, kw_only=True)
class Hit:
    """A drum hit: start in seconds, piece of the kit, velocity from 0 to 1."""

    start: float
    piece: str
    velocity: float


def render_drums(song: Song, num_samples: int, rng: np.random.Generator) -> Stereo:
    """Render the drums, `(2, time)`."""
    kit = DrumKit(rng)
    drums = np.zeros((2, num_samples), dtype=np.float32)
    for hit in _hits(song, rng):
        mix_into(drums, samples_in(hit.start), kit.hit(hit.piece), hit.velocity)
    drums = lowpass(high_shelf(drums, 5000.0, -rng.uniform(2.0, 8.0)), rng.uniform(11_000.0, 16_500.0))
    drums = compress(set_level(drums, -16.0), threshold_db=-12.0, ratio=3.5)
    small_room = room(rng, rng.uniform(0.25, 0.7), brightness=0.5, predelay_seconds=0.004)
    drums = reverberate(drums, small_room, wet=rng.uniform(0.08, 0.25))
    # Drum shells and room microphones have energy in the mid band, which overlaps with voices.
    return drums + np.float32(rng.uniform(0.0, 0.9)) * bandpass(drums, 350.0, 2200.0)


def _hits(song: Song, rng: np.random.Generator) -> Iterator[Hit]:
    groove_of = {section: pick(rng, song.style.grooves) for section in SECTIONS}
    after_fill = False
    for number, bar in song.playing("drums"):
        fills = bar.closes_section and bar.energy > 0.6 and len(song.bars) > 4
        for step, piece, velocity in _strokes(groove_of[bar.section], bar, song.style.steps_per_bar, rng, fills=fills):
            start = max(0.0, song.time(number, step) + rng.normal(0.0, 0.003))
            yield Hit(start=start, piece=piece, velocity=velocity)
        if after_fill and rng.random() < 0.8:
            yield Hit(start=song.time(number, 0), piece="crash", velocity=rng.uniform(0.7, 1.0))
        after_fill = fills


def _strokes(
    groove: Groove, bar: Bar, steps_per_bar: int, rng: np.random.Generator, *, fills: bool
) -> Iterator[tuple[int, str, float]]:
    """Yield the hits of one bar as (step, piece, velocity); with `fills`, a fill replaces the last beat."""
    end = steps_per_bar - (FILL_STEPS if fills else 0)
    loudness = 0.75 + 0.25 * bar.energy
    for piece, pattern in groove.items():
        for step, _, digit in parse_pattern(pattern):
            if step < end:
                yield step, piece, int(digit) / 9.0 * loudness * rng.uniform(0.85, 1.0)
    for step in range(end, steps_per_bar):
        if rng.random() < 0.85:
            yield step, pick(rng, FILL_PIECES), rng.uniform(0.6, 0.95)
