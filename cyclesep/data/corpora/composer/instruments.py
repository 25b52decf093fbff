"""The instruments of the stem `other`: struck, plucked, electric, blown and bowed.

Each is a frozen dataclass of what differs between two pianos or two guitars; `draw_instrument` draws one by name.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from cyclesep.data.corpora.composer.effects import bandpass
from cyclesep.data.corpora.composer.oscillators import (
    damped_partials,
    harmonics_below,
    play_wavetable,
    sine,
    turns,
    wavetable,
)
from cyclesep.data.corpora.composer.sampler import Instrument
from cyclesep.data.corpora.composer.signals import (
    Curve,
    Mono,
    decaying,
    faded_in,
    hertz,
    mix_into,
    noise,
    pick,
    samples_in,
    smooth,
    times,
)


def _at_peak_of_one(samples: Mono) -> Mono:
    return np.asarray(samples / (np.abs(samples).max() + 1e-9), dtype=np.float32)


@dataclass(frozen=True, kw_only=True)
class Piano:
    """Stiff strings in detuned pairs, struck by a felt hammer that is harder the louder it plays."""

    inharmonicity: float
    tilt: float
    strike_position: float
    detune: float
    release_seconds: float = 0.14

    def note(self, midi: int, velocity: float, rng: np.random.Generator) -> Mono:
        fundamental = float(hertz(midi))
        ring_seconds = float(np.clip(6.0 * 2.0 ** (-(midi - 40) / 18.0), 0.7, 5.0))
        number = harmonics_below(fundamental, 36, 12_000.0)
        stiffness = self.inharmonicity * 2.0 ** ((midi - 60) / 10.0)
        frequency = number * fundamental * np.sqrt(1.0 + stiffness * number**2)
        level = number ** (-self.tilt / (0.35 + 0.65 * velocity)) * np.abs(
            np.sin(np.pi * number * self.strike_position)
        )
        decay = ring_seconds / (3.0 + 0.9 * number * (fundamental / 220.0) ** 0.3)
        detune = self.detune * rng.uniform(0.6, 1.4, size=number.size)
        start = np.zeros(number.size)
        # Two strings decay fast together, their difference slowly: the piano's double decay.
        strings = damped_partials(
            np.concatenate([frequency * (1.0 - detune), frequency * (1.0 + detune), frequency]),
            np.concatenate([decay, decay, 3.5 * decay]),
            np.concatenate([level, level, 0.6 * level]),
            np.concatenate([start, rng.uniform(0.0, 1.5, number.size), start]),
            samples_in(ring_seconds),
        )
        samples = _at_peak_of_one(strings)
        thump = bandpass(noise(rng, samples_in(0.03)), 90.0, 1800.0) * decaying(samples_in(0.03), 0.006)
        mix_into(samples, 0, thump, 0.3 * velocity)
        return faded_in(samples, 0.0015) * np.float32(0.4 + 0.6 * velocity)


@dataclass(frozen=True, kw_only=True)
class ElectricPiano:
    """A tine by frequency modulation, brighter when struck harder, with the amplifier's tremolo."""

    tremolo: float
    release_seconds: float = 0.12

    def note(self, midi: int, velocity: float, rng: np.random.Generator) -> Mono:
        time = times(samples_in(2.8))
        phase = turns(np.full(time.size, hertz(midi)))
        bark = 1.3 * velocity * np.exp(-time / 0.7)
        tine = 0.4 * velocity * np.exp(-time / 0.06)
        modulator = bark * sine(phase) + tine * sine(14.0 * phase)
        wobble = 1.0 + self.tremolo * np.sin(2.0 * np.pi * 5.2 * time + rng.uniform(0.0, 6.0))
        fade = np.exp(-time / (1.6 * 2.0 ** (-(midi - 60) / 30.0)))
        samples = (sine(phase + modulator / (2.0 * np.pi)) * wobble * fade).astype(np.float32)
        return faded_in(samples, 0.003) * np.float32(velocity)


