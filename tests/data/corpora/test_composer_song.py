"""Composition, instruments and effects of synthetic songs."""

from itertools import pairwise

import numpy as np
import pytest

from cyclesep.data.corpora.composer.bass import BASSES
from cyclesep.data.corpora.composer.composition import Note, compose
from cyclesep.data.corpora.composer.drum_kit import LEVELS, DrumKit
from cyclesep.data.corpora.composer.effects import active_level, compress, echoes, pan, room, set_level
from cyclesep.data.corpora.composer.harmony import FIGURES, PARTS
from cyclesep.data.corpora.composer.instruments import INSTRUMENT_FACTORIES, SUSTAINED_INSTRUMENTS, draw_instrument
from cyclesep.data.corpora.composer.mastering import limit
from cyclesep.data.corpora.composer.oscillators import accumulate_phase, damped_partials, play_wavetable, wavetable
from cyclesep.data.corpora.composer.sampler import Sampler, cut_note, perform
from cyclesep.data.corpora.composer.signals import SAMPLE_RATE, midi_to_hertz, mix_into, random_stream, smooth
from cyclesep.data.corpora.composer.styles import STYLES, parse_pattern

SONGS = [compose(random_stream(0, index), 60.0) for index in range(60)]


def test_keys_modes_tempi_and_styles_vary():
    assert {song.tonic for song in SONGS} == set(range(12))
    assert {song.mode for song in SONGS} == {"major", "minor", "dorian", "mixolydian", "harmonic minor"}
    assert {song.style_name for song in SONGS} == set(STYLES)
    tempi = [song.tempo_bpm for song in SONGS]
    assert min(tempi) < 80.0
    assert max(tempi) > 135.0


@pytest.mark.parametrize("seconds", [2.0, 6.0, 12.0, 30.0, 240.0])
def test_songs_have_the_requested_length(seconds):
    for index in range(20):
        song = compose(random_stream(1, index), seconds)
        assert (len(song.bars) - 1) * song.bar_seconds < seconds <= len(song.bars) * song.bar_seconds + 1e-6


@pytest.mark.parametrize("seconds", [6.0, 12.0, 30.0, 240.0])
def test_each_stem_plays_in_at_least_one_bar(seconds):
    for index in range(40):
        song = compose(random_stream(2, index), seconds)
        assert all(any(True for _ in song.playing(stem)) for stem in ("vocals", "drums", "bass", "other"))


def test_long_songs_have_bars_in_which_a_stem_rests():
    assert all(any(bar.resting for bar in song.bars) for song in SONGS if len(song.bars) > 16)


def test_chords_are_thirds_of_the_scale():
    for song in SONGS:
        for degree in range(7):
            chord = song.chord(degree, 4)
            assert all(song.in_scale(tone) for tone in chord)
            assert all(3 <= upper - lower <= 4 for lower, upper in pairwise(chord))


def test_patterns_have_the_bar_length_and_existing_names():
    for style in STYLES.values():
        for groove in style.grooves:
            assert set(groove) <= set(LEVELS)
            assert {len(pattern) for pattern in groove.values()} == {style.steps_per_bar}
        assert {len(line) for line in style.bass_lines} == {style.steps_per_bar}
        assert set(style.basses) <= set(BASSES)
        assert {name for ensemble in style.ensembles for name in ensemble} <= set(PARTS)
    for part in PARTS.values():
        assert part.instrument in {**INSTRUMENT_FACTORIES, **SUSTAINED_INSTRUMENTS}
        assert part.figure == "line" or part.figure in FIGURES


def test_parse_pattern_yields_steps_lengths_and_symbols():
    assert list(parse_pattern("r--.f-a.")) == [(0, 3, "r"), (4, 2, "f"), (6, 1, "a")]


@pytest.mark.parametrize("name", [*INSTRUMENT_FACTORIES, *SUSTAINED_INSTRUMENTS])
def test_instrument_plays_the_requested_pitch(name):
    midi = 64
    samples = draw_instrument(name, random_stream(0)).note(midi, 0.8, random_stream(1))
    assert np.isfinite(samples).all()
    assert 0.05 < np.abs(samples).max() < 5.0
    steady = samples[4000 : 4000 + 16_384]
    spectrum = np.abs(np.fft.rfft(steady * np.hanning(steady.size)))
    ratio = np.argmax(spectrum) * SAMPLE_RATE / steady.size / midi_to_hertz(midi)
    # The strongest partial is a harmonic, a multiple of half the pitch for an organ, and inharmonic for a bell.
    assert name == "bells" or np.abs(2.0 * ratio - np.rint(2.0 * ratio)) < 0.05


@pytest.mark.parametrize("kind", list(BASSES))
def test_bass_has_a_strong_fundamental(kind):
    samples = BASSES[kind](random_stream(0)).note(40, 0.9, random_stream(1))[2000 : 2000 + 32_768]
    spectrum = np.abs(np.fft.rfft(samples * np.hanning(samples.size)))
    bin_hertz = SAMPLE_RATE / samples.size
    fundamental = spectrum[round(midi_to_hertz(40) / bin_hertz) - 3 : round(midi_to_hertz(40) / bin_hertz) + 4].max()
    assert fundamental > 0.1 * spectrum.max()


