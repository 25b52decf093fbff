"""Singing voice synthesis: a glottal source with breath noise, filtered by a vocal tract with time-varying formants.

The source is the glottal flow derivative of Klatt & Klatt (1990, "Analysis, synthesis, and perception of voice quality
variations"). The tract is the lossy uniform tube of Fant (1960, "Acoustic Theory of Speech Production"). Its first four
resonances are moved to the formants of each vowel; the higher ones are those of a uniform tube of that length.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from scipy import fft

from cyclesep.data.corpora.composer.effects import bandpass, lowpass, saturate
from cyclesep.data.corpora.composer.melody import SungNote
from cyclesep.data.corpora.composer.oscillators import accumulate_phase
from cyclesep.data.corpora.composer.signals import (
    SAMPLE_RATE,
    Curve,
    Mono,
    midi_to_hertz,
    mix_into,
    noise,
    pick,
    samples_in,
    smooth,
)

CONTROL_HOP = 128
CONTROL_RATE = SAMPLE_RATE / CONTROL_HOP
SOUND_SPEED = 350.0

# Formants in hertz of low and high voices: rounded averages for men and women from Hillenbrand et al. (1995, "Acoustic
# characteristics of American English vowels"). The last four rows are targets of consonants.
FORMANTS: dict[str, dict[str, tuple[float, float, float, float]]] = {
    "low": {
        "i": (340, 2320, 3000, 3660),
        "e": (475, 2090, 2690, 3650),
        "E": (580, 1800, 2600, 3680),
        "a": (770, 1330, 2520, 3690),
        "A": (590, 1950, 2600, 3620),
        "O": (650, 1000, 2540, 3490),
        "o": (500, 910, 2460, 3380),
        "u": (380, 1000, 2340, 3360),
        "r": (470, 1380, 1710, 3330),
        "l": (360, 1100, 2600, 3400),
        "m": (260, 1050, 2250, 3200),
        "n": (270, 1500, 2450, 3300),
    },
    "high": {
        "i": (440, 2760, 3370, 4350),
        "e": (535, 2530, 3050, 4320),
        "E": (730, 2060, 2980, 4290),
        "a": (935, 1550, 2820, 4300),
        "A": (670, 2350, 2970, 4290),
        "O": (780, 1140, 2820, 3920),
        "o": (555, 1035, 2830, 3930),
        "u": (460, 1105, 2735, 4115),
        "r": (520, 1590, 1930, 3910),
        "l": (400, 1250, 2850, 4000),
        "m": (290, 1200, 2600, 3800),
        "n": (300, 1750, 2800, 3900),
    },
}
BANDWIDTHS = (80.0, 95.0, 140.0, 220.0)


@dataclass(frozen=True, kw_only=True)
class Consonant:
    """The start of a syllable: band-limited noise, a preceding closure, or a voiced onset from another tract shape."""

    band_hertz: tuple[float, float] | None = None
    seconds: float = 0.06
    level: float = 0.0
    closure_seconds: float = 0.0
    tract: str | None = None


CONSONANTS: dict[str, Consonant] = {
    "": Consonant(),
    "s": Consonant(band_hertz=(4800, 10_500), seconds=0.12, level=0.30, closure_seconds=0.08),
    "z": Consonant(band_hertz=(4500, 9500), seconds=0.09, level=0.16),
    "S": Consonant(band_hertz=(2200, 6500), seconds=0.11, level=0.34, closure_seconds=0.07),
    "f": Consonant(band_hertz=(1500, 10_000), seconds=0.09, level=0.10, closure_seconds=0.06),
    "v": Consonant(band_hertz=(1200, 7000), seconds=0.06, level=0.05),
    "h": Consonant(band_hertz=(700, 5000), seconds=0.08, level=0.10, closure_seconds=0.04),
    "t": Consonant(band_hertz=(3000, 9500), seconds=0.035, level=0.40, closure_seconds=0.055),
    "k": Consonant(band_hertz=(1300, 4600), seconds=0.040, level=0.38, closure_seconds=0.055),
    "p": Consonant(band_hertz=(400, 2600), seconds=0.025, level=0.30, closure_seconds=0.055),
    "d": Consonant(band_hertz=(2500, 7000), seconds=0.015, level=0.18, closure_seconds=0.035, tract="n"),
    "b": Consonant(band_hertz=(300, 1600), seconds=0.012, level=0.16, closure_seconds=0.035, tract="m"),
    "g": Consonant(band_hertz=(1000, 3000), seconds=0.018, level=0.18, closure_seconds=0.035),
    "m": Consonant(seconds=0.075, tract="m"),
    "n": Consonant(seconds=0.065, tract="n"),
    "l": Consonant(seconds=0.060, tract="l"),
    "r": Consonant(seconds=0.075, tract="r"),
    "w": Consonant(seconds=0.075, tract="u"),
    "j": Consonant(seconds=0.075, tract="i"),
}


@dataclass(frozen=True, kw_only=True)
class Singer:
    """Parameters of a voice."""

    register: str
    low: int
    high: int
    """Lowest and highest MIDI notes are `low` and `high`."""
    tract_metres: float
    formant_scale: float
    vibrato_hertz: float
    vibrato_cents: float
    breath: float
    open_quotient: float
    """Fraction of a glottal cycle in which the vocal folds are open: 0.45 for pressed, 0.75 for breathy voices."""
    softness_hertz: float
    """Cutoff frequency of the low-pass filter at low loudness."""
    scoop: float
    """Probability that a note starts with a glide from below."""
    drive: float


def draw_singer(rng: np.random.Generator) -> Singer:
    """Return a low or high voice with random parameters."""
    register = pick(rng, ("low", "high"))
    low = int(rng.integers(44, 50) if register == "low" else rng.integers(54, 60))
    scale = float(rng.uniform(0.93, 1.07))
    return Singer(
        register=register,
        low=low,
        high=low + int(rng.integers(15, 20)),
        tract_metres=(0.175 if register == "low" else 0.147) / scale,
        formant_scale=scale,
        vibrato_hertz=float(rng.uniform(4.8, 6.6)),
        vibrato_cents=float(rng.uniform(10.0, 60.0)),
        breath=float(rng.uniform(0.006, 0.04)),
        open_quotient=float(rng.uniform(0.48, 0.72)),
        softness_hertz=float(rng.uniform(1200.0, 3500.0)),
        scoop=float(rng.uniform(0.1, 0.6)),
        drive=float(rng.uniform(0.0, 1.5)),
    )


def sing(notes: Sequence[SungNote], num_samples: int, singer: Singer, rng: np.random.Generator) -> Mono:
    """Synthesise sung notes, `(time,)`; the level is arbitrary."""
    if not notes:
        return np.zeros(num_samples, dtype=np.float32)
    controls = _control_curves(notes, num_samples // CONTROL_HOP + 2, singer, rng)
    at_samples = np.arange(num_samples) / CONTROL_HOP
    frames = np.arange(controls.loudness.size)
    frequency = np.interp(at_samples, frames, midi_to_hertz(controls.midi))
    loudness = np.interp(at_samples, frames, controls.loudness).astype(np.float32)
    source = _glottal_source(frequency, loudness, singer, rng)
    voice = filter_by_tract(source, _tuned_formants(controls), singer.tract_metres)
    voice = voice / (np.abs(voice).max() + np.float32(1e-9))
    _add_consonants(voice, notes, rng)
    _add_inhalations(voice, notes, singer, rng)
    return saturate(voice, 1.0 + singer.drive) if singer.drive > 0.5 else voice


@dataclass(frozen=True, kw_only=True)
class _ControlCurves:
    """Control curves at CONTROL_RATE: pitch (MIDI), loudness (0 to 1), formants in hertz (4, frames)."""

    midi: Curve
    loudness: Curve
    formants: Curve


def _control_curves(
    notes: Sequence[SungNote], num_frames: int, singer: Singer, rng: np.random.Generator
) -> _ControlCurves:
    midi = np.full(num_frames, float(notes[0].midi))
    loudness = np.zeros(num_frames)
    vibrato = np.zeros(num_frames)
    formants = np.empty((4, num_frames))
    formants[:] = np.array(FORMANTS[singer.register][notes[0].vowel[0]])[:, None]
    for note in notes:
        first = int(note.start * CONTROL_RATE)
        last = min(num_frames, int((note.start + note.seconds) * CONTROL_RATE))
        if last - first < 4:
            continue
        midi[first:] = note.midi + rng.normal(0.0, 0.05)
        _shape_pitch(midi[first:last], vibrato[first:last], singer, rng)
        _shape_loudness(loudness, first, last, note)
        _shape_tract(formants, first, last, note, singer)
    return _ControlCurves(
        midi=_intonation(midi, vibrato, singer, rng),
        loudness=smooth(loudness, 8) * (1.0 + 0.06 * smooth(rng.standard_normal(num_frames), 6)),
        formants=smooth(formants, 22) * singer.formant_scale,
    )


def _shape_pitch(midi: Curve, vibrato: Curve, singer: Singer, rng: np.random.Generator) -> None:
    """Add a glide into the note, a fall at its end, and the onset of the vibrato."""
    length = midi.size
    if rng.random() < singer.scoop:
        rise = min(length // 2, int(rng.uniform(0.05, 0.15) * CONTROL_RATE))
        midi[:rise] -= rng.uniform(0.6, 2.2) * np.linspace(1.0, 0.0, rise) ** 1.5
    if length > 0.3 * CONTROL_RATE and rng.random() < 0.4 * singer.scoop:
        fall = min(length // 3, int(0.2 * CONTROL_RATE))
        midi[-fall:] -= rng.uniform(0.4, 2.5) * np.linspace(0.0, 1.0, fall) ** 1.5
    delay = min(length, int(0.2 * CONTROL_RATE))
    vibrato[delay:] = np.clip(np.arange(length - delay) / (0.35 * CONTROL_RATE), 0.0, 1.0)


def _shape_loudness(loudness: Curve, first: int, last: int, note: SungNote) -> None:
    """Add the swell and release of a note, and the silence of a closure before it."""
    length = last - first
    consonant = CONSONANTS[note.consonant]
    swell = 0.85 + 0.15 * np.sin(np.pi * np.linspace(0.0, 1.0, length))
    attack = min(length // 2, int((0.015 if consonant.closure_seconds else 0.045) * CONTROL_RATE))
    release = min(length // 2, int(0.07 * CONTROL_RATE))
    start = 0.6 if first and loudness[first - 1] > 0.0 and not consonant.closure_seconds else 0.0
    swell[:attack] *= np.linspace(start, 1.0, attack)
    swell[-release:] *= np.linspace(1.0, 0.25, release)
    loudness[first:last] = note.velocity * swell
    if consonant.tract:
        loudness[first : first + min(length // 2, int(consonant.seconds * CONTROL_RATE))] *= 0.55
    loudness[max(0, first - int(consonant.closure_seconds * CONTROL_RATE)) : first] = 0.0


def _shape_tract(formants: Curve, first: int, last: int, note: SungNote, singer: Singer) -> None:
    """Set the formants of the consonant, the vowel, and the second vowel of a diphthong, up to the next note."""
    shapes = FORMANTS[singer.register]
    consonant = CONSONANTS[note.consonant]
    length = last - first
    formants[:, first:] = np.array(shapes[note.vowel[0]])[:, None]
    if len(note.vowel) > 1:
        formants[:, first + int(0.6 * length) :] = np.array(shapes[note.vowel[-1]])[:, None]
    if consonant.tract:
        closed = min(length // 2, int(consonant.seconds * CONTROL_RATE))
        formants[:, first : first + closed] = np.array(shapes[consonant.tract])[:, None]


def _intonation(midi: Curve, vibrato: Curve, singer: Singer, rng: np.random.Generator) -> Curve:
    """Return the pitch curve: glides between notes, plus vibrato, slow drift and fast jitter."""
    frames = midi.size
    swing = np.sin(2.0 * np.pi * singer.vibrato_hertz * np.arange(frames) / CONTROL_RATE + rng.uniform(0.0, 6.0))
    drift = 0.6 * smooth(rng.standard_normal(frames), 250)
    jitter = 0.04 * smooth(rng.standard_normal(frames), 5)
    return np.asarray(smooth(midi, 22) + vibrato * swing * singer.vibrato_cents / 100.0 + drift + jitter)


def _glottal_source(frequency: Curve, loudness: Mono, singer: Singer, rng: np.random.Generator) -> Mono:
    """Return glottal pulses, low-pass filtered at low loudness, with breath noise modulated by the opening."""
    phase = accumulate_phase(frequency, start=float(rng.random()))
    cycle = phase.astype(np.int64)
    position = (phase - cycle).astype(np.float32)
    shimmer = (1.0 + 0.04 * rng.standard_normal(int(cycle[-1]) + 1)).astype(np.float32)
    pulses = glottal_pulses(position, (frequency / SAMPLE_RATE).astype(np.float32), singer.open_quotient)
    pulses = pulses * shimmer[cycle]
    soft = lowpass(pulses, singer.softness_hertz, order=1)
    pulses = soft + (0.25 + 0.75 * loudness) * (pulses - soft)
    breath = noise(rng, position.size) * (0.4 + np.sin(np.float32(np.pi) * position))
    return np.asarray(loudness * (pulses + np.float32(singer.breath) * breath))


def glottal_pulses(position: Mono, increment: Mono, open_quotient: float) -> Mono:
    """Return the glottal flow derivative of the KLGLOTT88 model.

    `position` is the phase in turns, `increment` its increment per sample. During the open phase the flow is t^2 - t^3;
    its derivative 2t - 3t^2 reaches -1 at the closure. A two-sample polynomial correction (polyBLEP) band-limits this
    step.
    """
    opening = position / np.float32(open_quotient)
    pulses = np.where(opening < 1.0, opening * (2.0 - 3.0 * opening), np.float32(0.0))
    distance = (position - np.float32(open_quotient)) / increment
    before = (distance >= -1.0) & (distance < 0.0)
    after = (distance >= 0.0) & (distance < 1.0)
    pulses[before] += 0.5 * (distance[before] + 1.0) ** 2
    pulses[after] -= 0.5 * (1.0 - distance[after]) ** 2
    return np.asarray(pulses, dtype=np.float32)


def _tuned_formants(controls: _ControlCurves) -> Curve:
    """Return formants with the first one raised above the pitch, as singers do on high notes."""
    formants = controls.formants.copy()
    formants[0] = np.maximum(formants[0], 1.05 * midi_to_hertz(controls.midi))
    formants[1] = np.maximum(formants[1], formants[0] + 150.0)
    return formants


TRACT_HOP = 512
TRACT_FFT = 2048
TRACT_CHUNK = 256


def filter_by_tract(source: Mono, formants: Curve, tract_metres: float) -> Mono:
    """Filter `source` `(time,)` by a vocal tract with formants `(4, frames)` at CONTROL_RATE.

    Overlap-add of Hann-windowed frames of 1024 samples with 50 % overlap, each filtered by the tract at its centre. The
    FFT size allows for a response of 1024 more samples.
    """
    frame = 2 * TRACT_HOP
    num_frames = source.size // TRACT_HOP + 1
    padded = np.pad(source, (TRACT_HOP, frame))
    window = (0.5 - 0.5 * np.cos(2.0 * np.pi * np.arange(frame) / frame)).astype(np.float32)
    output = np.zeros((num_frames + TRACT_FFT // TRACT_HOP, TRACT_HOP), dtype=np.float32)
    for first in range(0, num_frames, TRACT_CHUNK):
        last = min(num_frames, first + TRACT_CHUNK)
        segments = np.lib.stride_tricks.sliding_window_view(padded, frame)[first * TRACT_HOP :: TRACT_HOP][
            : last - first
        ]
        centres = np.minimum(np.arange(first, last) * (TRACT_HOP // CONTROL_HOP), formants.shape[1] - 1)
        spectrum = fft.rfft(segments * window, TRACT_FFT) * tract_response(formants[:, centres], tract_metres)
        filtered = fft.irfft(spectrum, TRACT_FFT).reshape(last - first, -1, TRACT_HOP)
        for part in range(filtered.shape[1]):
            output[first + part : last + part] += filtered[:, part]
    return output.reshape(-1)[TRACT_HOP : TRACT_HOP + source.size]


def tract_response(formants: Curve, tract_metres: float) -> NDArray[np.complex64]:
    """Return the transfer function of the vocal tract, `(frames, bins)`, for formants `(4, frames)` in hertz.

    The transfer function of a uniform tube closed at the glottis is 1 / cosh(loss + i 2 pi f length / c). It has
    resonances at odd multiples of c / (4 length). The first four resonances are replaced by those of the formants.
    """
    bins = np.arange(TRACT_FFT // 2 + 1) * (SAMPLE_RATE / TRACT_FFT)
    loss = 0.12 + 6e-5 * bins
    response = 1.0 / np.cosh(loss + 2j * np.pi * bins * tract_metres / SOUND_SPEED)
    for number in range(4):
        neutral = (2 * number + 1) * SOUND_SPEED / (4.0 * tract_metres)
        bandwidth = (0.12 + 6e-5 * neutral) * SOUND_SPEED / (np.pi * tract_metres)
        response = response * (1.0 - (bins / neutral) ** 2 + 1j * bins * bandwidth / neutral**2)
    moved = np.broadcast_to(response.astype(np.complex64), (formants.shape[1], bins.size))
    ratio = bins.astype(np.float32)
    for formant, width in zip(formants.astype(np.float32), BANDWIDTHS, strict=True):
        inverse_square = (1.0 / formant**2)[:, None]
        resonance = np.empty(moved.shape, dtype=np.complex64)
        resonance.real = 1.0 - ratio**2 * inverse_square
        resonance.imag = np.float32(width) * ratio * inverse_square
        moved = moved / resonance
    return moved


def _add_consonants(voice: Mono, notes: Sequence[SungNote], rng: np.random.Generator) -> None:
    for note in notes:
        consonant = CONSONANTS[note.consonant]
        if consonant.band_hertz is None:
            continue
        length = samples_in(consonant.seconds * rng.uniform(0.8, 1.2))
        burst = bandpass(noise(rng, length), *consonant.band_hertz, order=2)
        # Stops have a steeper onset than fricatives.
        edge = 0.3 if consonant.seconds < 0.05 else 0.7
        burst *= np.hanning(length).astype(np.float32) ** edge
        start = samples_in(note.start) - int(0.8 * length)
        mix_into(voice, start, burst, consonant.level * note.velocity)


def _add_inhalations(voice: Mono, notes: Sequence[SungNote], singer: Singer, rng: np.random.Generator) -> None:
    """Add breath noise before each phrase that follows a rest of at least 0.4 s."""
    for before, note in pairwise(notes):
        if note.start - before.start - before.seconds < 0.4:
            continue
        length = samples_in(rng.uniform(0.2, 0.35))
        air = bandpass(noise(rng, length), 900.0 * singer.formant_scale, 5000.0)
        air *= np.linspace(0.0, 1.0, length, dtype=np.float32) ** 2
        mix_into(voice, samples_in(note.start - 0.06) - length, air, 0.4 * singer.breath)
