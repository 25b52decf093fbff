"""Instruments of the stem `other`: struck, plucked, electric, blown and bowed.

The fields of each dataclass are the parameters that vary between instruments of a kind; `draw_instrument` draws them.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from cyclesep.data.corpora.composer.effects import bandpass
from cyclesep.data.corpora.composer.oscillators import (
    accumulate_phase,
    damped_partials,
    harmonics_below,
    play_wavetable,
    sine,
    wavetable,
)
from cyclesep.data.corpora.composer.sampler import Instrument
from cyclesep.data.corpora.composer.signals import (
    Curve,
    Mono,
    exponential_decay,
    fade_in,
    midi_to_hertz,
    mix_into,
    noise,
    pick,
    samples_in,
    smooth,
    time_axis,
)


def _normalize_peak(samples: Mono) -> Mono:
    return np.asarray(samples / (np.abs(samples).max() + 1e-9), dtype=np.float32)


@dataclass(frozen=True, kw_only=True)
class Piano:
    """A piano: stiff, detuned strings struck by a hammer; the spectrum is brighter at higher velocities."""

    inharmonicity: float
    tilt: float
    strike_position: float
    detune: float
    release_seconds: float = 0.14

    def note(self, midi: int, velocity: float, rng: np.random.Generator) -> Mono:
        fundamental = float(midi_to_hertz(midi))
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
        # Two strings decay fast in phase, and slowly in antiphase: the double decay of pianos.
        strings = damped_partials(
            np.concatenate([frequency * (1.0 - detune), frequency * (1.0 + detune), frequency]),
            np.concatenate([decay, decay, 3.5 * decay]),
            np.concatenate([level, level, 0.6 * level]),
            np.concatenate([start, rng.uniform(0.0, 1.5, number.size), start]),
            samples_in(ring_seconds),
        )
        samples = _normalize_peak(strings)
        thump = bandpass(noise(rng, samples_in(0.03)), 90.0, 1800.0) * exponential_decay(samples_in(0.03), 0.006)
        mix_into(samples, 0, thump, 0.3 * velocity)
        return fade_in(samples, 0.0015) * np.float32(0.4 + 0.6 * velocity)


@dataclass(frozen=True, kw_only=True)
class ElectricPiano:
    """An electric piano by frequency modulation, brighter at higher velocities, with tremolo."""

    tremolo: float
    release_seconds: float = 0.12

    def note(self, midi: int, velocity: float, rng: np.random.Generator) -> Mono:
        time = time_axis(samples_in(2.8))
        phase = accumulate_phase(np.full(time.size, midi_to_hertz(midi)))
        bark = 1.3 * velocity * np.exp(-time / 0.7)
        tine = 0.4 * velocity * np.exp(-time / 0.06)
        modulator = bark * sine(phase) + tine * sine(14.0 * phase)
        wobble = 1.0 + self.tremolo * np.sin(2.0 * np.pi * 5.2 * time + rng.uniform(0.0, 6.0))
        fade = np.exp(-time / (1.6 * 2.0 ** (-(midi - 60) / 30.0)))
        samples = (sine(phase + modulator / (2.0 * np.pi)) * wobble * fade).astype(np.float32)
        return fade_in(samples, 0.003) * np.float32(velocity)


@dataclass(frozen=True, kw_only=True)
class Plucked:
    """A plucked string. The plucking position attenuates every n-th partial; high partials decay faster."""

    position: float
    tilt: float
    ring_seconds: float
    release_seconds: float = 0.05

    def note(self, midi: int, velocity: float, rng: np.random.Generator) -> Mono:
        fundamental = float(midi_to_hertz(midi))
        number = harmonics_below(fundamental, 48)
        position = self.position * rng.uniform(0.9, 1.1)
        strings = damped_partials(
            fundamental * number * np.sqrt(1.0 + 6e-5 * number**2),
            self.ring_seconds * (110.0 / fundamental) ** 0.4 / (1.0 + 0.12 * number),
            number ** (-self.tilt / (0.5 + 0.5 * velocity)) * np.abs(np.sin(np.pi * number * position)),
            np.full(number.size, np.pi / 2.0),
            samples_in(min(3.0, 5.0 * self.ring_seconds)),
        )
        samples = _normalize_peak(strings)
        scratch = bandpass(noise(rng, samples_in(0.012)), 1500.0, 8000.0) * exponential_decay(samples_in(0.012), 0.003)
        mix_into(samples, 0, scratch, 0.15 * velocity)
        return fade_in(samples, 0.001) * np.float32(velocity)


@dataclass(frozen=True, kw_only=True)
class Organ:
    """A drawbar organ with a rotating speaker."""

    drawbars: tuple[float, ...]
    rotor_hertz: float
    release_seconds: float = 0.03

    def note(self, midi: int, velocity: float, rng: np.random.Generator) -> Mono:
        time = time_axis(samples_in(4.2))
        # The fundamental of the wave is the 16-foot drawbar, an octave below the key.
        harmonics = np.zeros(16)
        harmonics[np.array([1, 2, 3, 4, 6, 8, 10, 12, 16]) - 1] = self.drawbars
        fundamental = float(midi_to_hertz(midi - 12))
        audible = harmonics[: harmonics_below(fundamental, 16).size]
        rotor = np.sin(2.0 * np.pi * self.rotor_hertz * time + rng.uniform(0.0, 6.0))
        samples = play_wavetable(wavetable(audible), accumulate_phase(fundamental * (1.0 + 0.002 * rotor)))
        return fade_in(samples * (1.0 + 0.15 * rotor).astype(np.float32), 0.008) * np.float32(velocity)


@dataclass(frozen=True, kw_only=True)
class Ensemble:
    """Three detuned sawtooth waves through a low-pass filter: pads, string sections, synthesiser stabs and leads."""

    detune: float
    cutoff_hertz: float
    attack_seconds: float
    release_seconds: float
    sweep_octaves: float = 0.0
    """Rise of the cutoff frequency at the attack."""
    ring_seconds: float = 4.2

    def note(self, midi: int, velocity: float, rng: np.random.Generator) -> Mono:
        fundamental = float(midi_to_hertz(midi))
        number = harmonics_below(fundamental, 80)
        num_samples = samples_in(self.ring_seconds)
        dark, bright = (
            wavetable(1.0 / number / np.sqrt(1.0 + (number * fundamental / cutoff) ** 4))
            for cutoff in (self.cutoff_hertz, self.cutoff_hertz * 2.0**self.sweep_octaves)
        )
        opening = exponential_decay(num_samples, 0.25)
        samples = np.zeros(num_samples, dtype=np.float32)
        for side in (-1, 0, 1):
            phase = accumulate_phase(
                np.full(num_samples, fundamental * (1.0 + side * self.detune)), start=float(rng.random())
            )
            wave = play_wavetable(dark, phase)
            samples += wave if self.sweep_octaves == 0.0 else wave + opening * (play_wavetable(bright, phase) - wave)
        return fade_in(samples / np.float32(3.0), self.attack_seconds) * np.float32(velocity)


@dataclass(frozen=True, kw_only=True)
class Bell:
    """A bell by frequency modulation with a non-integer ratio."""

    ratio: float
    release_seconds: float = 0.3

    def note(self, midi: int, velocity: float, rng: np.random.Generator) -> Mono:
        time = time_axis(samples_in(2.2))
        phase = accumulate_phase(np.full(time.size, midi_to_hertz(midi)), start=float(rng.random()))
        modulator = 2.0 * velocity * np.exp(-time / 0.4) * sine(self.ratio * phase)
        samples = sine(phase + modulator / (2.0 * np.pi)) * exponential_decay(time.size, 0.55)
        return fade_in(samples, 0.002) * np.float32(velocity)


@dataclass(frozen=True, kw_only=True)
class SustainedInstrument:
    """A wind, brass or bowed instrument with body resonance, dynamic brightness, vibrato, and breath or bow noise."""

    tilt: float
    even: float
    """Level of the even harmonics, which are weak in a clarinet."""
    body_hertz: float
    body_width_hertz: float
    vibrato_cents: float
    vibrato_hertz: float
    noise_level: float
    attack_seconds: float
    lowest: int
    highest: int
    """Range in MIDI notes, `lowest` to `highest`."""
    release_seconds: float = 0.08

    def note(self, midi: int, velocity: float, rng: np.random.Generator) -> Mono:
        fundamental = float(midi_to_hertz(midi))
        time = time_axis(samples_in(3.0))
        swell = np.minimum(1.0, time / (2.5 * self.attack_seconds)) * _loudness_fluctuation(time.size, rng)
        phase = accumulate_phase(fundamental * 2.0 ** (self._vibrato(time, rng) / 1200.0))
        soft, full = (play_wavetable(self._table(fundamental, brightness), phase) for brightness in (0.6, 1.0))
        wave = soft + (velocity * swell).astype(np.float32) * (full - soft)
        breath = bandpass(noise(rng, time.size), max(300.0, fundamental), min(9000.0, 6.0 * fundamental + 2500.0))
        samples = (wave + np.float32(self.noise_level) * breath) * swell.astype(np.float32)
        return fade_in(samples, self.attack_seconds) * np.float32(velocity)

    def _table(self, fundamental: float, brightness: float) -> Mono:
        number = harmonics_below(fundamental, 48)
        body = 0.35 + 1.0 / (1.0 + ((number * fundamental - self.body_hertz) / self.body_width_hertz) ** 2)
        return wavetable(number ** (-self.tilt / brightness) * np.where(number % 2 == 0, self.even, 1.0) * body)

    def _vibrato(self, time: Curve, rng: np.random.Generator) -> Curve:
        """Return the vibrato in cents; it starts after a quarter of a second."""
        depth = self.vibrato_cents * np.clip((time - 0.25) / 0.3, 0.0, 1.0)
        return np.asarray(depth * np.sin(2.0 * np.pi * self.vibrato_hertz * rng.uniform(0.95, 1.05) * time))


def _loudness_fluctuation(num_samples: int, rng: np.random.Generator) -> Curve:
    """Return a gain curve with the small, slow loudness fluctuations of a sustained note."""
    coarse = 1.0 + 0.1 * smooth(rng.standard_normal(num_samples // 512 + 2), 8)
    return np.interp(np.arange(num_samples) / 512.0, np.arange(coarse.size), coarse)


SUSTAINED_INSTRUMENTS: Mapping[str, SustainedInstrument] = {
    "flute": SustainedInstrument(
        tilt=1.9, even=0.9, body_hertz=900, body_width_hertz=700, vibrato_cents=18, vibrato_hertz=5.2,
        noise_level=0.05, attack_seconds=0.06, lowest=62, highest=88,
    ),
    "clarinet": SustainedInstrument(
        tilt=0.9, even=0.12, body_hertz=1500, body_width_hertz=900, vibrato_cents=4, vibrato_hertz=4.8,
        noise_level=0.012, attack_seconds=0.03, lowest=52, highest=80,
    ),
    "saxophone": SustainedInstrument(
        tilt=0.75, even=0.95, body_hertz=750, body_width_hertz=600, vibrato_cents=20, vibrato_hertz=5.0,
        noise_level=0.03, attack_seconds=0.03, lowest=50, highest=76,
    ),
    "trumpet": SustainedInstrument(
        tilt=0.5, even=1.0, body_hertz=1300, body_width_hertz=900, vibrato_cents=10, vibrato_hertz=5.4,
        noise_level=0.012, attack_seconds=0.025, lowest=57, highest=80,
    ),
    "violin": SustainedInstrument(
        tilt=0.85, even=1.0, body_hertz=2600, body_width_hertz=1800, vibrato_cents=28, vibrato_hertz=5.9,
        noise_level=0.025, attack_seconds=0.08, lowest=58, highest=86,
    ),
    "cello": SustainedInstrument(
        tilt=0.95, even=1.0, body_hertz=700, body_width_hertz=700, vibrato_cents=24, vibrato_hertz=5.3,
        noise_level=0.025, attack_seconds=0.09, lowest=40, highest=66,
    ),
    "brass": SustainedInstrument(
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


def _draw_plucked(
    *, positions: tuple[float, float], tilts: tuple[float, float], ring: tuple[float, float]
) -> "InstrumentFactory":
    return lambda rng: Plucked(
        position=rng.uniform(*positions), tilt=rng.uniform(*tilts), ring_seconds=rng.uniform(*ring)
    )


InstrumentFactory = Callable[[np.random.Generator], Instrument]
INSTRUMENT_FACTORIES: Mapping[str, InstrumentFactory] = {
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
    """Return an instrument with random parameters; `name` is in INSTRUMENT_FACTORIES or SUSTAINED_INSTRUMENTS."""
    return SUSTAINED_INSTRUMENTS[name] if name in SUSTAINED_INSTRUMENTS else INSTRUMENT_FACTORIES[name](rng)