@pytest.mark.parametrize("piece", list(LEVELS))
def test_each_piece_of_the_drum_kit_decays(piece):
    hit = DrumKit(random_stream(0)).hit(piece)
    assert np.isfinite(hit).all()
    assert np.abs(hit).max() > 0.02
    assert np.abs(hit[:, -40:]).max() < 0.1 * np.abs(hit).max()


def test_sampler_reuses_its_takes():
    class CountingInstrument:
        release_seconds = 0.01
        rendered = 0

        def note(self, _midi, _velocity, _rng):
            self.rendered += 1
            return np.ones(4410, dtype=np.float32)

    instrument = CountingInstrument()
    notes = [Note(start=0.1 * number, seconds=0.05, midi=60, velocity=0.9) for number in range(30)]
    line = perform(notes, Sampler(instrument, random_stream(0)), 44_100 * 3)
    assert instrument.rendered == 2
    assert np.count_nonzero(line[::4410]) >= 29


def test_released_note_ends_in_silence():
    note = cut_note(np.ones(44_100, dtype=np.float32), 0.25, 0.1)
    assert note.size == round(0.35 * 44_100)
    assert note[11_000] == 1.0
    assert note[-1] == 0.0


def test_damped_partials_equal_the_definition():
    time = np.arange(3000) / SAMPLE_RATE
    frequencies, decays = np.array([220.0, 663.0]), np.array([0.05, 0.02])
    levels, phases = np.array([1.0, 0.5]), np.array([0.3, 1.1])
    expected = sum(
        a * np.exp(-time / d) * np.sin(2 * np.pi * f * time + p)
        for f, d, a, p in zip(frequencies, decays, levels, phases, strict=True)
    )
    assert np.allclose(damped_partials(frequencies, decays, levels, phases, 3000), expected, atol=1e-5)


def test_wavetable_has_the_amplitudes_of_its_harmonics():
    samples = play_wavetable(wavetable(np.array([1.0, 0.0, 0.5])), accumulate_phase(np.full(44_100, 441.0)))
    spectrum = np.abs(np.fft.rfft(samples))
    assert spectrum[1323] / spectrum[441] == pytest.approx(0.5, rel=0.01)
    assert spectrum[882] < 1e-3 * spectrum[441]


def test_panning_preserves_power():
    mono = random_stream(0).standard_normal(1000).astype(np.float32)
    for position in (-1.0, -0.3, 0.0, 0.8):
        assert (pan(mono, position) ** 2).sum() == pytest.approx((mono**2).sum(), rel=1e-5)


def test_room_decays_by_about_60_db_in_its_decay_time():
    response = room(random_stream(0), 1.0, 0.5)
    start, end = (response[:, at : at + 2000] ** 2 for at in (3000, 42_000))
    assert -65.0 < 10.0 * np.log10(end.mean() / start.mean()) < -40.0


def test_compression_reduces_the_dynamic_range():
    quiet_then_loud = np.repeat(np.array([0.05, 0.8], dtype=np.float32), 44_100)
    compressed = compress(quiet_then_loud, threshold_db=-20.0, ratio=4.0)
    assert compressed[80_000] / compressed[40_000] < 0.5 * 16.0
    assert compressed[40_000] == pytest.approx(0.05, rel=1e-3)


def test_echoes_start_after_the_delay():
    click = np.zeros((2, 30_000), dtype=np.float32)
    click[:, 0] = 1.0
    repeated = echoes(click, 0.2, 0.5)
    assert not repeated[:, 1:8820].any()
    assert repeated[0, 8820] > 5.0 * repeated[0, 17_640] * 0.3 > 0.0


def test_active_level_ignores_silence():
    half = np.zeros((2, 88_200), dtype=np.float32)
    half[:, :44_100] = 0.1
    assert active_level(half) == pytest.approx(0.1, rel=1e-4)
    assert active_level(set_level(half, -6.0)) == pytest.approx(10 ** (-0.3), rel=1e-3)
    assert not set_level(np.zeros((2, 100), dtype=np.float32), -6.0).any()


def test_limiter_keeps_mixture_and_stems_below_the_ceiling():
    rng = random_stream(0)
    bursts = {name: 0.1 * rng.standard_normal((2, 44_100)).astype(np.float32) for name in ("a", "b")}
    bursts["a"][:, 20_000] = 5.0
    bursts["b"][:, 20_000] = -5.0
    limited = limit(bursts, random_stream(1))
    assert max(np.abs(audio).max() for audio in (limited["a"] + limited["b"], *limited.values())) < 0.95


def test_mix_into_drops_samples_outside_the_buffer():
    buffer = np.zeros(10, dtype=np.float32)
    mix_into(buffer, -2, np.arange(1.0, 5.0, dtype=np.float32))
    mix_into(buffer, 8, np.arange(1.0, 5.0, dtype=np.float32), 2.0)
    mix_into(buffer, 12, np.ones(3, dtype=np.float32))
    assert buffer.tolist() == [3.0, 4.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 2.0, 4.0]


def test_smoothing_preserves_constants_and_shape():
    assert np.allclose(smooth(np.full((3, 20), 2.0), 7), 2.0)
    assert smooth(np.arange(5.0), 1).tolist() == [0.0, 1.0, 2.0, 3.0, 4.0]
