"""The stem `bass`: a bass guitar, a double bass or a synthesiser that plays the roots of the chords."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from cyclesep.data.corpora.composer.composition import SECTIONS, Note, Song
from cyclesep.data.corpora.composer.effects import compress, highpass, pan, reverberate, room, saturate, set_level
from cyclesep.data.corpora.composer.oscillators import (
    accumulate_phase,
    damped_partials,
    harmonics_below,
    play_wavetable,
    wavetable,
)
from cyclesep.data.corpora.composer.sampler import Instrument, Sampler, perform
from cyclesep.data.corpora.composer.signals import (
    Curve,
    Mono,
    Stereo,
    exponential_decay,
    fade_in,
    midi_to_hertz,
    mix_into,
    noise,
    pick,
    samples_in,
    time_axis,
)
from cyclesep.data.corpora.composer.styles import parse_pattern

LOWEST = 28
"""MIDI note of a bass guitar's open E string."""
RING_SECONDS = 2.4


@dataclass(frozen=True, kw_only=True)
class BassString:
    """A string of a bass guitar or a double bass."""

    tilt: float
    ring_seconds: float
    position: float
    click: float = 0.0
    """Level of the pick or slap noise."""
    drive: float = 1.1
    release_seconds: float = 0.035

    def note(self, midi: int, velocity: float, rng: np.random.Generator) -> Mono:
        fundamental = float(midi_to_hertz(midi))
        number = harmonics_below(fundamental, 44, 6000.0)
        samples = damped_partials(
            fundamental * number,
            self.ring_seconds / (1.0 + 0.16 * number),
            number ** (-self.tilt / (0.6 + 0.4 * velocity)) * np.abs(np.sin(np.pi * number * self.position)),
            np.full(number.size, np.pi / 2.0),
            samples_in(RING_SECONDS),
        )
        samples /= np.abs(samples).max()
        length = samples_in(0.015)
        mix_into(
            samples, 0, highpass(noise(rng, length), 1800.0, order=1) * exponential_decay(length, 0.004), self.click
        )
        return saturate(fade_in(samples, 0.003), self.drive) * np.float32(velocity)


@dataclass(frozen=True, kw_only=True)
class BassSynthesiser:
    """A periodic wave through a low-pass filter that closes after the attack."""

    tilt: float
    open_hertz: float
    closed_hertz: float
    closing_seconds: float
    ring_seconds: float
    release_seconds: float = 0.04

    def note(self, midi: int, velocity: float, rng: np.random.Generator) -> Mono:
        fundamental = float(midi_to_hertz(midi))
        num_samples = samples_in(RING_SECONDS)
        slide = 0.01 * np.exp(-time_axis(num_samples) / 0.03)
        phase = accumulate_phase(fundamental * (1.0 + slide), start=float(rng.random()))
        opened, closed = (self._wave(fundamental, cutoff, phase) for cutoff in (self.open_hertz, self.closed_hertz))
        samples = closed + exponential_decay(num_samples, self.closing_seconds) * (opened - closed)
        return fade_in(samples * exponential_decay(num_samples, self.ring_seconds), 0.006) * np.float32(velocity)

    def _wave(self, fundamental: float, cutoff: float, phase: Curve) -> Mono:
        number = harmonics_below(fundamental, 60, 8000.0)
        return play_wavetable(wavetable(number**-self.tilt / (1.0 + (number * fundamental / cutoff) ** 4)), phase)


def _draw_string(
    *, tilts: tuple[float, float], ring_seconds: float, click: float = 0.0, drive: float = 1.1
) -> Callable[[np.random.Generator], Instrument]:
    return lambda rng: BassString(
        tilt=rng.uniform(*tilts),
        position=rng.uniform(0.12, 0.3),
        ring_seconds=ring_seconds,
        click=click,
        drive=drive,
    )


def _draw_synth(rng: np.random.Generator) -> Instrument:
    return BassSynthesiser(
        tilt=1.0,
        open_hertz=rng.uniform(700.0, 2800.0),
        closed_hertz=rng.uniform(200.0, 500.0),
        closing_seconds=rng.uniform(0.08, 0.3),
        ring_seconds=3.0,
    )


def _draw_digital(rng: np.random.Generator) -> Instrument:
    return BassSynthesiser(
        tilt=0.7,
        open_hertz=rng.uniform(1500.0, 4000.0),
        closed_hertz=rng.uniform(300.0, 900.0),
        closing_seconds=rng.uniform(0.1, 0.2),
        ring_seconds=1.4,
    )


def _draw_sub(rng: np.random.Generator) -> Instrument:
    return BassSynthesiser(
        tilt=2.2,
        open_hertz=rng.uniform(600.0, 1200.0),
        closed_hertz=300.0,
        closing_seconds=0.1,
        ring_seconds=1.6,
        release_seconds=0.1,
    )


BASSES: Mapping[str, Callable[[np.random.Generator], Instrument]] = {
    "fingered": _draw_string(tilts=(1.1, 1.4), ring_seconds=0.9),
    "picked": _draw_string(tilts=(0.7, 0.95), ring_seconds=1.2, click=0.2, drive=1.8),
    "slapped": _draw_string(tilts=(0.6, 0.8), ring_seconds=0.7, click=0.6),
    "upright": _draw_string(tilts=(1.3, 1.7), ring_seconds=0.5),
    "synth": _draw_synth,
    "digital": _draw_digital,
    "sub": _draw_sub,
}


def render_bass(song: Song, num_samples: int, rng: np.random.Generator) -> Stereo:
    """Render the bass line, `(2, time)`: centred, and usually without reverberation."""
    sampler = Sampler(BASSES[pick(rng, song.style.basses)](rng), rng)
    line = perform(_bass_line(song, rng), sampler, num_samples)
    line = compress(set_level(highpass(line, 32.0, order=1), -16.0), threshold_db=-14.0, ratio=4.0)
    bass = pan(line, 0.0)
    return reverberate(bass, room(rng, 0.3, brightness=0.3), wet=0.05) if rng.random() < 0.3 else bass


def _bass_line(song: Song, rng: np.random.Generator) -> Iterator[Note]:
    line_of = {section: pick(rng, song.style.bass_lines) for section in SECTIONS}
    for number, bar in song.playing("bass"):
        following = song.bars[(number + 1) % len(song.bars)]
        pitches = _named_pitches(song, bar.degree, following.degree)
        for step, steps, name in parse_pattern(line_of[bar.section]):
            if step > 4 and rng.random() < 0.06:
                continue
            yield Note(
                start=max(0.0, song.time(number, step) + rng.normal(0.0, 0.003)),
                seconds=steps * song.step_seconds * rng.uniform(0.8, 0.98),
                midi=pitches[name],
                velocity=rng.uniform(0.7, 1.0),
            )


def _named_pitches(song: Song, degree: int, next_degree: int) -> dict[str, int]:
    """Return MIDI notes for the letters of a bass line (see styles.py), with roots in the octave above LOWEST."""
    tones = song.chord(degree)
    root = LOWEST + (tones[0] - LOWEST) % 12
    next_root = LOWEST + (song.chord(next_degree)[0] - LOWEST) % 12
    fifth = root + (tones[2] - tones[0])
    return {
        "r": root,
        "t": root + (tones[1] - tones[0]),
        "f": fifth if fifth < LOWEST + 18 else fifth - 12,
        "o": root + 12,
        "a": next_root + (1 if next_root < root else -1),
    }