@dataclass(frozen=True, kw_only=True)
class Plucked:
    """A plucked string: the place of the pluck mutes every n-th partial, high partials die first."""

    position: float
    tilt: float
    ring_seconds: float
    release_seconds: float = 0.05

    def note(self, midi: int, velocity: float, rng: np.random.Generator) -> Mono:
        fundamental = float(hertz(midi))
        number = harmonics_below(fundamental, 48)
        place = self.position * rng.uniform(0.9, 1.1)
        strings = damped_partials(
            fundamental * number * np.sqrt(1.0 + 6e-5 * number**2),
            self.ring_seconds * (110.0 / fundamental) ** 0.4 / (1.0 + 0.12 * number),
            number ** (-self.tilt / (0.5 + 0.5 * velocity)) * np.abs(np.sin(np.pi * number * place)),
            np.full(number.size, np.pi / 2.0),
            samples_in(min(3.0, 5.0 * self.ring_seconds)),
        )
        samples = _at_peak_of_one(strings)
        scratch = bandpass(noise(rng, samples_in(0.012)), 1500.0, 8000.0) * decaying(samples_in(0.012), 0.003)
        mix_into(samples, 0, scratch, 0.15 * velocity)
        return faded_in(samples, 0.001) * np.float32(velocity)


@dataclass(frozen=True, kw_only=True)
class Organ:
    """Nine drawbars and a rotating speaker."""

    drawbars: tuple[float, ...]
    rotor_hertz: float
    release_seconds: float = 0.03

    def note(self, midi: int, velocity: float, rng: np.random.Generator) -> Mono:
        time = times(samples_in(4.2))
        # The wave's fundamental is the 16-foot drawbar, an octave below the key.
        harmonics = np.zeros(16)
        harmonics[np.array([1, 2, 3, 4, 6, 8, 10, 12, 16]) - 1] = self.drawbars
        fundamental = float(hertz(midi - 12))
        audible = harmonics[: harmonics_below(fundamental, 16).size]
        rotor = np.sin(2.0 * np.pi * self.rotor_hertz * time + rng.uniform(0.0, 6.0))
        samples = play_wavetable(wavetable(audible), turns(fundamental * (1.0 + 0.002 * rotor)))
        return faded_in(samples * (1.0 + 0.15 * rotor).astype(np.float32), 0.008) * np.float32(velocity)


@dataclass(frozen=True, kw_only=True)
class Ensemble:
    """Three detuned saws behind a filter: pads, string sections, stabs and leads of a synthesiser."""

    detune: float
    cutoff_hertz: float
    attack_seconds: float
    release_seconds: float
    sweep_octaves: float = 0.0
    """How far the filter opens at the attack."""
    ring_seconds: float = 4.2

    def note(self, midi: int, velocity: float, rng: np.random.Generator) -> Mono:
        fundamental = float(hertz(midi))
        number = harmonics_below(fundamental, 80)
        num_samples = samples_in(self.ring_seconds)
        dark, bright = (
            wavetable(1.0 / number / np.sqrt(1.0 + (number * fundamental / cutoff) ** 4))
            for cutoff in (self.cutoff_hertz, self.cutoff_hertz * 2.0**self.sweep_octaves)
        )
        opening = decaying(num_samples, 0.25)
        samples = np.zeros(num_samples, dtype=np.float32)
        for side in (-1, 0, 1):
            phase = turns(np.full(num_samples, fundamental * (1.0 + side * self.detune)), start=float(rng.random()))
            wave = play_wavetable(dark, phase)
            samples += wave if self.sweep_octaves == 0.0 else wave + opening * (play_wavetable(bright, phase) - wave)
        return faded_in(samples / np.float32(3.0), self.attack_seconds) * np.float32(velocity)


