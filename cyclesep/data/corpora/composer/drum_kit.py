"""Synthesised drums and cymbals with random parameters."""

from collections.abc import Callable, Mapping

import numpy as np

from cyclesep.data.corpora.composer.effects import bandpass, highpass, pan, saturate
from cyclesep.data.corpora.composer.oscillators import accumulate_phase, damped_partials, sine
from cyclesep.data.corpora.composer.signals import (
    Mono,
    Stereo,
    exponential_decay,
    mix_into,
    noise,
    pick,
    samples_in,
    time_axis,
)

TAKES = 3
FADE_SECONDS = 0.02
LEVELS: Mapping[str, float] = {
    "kick": 1.0,
    "snare": 0.85,
    "clap": 0.6,
    "rim": 0.5,
    "hat": 0.3,
    "open_hat": 0.28,
    "ride": 0.25,
    "crash": 0.4,
    "shaker": 0.35,
    "low_tom": 0.7,
    "middle_tom": 0.7,
    "high_tom": 0.65,
}
# Frequency ratios of the six square oscillators in the cymbal voice of 1980s drum machines.
CYMBAL_RATIOS = np.array([1.0, 1.3420, 1.2312, 1.6532, 1.9523, 2.1523])


class DrumKit:
    """A drum kit with random parameters; each piece is rendered on first use, in a few randomly chosen takes."""

    def __init__(self, rng: np.random.Generator) -> None:
        self._rng = rng
        self._kick_hertz = rng.uniform(42.0, 62.0)
        self._kick_sweep_hertz = rng.uniform(60.0, 200.0)
        self._kick_seconds = rng.uniform(0.09, 0.25)
        self._kick_click = rng.uniform(0.1, 0.6)
        self._snare_hertz = rng.uniform(160.0, 240.0)
        self._snare_seconds = rng.uniform(0.06, 0.16)
        self._snare_wires = np.float32(rng.uniform(0.35, 0.75))
        self._cymbal_hertz = rng.uniform(950.0, 1700.0) * CYMBAL_RATIOS * rng.uniform(0.97, 1.03, size=6)
        self._hat_hertz = rng.uniform(5000.0, 8500.0)
        self._hat_seconds = rng.uniform(0.018, 0.05)
        self._positions = {piece: float(rng.uniform(-0.6, 0.6)) for piece in LEVELS}
        self._positions |= {"kick": 0.0, "snare": float(rng.uniform(-0.1, 0.1))}
        self._takes: dict[str, list[Stereo]] = {}

    def hit(self, piece: str) -> Stereo:
        """Return one hit of a piece, `(2, time)`, at full velocity."""
        if piece not in self._takes:
            self._takes[piece] = [self._synthesise(piece) for _ in range(1 if piece == "crash" else TAKES)]
        return pick(self._rng, self._takes[piece])

    def _synthesise(self, piece: str) -> Stereo:
        synthesisers: Mapping[str, Callable[[], Mono]] = {
            "kick": self._kick,
            "snare": self._snare,
            "clap": self._clap,
            "rim": self._rim,
            "hat": lambda: self._hat(self._hat_seconds),
            "open_hat": lambda: self._hat(8.0 * self._hat_seconds),
            "ride": self._ride,
            "shaker": self._shaker,
            "low_tom": lambda: self._tom(105.0),
            "middle_tom": lambda: self._tom(150.0),
            "high_tom": lambda: self._tom(210.0),
        }
        stereo = self._crash() if piece == "crash" else pan(synthesisers[piece](), self._positions[piece])
        fade = samples_in(FADE_SECONDS)
        stereo[:, -fade:] *= np.linspace(1.0, 0.0, fade, dtype=np.float32)
        return stereo * np.float32(LEVELS[piece])

    def _kick(self) -> Mono:
        length = samples_in(0.5)
        sweep = self._kick_sweep_hertz * exponential_decay(length, self._rng.uniform(0.018, 0.03))
        samples = sine(accumulate_phase(self._kick_hertz + sweep.astype(np.float64))) * exponential_decay(
            length, self._kick_seconds
        )
        click = noise(self._rng, samples_in(0.01)) * exponential_decay(samples_in(0.01), 0.002)
        mix_into(samples, 0, click, self._kick_click)
        return saturate(samples, 1.8)

    def _snare(self) -> Mono:
        length = samples_in(0.6)
        modes = self._snare_hertz * np.array([1.0, 1.59, 2.14]) * self._rng.uniform(0.99, 1.01)
        shell = damped_partials(modes, np.array([0.06, 0.045, 0.03]), np.array([1.0, 0.6, 0.3]), np.ones(3), length)
        wires = highpass(noise(self._rng, length), 1200.0, order=1) * exponential_decay(length, self._snare_seconds)
        return saturate(shell + self._snare_wires * (np.float32(1.3) * wires - shell), 1.5)

    def _tom(self, frequency: float) -> Mono:
        length = samples_in(0.5)
        bend = frequency * (1.0 + 0.5 * np.exp(-time_axis(length) / 0.03))
        stick = noise(self._rng, length) * exponential_decay(length, 0.01)
        return sine(accumulate_phase(bend)) * exponential_decay(length, 0.14) + np.float32(0.1) * stick

    def _clap(self) -> Mono:
        length = samples_in(0.3)
        hands = bandpass(noise(self._rng, length), 900.0, 4500.0)
        samples = np.zeros(length, dtype=np.float32)
        for delay, seconds in ((0.0, 0.008), (0.011, 0.008), (0.023, 0.07)):
            mix_into(samples, samples_in(delay), hands * exponential_decay(length, seconds), 1.6)
        return samples

    def _rim(self) -> Mono:
        modes = np.array([1700.0, 2300.0, 480.0]) * self._rng.uniform(0.98, 1.02)
        decays = np.array([0.008, 0.008, 0.02])
        return damped_partials(modes, decays, np.array([1.0, 0.8, 0.6]), np.ones(3), samples_in(0.1))

    def _cymbal_oscillators(self, num_samples: int) -> Mono:
        phase = self._cymbal_hertz[:, None] * time_axis(num_samples)
        return np.asarray(np.where(phase % 1.0 < 0.5, 1.0, -1.0).mean(axis=0), dtype=np.float32)

    def _hat(self, seconds: float) -> Mono:
        length = samples_in(min(1.2, 7.0 * seconds + 0.03))
        ring = np.float32(0.5) * self._cymbal_oscillators(length) + np.float32(0.7) * noise(self._rng, length)
        return highpass(ring, self._hat_hertz, order=3) * exponential_decay(length, seconds)

    def _ride(self) -> Mono:
        length = samples_in(1.2)
        stick = np.float32(0.4) * noise(self._rng, length) * exponential_decay(length, 0.12)
        return highpass(self._cymbal_oscillators(length) * exponential_decay(length, 0.35) + stick, 3000.0, order=1)

    def _crash(self) -> Stereo:
        length = samples_in(2.2)
        fade = np.float32(0.7) * exponential_decay(length, 0.5) + np.float32(0.3) * exponential_decay(length, 0.08)
        return np.stack([bandpass(noise(self._rng, length), 2500.0, 14_000.0) * fade for _ in range(2)])

    def _shaker(self) -> Mono:
        length = samples_in(0.09)
        return bandpass(noise(self._rng, length), 4500.0, 12_000.0) * np.hanning(length).astype(np.float32)
