"""The stem `vocals`: a lead voice with backing vocals in the chorus, compression, echo and reverberation."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from cyclesep.data.corpora.composer.composition import Song
from cyclesep.data.corpora.composer.effects import (
    compress,
    echoes,
    high_shelf,
    highpass,
    pan,
    reverberate,
    room,
    set_level,
)
from cyclesep.data.corpora.composer.melody import SungNote, compose_melody, harmonize_melody
from cyclesep.data.corpora.composer.signals import Stereo, pick
from cyclesep.data.corpora.composer.voice import Singer, draw_singer, sing

LEAD_LEVEL_DB = -18.0


def render_vocals(song: Song, num_samples: int, rng: np.random.Generator) -> Stereo:
    """Render the vocals, `(2, time)`."""
    singer = draw_singer(rng)
    notes = compose_melody(song, singer.low, singer.high, rng)
    lead = set_level(highpass(sing(notes, num_samples, singer, rng), 90.0), LEAD_LEVEL_DB)
    lead = compress(high_shelf(lead, 5000.0, rng.uniform(-3.0, 3.0)), threshold_db=-18.0, ratio=3.5)
    vocals = pan(lead, rng.uniform(-0.1, 0.1))
    if rng.random() < 0.6:
        vocals = vocals + _backing(song, notes, num_samples, singer, rng)
    if rng.random() < 0.5:
        beats = pick(rng, (0.5, 0.75, 1.0))
        vocals = echoes(vocals, beats * 4.0 * song.step_seconds, feedback=rng.uniform(0.1, 0.25))
    hall = room(rng, rng.uniform(0.7, 2.0), brightness=0.6, predelay_seconds=rng.uniform(0.01, 0.04))
    return reverberate(vocals, hall, wet=rng.uniform(0.08, 0.3))


def _backing(
    song: Song, notes: Sequence[SungNote], num_samples: int, singer: Singer, rng: np.random.Generator
) -> Stereo:
    """Render two voices, left and right, in the chorus: in unison, or a third above and a fourth below."""
    backing = np.zeros((2, num_samples), dtype=np.float32)
    chorus = [note for note in notes if song.bar_at(note.start).section == "chorus"]
    intervals = pick(rng, ((0, 0), (3, -5)))
    level_db = LEAD_LEVEL_DB - rng.uniform(5.0, 10.0)
    for position, semitones in zip((-0.6, 0.6), intervals, strict=True):
        line = harmonize_melody(chorus, song, semitones) if semitones else chorus
        shifted = [replace(note, start=max(0.0, note.start + rng.normal(0.0, 0.012))) for note in line]
        other = replace(draw_singer(rng), register=singer.register, scoop=0.0)
        voice = set_level(highpass(sing(shifted, num_samples, other, rng), 110.0), level_db)
        backing += pan(voice, position)
    return backing