@dataclass(frozen=True, kw_only=True)
class Bell:
    """A bell by frequency modulation at a ratio that is not whole."""

    ratio: float
    release_seconds: float = 0.3

    def note(self, midi: int, velocity: float, rng: np.random.Generator) -> Mono:
        time = times(samples_in(2.2))
        phase = turns(np.full(time.size, hertz(midi)), start=float(rng.random()))
        modulator = 2.0 * velocity * np.exp(-time / 0.4) * sine(self.ratio * phase)
        samples = sine(phase + modulator / (2.0 * np.pi)) * decaying(time.size, 0.55)
        return faded_in(samples, 0.002) * np.float32(velocity)


@dataclass(frozen=True, kw_only=True)
class Blown:
    """A wind, brass or bowed instrument: body resonance, more partials the fuller it sounds, vibrato, air or rosin."""

    tilt: float
    even: float
    """Strength of the even harmonics; a clarinet has few."""
    body_hertz: float
    body_width_hertz: float
    vibrato_cents: float
    vibrato_hertz: float
    noise_level: float
    attack_seconds: float
    lowest: int
    highest: int
    """Range in MIDI notes."""
    release_seconds: float = 0.08

    def note(self, midi: int, velocity: float, rng: np.random.Generator) -> Mono:
        fundamental = float(hertz(midi))
        time = times(samples_in(3.0))
        swell = np.minimum(1.0, time / (2.5 * self.attack_seconds)) * _unsteadiness(time.size, rng)
        phase = turns(fundamental * 2.0 ** (self._vibrato(time, rng) / 1200.0))
        soft, full = (play_wavetable(self._table(fundamental, brightness), phase) for brightness in (0.6, 1.0))
        wave = soft + (velocity * swell).astype(np.float32) * (full - soft)
        air = bandpass(noise(rng, time.size), max(300.0, fundamental), min(9000.0, 6.0 * fundamental + 2500.0))
        samples = (wave + np.float32(self.noise_level) * air) * swell.astype(np.float32)
        return faded_in(samples, self.attack_seconds) * np.float32(velocity)

    def _table(self, fundamental: float, brightness: float) -> Mono:
        number = harmonics_below(fundamental, 48)
        body = 0.35 + 1.0 / (1.0 + ((number * fundamental - self.body_hertz) / self.body_width_hertz) ** 2)
        return wavetable(number ** (-self.tilt / brightness) * np.where(number % 2 == 0, self.even, 1.0) * body)

    def _vibrato(self, time: Curve, rng: np.random.Generator) -> Curve:
        """In cents; it sets in after a quarter of a second."""
        depth = self.vibrato_cents * np.clip((time - 0.25) / 0.3, 0.0, 1.0)
        return np.asarray(depth * np.sin(2.0 * np.pi * self.vibrato_hertz * rng.uniform(0.95, 1.05) * time))


