"""Singing voice synthesis: pitch, harmonics, formants, consonants."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from scipy.signal import find_peaks, welch

from cyclesep.data.corpora.composer.composition import compose
from cyclesep.data.corpora.composer.melody import SungNote, compose_melody, harmonize_melody
from cyclesep.data.corpora.composer.signals import SAMPLE_RATE, midi_to_hertz, random_stream
from cyclesep.data.corpora.composer.voice import (
    CONTROL_RATE,
    FORMANTS,
    TRACT_FFT,
    draw_singer,
    filter_by_tract,
    glottal_pulses,
    sing,
    tract_response,
)

SINGER = replace(draw_singer(random_stream(0)), register="low", tract_metres=0.175, formant_scale=1.0, scoop=0.0)
BINS = np.arange(TRACT_FFT // 2 + 1) * (SAMPLE_RATE / TRACT_FFT)


def sung(midi: int, vowel: str = "a", consonant: str = "", seconds: float = 1.5) -> np.ndarray:
    singer = replace(SINGER, vibrato_cents=0.0, breath=0.005, drive=0.0)
    note = SungNote(start=0.3, seconds=seconds, midi=midi, velocity=1.0, consonant=consonant, vowel=vowel)
    return sing([note], round(SAMPLE_RATE * (seconds + 0.6)), singer, random_stream(1))


def pitch(samples: np.ndarray, low: float = 60.0, high: float = 900.0) -> float:
    """Return the frequency of the first strong peak of the autocorrelation."""
    spectrum = np.abs(np.fft.rfft(samples, 2 * samples.size)) ** 2
    autocorrelation = np.fft.irfft(spectrum)
    lags = np.arange(int(SAMPLE_RATE / high), int(SAMPLE_RATE / low))
    peaks = find_peaks(autocorrelation[lags], height=0.85 * autocorrelation[lags].max())[0]
    return SAMPLE_RATE / lags[peaks[0]]


@pytest.mark.parametrize("midi", [45, 52, 60, 64])
def test_note_has_the_requested_pitch(midi):
    middle = sung(midi)[SAMPLE_RATE // 2 : SAMPLE_RATE // 2 + 16_384]
    assert 12.0 * np.log2(pitch(middle) / midi_to_hertz(midi)) == pytest.approx(0.0, abs=0.6)


def test_sung_vowel_consists_of_harmonics():
    middle = sung(48, "a")[SAMPLE_RATE // 2 : SAMPLE_RATE // 2 + 32_768] * np.hanning(32_768)
    fundamental = pitch(middle)
    spectrum = np.abs(np.fft.rfft(middle)) ** 2
    number = np.fft.rfftfreq(middle.size, 1.0 / SAMPLE_RATE) / fundamental
    audible = (number > 0.5) & (number < 10.5)
    near_harmonic = np.abs(number - np.rint(number)) < 0.2
    assert spectrum[audible & near_harmonic].sum() > 0.95 * spectrum[audible].sum()


@pytest.mark.parametrize("vowel", ["i", "a", "u", "e"])
def test_tract_response_peaks_at_the_formants(vowel):
    formants = np.array(FORMANTS["low"][vowel], dtype=float)
    gain = np.abs(tract_response(formants[:, None], 0.175)[0])
    peaks = BINS[find_peaks(gain)[0]]
    for formant in formants[:2]:
        assert np.abs(peaks - formant).min() < 60.0


def test_neutral_tract_resonates_at_odd_multiples_of_its_lowest_resonance():
    neutral = 350.0 / (4.0 * 0.175) * np.array([1.0, 3.0, 5.0, 7.0])
    gain = np.abs(tract_response(neutral[:, None], 0.175)[0])
    peaks = BINS[find_peaks(gain)[0]]
    assert peaks[:6] == pytest.approx(500.0 * np.array([1, 3, 5, 7, 9, 11]), abs=45.0)


def test_vowels_differ_in_the_band_between_their_formants():
    power = {}
    for vowel in ("i", "a"):
        frequencies, power[vowel] = welch(sung(45, vowel)[SAMPLE_RATE // 2 : SAMPLE_RATE], SAMPLE_RATE, nperseg=4096)
    between = (frequencies > 900.0) & (frequencies < 1600.0)
    assert power["a"][between].sum() / power["a"].sum() > 5.0 * power["i"][between].sum() / power["i"].sum()


def test_tract_filter_preserves_time_and_length():
    source = np.zeros(20_000, dtype=np.float32)
    source[10_000] = 1.0
    formants = np.tile(np.array(FORMANTS["low"]["a"], dtype=float)[:, None], (1, int(CONTROL_RATE)))
    output = filter_by_tract(source, formants, 0.175)
    assert output.shape == source.shape
    assert abs(int(np.argmax(np.abs(output))) - 10_000) < 80
    assert np.abs(output[:9_900]).max() < 0.05 * np.abs(output).max()


def test_glottal_pulses_have_zero_mean_and_one_closure_per_cycle():
    increment = np.full(44_100, 100.0 / 44_100, dtype=np.float32)
    position = (np.arange(44_100) * (100.0 / 44_100) % 1.0).astype(np.float32)
    pulses = glottal_pulses(position, increment, 0.6)
    assert pulses.mean() == pytest.approx(0.0, abs=0.005)
    assert (np.diff(pulses) > 0.4).sum() == pytest.approx(100, abs=2)


def test_sibilant_adds_noise_above_4_khz_before_the_vowel():
    with_s, without = sung(48, "a", "s"), sung(48, "a", "")
    onset = slice(int(0.19 * SAMPLE_RATE), int(0.28 * SAMPLE_RATE))
    frequencies, power = welch(with_s[onset], SAMPLE_RATE, nperseg=1024)
    assert power[frequencies > 4000.0].sum() > 0.8 * power.sum()
    assert np.mean(with_s[onset] ** 2) > 100.0 * np.mean(without[onset] ** 2)


def test_no_notes_render_silence():
    assert not sing([], 1000, SINGER, random_stream(0)).any()


def test_melodies_stay_in_range_and_key():
    for index in range(6):
        song = compose(random_stream(3, index), 30.0)
        singer = draw_singer(random_stream(4, index))
        notes = compose_melody(song, singer.low, singer.high, random_stream(5, index))
        pitches = [int(note.midi) for note in notes]
        assert len(notes) > 10
        assert min(pitches) >= singer.low - 2
        assert max(pitches) <= singer.high + 2
        assert all(song.in_scale(midi) for midi in pitches)


def test_harmonies_are_in_the_key_and_above():
    song = compose(random_stream(3), 30.0)
    notes = compose_melody(song, 48, 64, random_stream(5))
    for below, above in zip(notes, harmonize_melody(notes, song, 3), strict=True):
        assert song.in_scale(int(above.midi))
        assert 3 <= above.midi - below.midi <= 5


def test_phrases_contain_rests_for_breathing():
    song = compose(random_stream(3), 40.0)
    notes = compose_melody(song, 48, 64, random_stream(5))
    rests = [after.start - before.start - before.seconds for before, after in pairwise(notes)]
    assert sum(rest > 0.3 for rest in rests) >= 3
