"""Unpaired recordings for training: solo piano, and clips of other instruments."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
from annotated_types import Ge
from pydantic import NonNegativeInt

from cyclesep.audio.audio_io import Waveform, write_wav
from cyclesep.data.corpora.composer.composition import Note
from cyclesep.data.corpora.composer.effects import highpass, lowpass, pan, reverberate, room, saturate, set_level
from cyclesep.data.corpora.composer.instruments import SUSTAINED_INSTRUMENTS, draw_instrument
from cyclesep.data.corpora.composer.melody import CONSONANTS, VOWELS, SungNote
from cyclesep.data.corpora.composer.sampler import Sampler, perform
from cyclesep.data.corpora.composer.signals import SAMPLE_RATE, Mono, Stereo, mix_into, pick, random_stream, samples_in
from cyclesep.data.corpora.composer.styles import MODES, PROGRESSIONS
from cyclesep.data.corpora.composer.voice import draw_singer, sing

PIANO_KEY, OTHERS_KEY = 2_000, 2_001
PEAK = 0.97


@dataclass(frozen=True, kw_only=True)
class PianoDomainConfig:
    """Number and length of the piano recordings, the clips of other instruments, and the duets."""

    seed: NonNegativeInt = 0
    """Random seed of the music."""
    num_piano: NonNegativeInt = 6
    """Number of piano recordings."""
    piano_seconds: Annotated[float, Ge(2.0)] = 60.0
    """Length of each piano recording."""
    num_others: NonNegativeInt = 90
    """Number of clips of other instruments."""
    others_seconds: Annotated[float, Ge(2.0)] = 3.0
    """Length of each clip."""
    num_train_duets: NonNegativeInt = 0
    """Number of training duets, for comparison with paired training."""
    num_test_duets: NonNegativeInt = 0
    """Number of test duets."""
    duet_seconds: Annotated[float, Ge(2.0)] = 12.0
    """Length of each duet."""


def write_piano_domain(root: Path, config: PianoDomainConfig) -> None:
    """Write `root/piano/piano_0000.wav`, ... and `root/others/<instrument>_0000.wav`, ..., 16-bit 44.1 kHz stereo.

    Duets of a piano and two other instruments are `root/duets/{train,test}/duet_0000/{piano,accompaniment}.wav`; their
    recordings differ from those in the two folders. Raises StorageError if a file cannot be written.
    """
    for index in range(config.num_piano):
        recording = render_piano(config.seed, index, config.piano_seconds)
        _write(Path(root) / "piano" / f"piano_{index:04}.wav", recording)
    for index in range(config.num_others):
        instrument, clip = render_clip(config.seed, index, config.others_seconds)
        _write(Path(root) / "others" / f"{instrument.replace(' ', '_')}_{index:04}.wav", clip)
    for index in range(config.num_train_duets + config.num_test_duets):
        split = "train" if index < config.num_train_duets else "test"
        for stem, recording in _duet(config, index).items():
            _write(Path(root) / "duets" / split / f"duet_{index:04}" / f"{stem}.wav", recording)


def render_piano(seed: int, index: int, seconds: float) -> Stereo:
    """Render a piano piece, `(2, time)`: a pattern in the left hand and a melody in the right hand."""
    rng = random_stream(seed, PIANO_KEY, index)
    sampler = Sampler(draw_instrument("piano", rng), rng)
    width = rng.uniform(0.3, 0.7)
    recording = np.zeros((2, samples_in(seconds)), dtype=np.float32)
    for note in _piece(seconds, rng):
        position = float(np.clip((note.midi - 62) / 40.0 * width, -0.9, 0.9))
        sound = pan(sampler.play(note.midi, note.seconds, note.velocity), position)
        mix_into(recording, samples_in(note.start), sound)
    return _record_in_room(recording, rng)


def render_clip(seed: int, index: int, seconds: float) -> tuple[str, Stereo]:
    """Render a few notes on an instrument other than the piano; return its name and the clip, `(2, time)`."""
    rng = random_stream(seed, OTHERS_KEY, index)
    instrument = pick(rng, list(CLIPS))
    line = CLIPS[instrument](instrument, seconds, rng)
    return instrument, _record_in_room(pan(line, rng.uniform(-0.3, 0.3)), rng)


def _duet(config: PianoDomainConfig, index: int) -> dict[str, Stereo]:
    """Return a piano and the sum of two unrelated instruments, scaled so that their sum does not clip."""
    others = [
        render_clip(config.seed, config.num_others + 2 * index + player, config.duet_seconds)[1] for player in (0, 1)
    ]
    piano = render_piano(config.seed, config.num_piano + index, config.duet_seconds)
    return {"piano": piano * np.float32(0.5), "accompaniment": (others[0] + others[1]) * np.float32(0.35)}


def _write(path: Path, samples: Stereo) -> None:
    write_wav(path, Waveform(samples=samples, sample_rate=SAMPLE_RATE), subtype="PCM_16")


def _record_in_room(stereo: Stereo, rng: np.random.Generator) -> Stereo:
    """Add reverberation and set a random level, without clipping."""
    wet = reverberate(stereo, room(rng, rng.uniform(0.4, 1.5), brightness=0.45), wet=rng.uniform(0.05, 0.25))
    audio = set_level(wet, rng.uniform(-22.0, -15.0))
    return audio / np.float32(max(1.0, np.abs(audio).max() / PEAK))


# Patterns of the left hand in a bar of four beats: (beat, length in beats, chord tone); tone 0 is the bass note.
LEFT_HANDS: tuple[tuple[tuple[float, float, int], ...], ...] = (
    tuple((0.5 * eighth, 0.6, (1, 3, 2, 3)[eighth % 4]) for eighth in range(8)),
    ((0, 0.9, 0), (1, 0.8, 2), (1, 0.8, 3), (2, 0.9, 0), (3, 0.8, 2), (3, 0.8, 3)),
    tuple((0.5 * eighth, 1.2, (0, 1, 2, 3, 4, 3, 2, 1)[eighth]) for eighth in range(8)),
    ((0, 1.9, 0), (0, 1.9, 2), (0, 1.9, 3), (2, 1.9, 0), (2, 1.9, 2), (2, 1.9, 3)),
)


def _piece(seconds: float, rng: np.random.Generator) -> Iterator[Note]:
    """Yield notes in sections of four to eight bars, each with random key, tempo, left-hand pattern and loudness."""
    start = 0.0
    while start < seconds:
        mode = pick(rng, list(MODES))
        tonic, progression, left_hand = int(rng.integers(12)), pick(rng, PROGRESSIONS[mode]), pick(rng, LEFT_HANDS)
        beat_seconds, loudness = 60.0 / rng.uniform(66.0, 140.0), rng.uniform(0.45, 0.8)
        last = int(rng.integers(67, 77))
        for bar in range(int(rng.integers(4, 9))):
            rubato = beat_seconds * (1.0 + 0.06 * np.sin(0.25 * np.pi * bar) + rng.normal(0.0, 0.01))
            scale = [tonic + step for step in MODES[mode]]
            degree = progression[bar % len(progression)]
            chord = [scale[(degree + third) % 7] % 12 for third in (0, 2, 4)]
            right_hand = list(_right_hand(scale, chord, last, rng))
            last = right_hand[-1][2]
            for beat, beats, midi, accent in (*_left_hand(left_hand, chord), *right_hand):
                yield Note(
                    start=max(0.0, start + beat * rubato + rng.normal(0.0, 0.006)),
                    seconds=beats * rubato,
                    midi=midi,
                    velocity=float(np.clip(loudness * accent + rng.normal(0.0, 0.04), 0.15, 1.0)),
                )
            start += 4.0 * rubato


def _left_hand(
    pattern: tuple[tuple[float, float, int], ...], chord: list[int]
) -> Iterator[tuple[float, float, int, float]]:
    bass = 36 + (chord[0] - 36) % 12
    tones = (bass, *sorted(48 + (tone - 48) % 12 for tone in chord), bass + 24)
    return ((beat, beats, tones[tone], 0.75) for beat, beats, tone in pattern)


def _right_hand(
    scale: list[int], chord: list[int], last: int, rng: np.random.Generator
) -> Iterator[tuple[float, float, int, float]]:
    """Yield a melody of one bar as (beat, length in beats, MIDI note, accent), occasionally harmonised below."""
    in_key = {pitch % 12 for pitch in scale}
    beat = 0.0
    while beat < 4.0:
        beats = min(pick(rng, (0.25, 0.5, 0.5, 0.5, 1.0, 1.0, 1.5, 2.0)), 4.0 - beat)
        centre = min(max(last, 66), 85)
        nearby = [midi for midi in range(centre - 6, centre + 7) if midi % 12 in in_key]
        on_chord = [midi for midi in nearby if midi % 12 in chord]
        last = pick(rng, on_chord if beat.is_integer() and rng.random() < 0.6 else nearby)
        yield beat, beats, last, 1.15
        if rng.random() < 0.2:
            yield beat, beats, next(midi for midi in range(last - 8, last) if midi % 12 in in_key), 0.95
        beat += beats


def _melody(low: int, high: int, seconds: float, rng: np.random.Generator) -> Iterator[Note]:
    """Yield a melody in one key between the MIDI notes `low` and `high`."""
    tonic, mode = int(rng.integers(12)), MODES[pick(rng, list(MODES))]
    beat_seconds = 60.0 / rng.uniform(70.0, 150.0)
    start, last = float(rng.uniform(0.0, 0.1)), (low + high) // 2
    while start < seconds:
        length = beat_seconds * pick(rng, (0.5, 0.5, 1.0, 1.0, 2.0))
        reach = range(max(low, last - 5), min(high, last + 5) + 1)
        last = pick(rng, [midi for midi in reach if (midi - tonic) % 12 in mode])
        yield Note(start=start, seconds=0.95 * length, midi=last, velocity=rng.uniform(0.6, 0.95))
        start += length


def _sustained_clip(name: str, seconds: float, rng: np.random.Generator) -> Mono:
    instrument = SUSTAINED_INSTRUMENTS[name]
    melody = _melody(instrument.lowest, instrument.highest, seconds, rng)
    return perform(melody, Sampler(instrument, rng), samples_in(seconds))


def _chordal_clip(name: str, seconds: float, rng: np.random.Generator) -> Mono:
    """Render a melody in which some notes are power chords (root, fifth, octave)."""
    notes = []
    for note in _melody(48, 72, seconds, rng):
        intervals = (0, 7, 12) if rng.random() < 0.5 else (0,)
        notes += [
            Note(start=note.start, seconds=note.seconds, midi=note.midi + interval, velocity=note.velocity)
            for interval in intervals
        ]
    kind = "guitar" if name == "electric guitar" else name
    line = perform(notes, Sampler(draw_instrument(kind, rng), rng), samples_in(seconds))
    if name == "electric guitar":
        return lowpass(saturate(highpass(line, 80.0), rng.uniform(4.0, 15.0)), 4500.0, order=3)
    return line


def _voice_clip(_name: str, seconds: float, rng: np.random.Generator) -> Mono:
    singer = draw_singer(rng)
    notes = [
        SungNote(
            start=note.start,
            seconds=note.seconds,
            midi=note.midi,
            velocity=note.velocity,
            consonant=pick(rng, CONSONANTS),
            vowel=pick(rng, VOWELS),
        )
        for note in _melody(singer.low, singer.high, seconds, rng)
    ]
    return sing(notes, samples_in(seconds), singer, rng)


CLIPS: dict[str, Callable[[str, float, np.random.Generator], Mono]] = {
    **dict.fromkeys(SUSTAINED_INSTRUMENTS, _sustained_clip),
    **dict.fromkeys(("guitar", "electric guitar", "organ", "strings"), _chordal_clip),
    "voice": _voice_clip,
}