def _unsteadiness(num_samples: int, rng: np.random.Generator) -> Curve:
    """The small, slow changes of loudness in a held note."""
    coarse = 1.0 + 0.1 * smooth(rng.standard_normal(num_samples // 512 + 2), 8)
    return np.interp(np.arange(num_samples) / 512.0, np.arange(coarse.size), coarse)


BLOWN: Mapping[str, Blown] = {
    "flute": Blown(
        tilt=1.9, even=0.9, body_hertz=900, body_width_hertz=700, vibrato_cents=18, vibrato_hertz=5.2,
        noise_level=0.05, attack_seconds=0.06, lowest=62, highest=88,
    ),
    "clarinet": Blown(
        tilt=0.9, even=0.12, body_hertz=1500, body_width_hertz=900, vibrato_cents=4, vibrato_hertz=4.8,
        noise_level=0.012, attack_seconds=0.03, lowest=52, highest=80,
    ),
    "saxophone": Blown(
        tilt=0.75, even=0.95, body_hertz=750, body_width_hertz=600, vibrato_cents=20, vibrato_hertz=5.0,
        noise_level=0.03, attack_seconds=0.03, lowest=50, highest=76,
    ),
    "trumpet": Blown(
        tilt=0.5, even=1.0, body_hertz=1300, body_width_hertz=900, vibrato_cents=10, vibrato_hertz=5.4,
        noise_level=0.012, attack_seconds=0.025, lowest=57, highest=80,
    ),
    "violin": Blown(
        tilt=0.85, even=1.0, body_hertz=2600, body_width_hertz=1800, vibrato_cents=28, vibrato_hertz=5.9,
        noise_level=0.025, attack_seconds=0.08, lowest=58, highest=86,
    ),
    "cello": Blown(
        tilt=0.95, even=1.0, body_hertz=700, body_width_hertz=700, vibrato_cents=24, vibrato_hertz=5.3,
        noise_level=0.025, attack_seconds=0.09, lowest=40, highest=66,
    ),
    "brass": Blown(
        tilt=0.45, even=1.0, body_hertz=1100, body_width_hertz=1100, vibrato_cents=6, vibrato_hertz=5.0,
        noise_level=0.01, attack_seconds=0.04, lowest=48, highest=80, release_seconds=0.06,
    ),
}  # fmt: skip


def _draw_piano(rng: np.random.Generator) -> Instrument:
    return Piano(
        inharmonicity=rng.uniform(2e-4, 6e-4),
        tilt=rng.uniform(0.9, 1.4),
        strike_position=rng.uniform(0.105, 0.14),
        detune=rng.uniform(1e-4, 5e-4),
    )


def _draw_organ(rng: np.random.Generator) -> Instrument:
    usual = np.array([0.6, 1.0, 0.6, 0.8, 0.5, 0.5, 0.3, 0.2, 0.3])
    return Organ(drawbars=tuple(usual * rng.uniform(0.1, 1.0, size=9)), rotor_hertz=rng.uniform(0.8, 6.5))


def _draw_strings(rng: np.random.Generator) -> Instrument:
    return Ensemble(
        detune=rng.uniform(0.002, 0.006),
        cutoff_hertz=rng.uniform(1200.0, 4000.0),
        attack_seconds=rng.uniform(0.06, 0.3),
        release_seconds=0.4,
    )


def _draw_synthesiser(rng: np.random.Generator) -> Instrument:
    return Ensemble(
        detune=rng.uniform(0.001, 0.008),
        cutoff_hertz=rng.uniform(600.0, 2500.0),
        attack_seconds=0.005,
        release_seconds=rng.uniform(0.05, 0.12),
        sweep_octaves=rng.uniform(0.5, 2.0),
        ring_seconds=1.5,
    )


def _draw_plucked(*, positions: tuple[float, float], tilts: tuple[float, float], ring: tuple[float, float]) -> "Draw":
    return lambda rng: Plucked(
        position=rng.uniform(*positions), tilt=rng.uniform(*tilts), ring_seconds=rng.uniform(*ring)
    )


Draw = Callable[[np.random.Generator], Instrument]
DRAW: Mapping[str, Draw] = {
    "piano": _draw_piano,
    "electric piano": lambda rng: ElectricPiano(tremolo=rng.uniform(0.0, 0.25)),
    "guitar": _draw_plucked(positions=(0.1, 0.3), tilts=(0.7, 1.2), ring=(0.5, 1.1)),
    "clavinet": _draw_plucked(positions=(0.06, 0.14), tilts=(0.5, 0.8), ring=(0.25, 0.5)),
    "organ": _draw_organ,
    "strings": _draw_strings,
    "synthesiser": _draw_synthesiser,
    "bells": lambda rng: Bell(ratio=pick(rng, (1.4, 2.76, 3.5))),
}


def draw_instrument(name: str, rng: np.random.Generator) -> Instrument:
    """Draw an instrument of a kind: a key of DRAW or of BLOWN."""
    return BLOWN[name] if name in BLOWN else DRAW[name](rng)
