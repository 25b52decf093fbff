"""Properties of synthetic tracks."""

import hashlib
import os
import subprocess
import sys
from dataclasses import replace
from functools import lru_cache

import numpy as np
import pytest
from scipy.signal import welch

from cyclesep.audio.audio_io import Waveform
from cyclesep.data.corpora.composer.config import SyntheticConfig
from cyclesep.data.corpora.composer.names import NUM_NAMES, track_name
from cyclesep.data.corpora.composer.track import SyntheticTrack, synthetic_tracks

STEMS = ("vocals", "drums", "bass", "other")
SHORT = synthetic_tracks(SyntheticConfig(num_train=5, num_valid=0, num_test=1, seconds=6.0))
BRIEF = replace(SHORT[0], seconds=2.0)
LONG = synthetic_tracks(SyntheticConfig(num_train=2, num_valid=0, num_test=0, seconds=32.0))


@lru_cache(maxsize=len(SHORT) + len(LONG))
def rendered(track: SyntheticTrack) -> dict[str, Waveform]:
    return track.read()


def digest(stems: dict[str, Waveform]) -> str:
    return hashlib.sha256(b"".join(name.encode() + w.samples.tobytes() for name, w in stems.items())).hexdigest()


def pcm(waveform: Waveform) -> np.ndarray:
    return waveform.samples.astype(np.float64) * 32768.0


def level_db(samples: np.ndarray) -> float:
    return float(10.0 * np.log10(np.mean(samples.astype(np.float64) ** 2) + 1e-12))


def test_track_is_deterministic():
    assert digest(BRIEF.read()) == digest(BRIEF.read())


def test_track_is_bit_exact_in_another_process_with_another_number_of_threads():
    threads = "1" if os.environ.get("OMP_NUM_THREADS") != "1" else "4"
    program = "from tests.data.corpora.test_composer import BRIEF, digest\nprint(digest(BRIEF.read()))"
    environment = os.environ | {"OMP_NUM_THREADS": threads, "OPENBLAS_NUM_THREADS": threads, "PYTHONHASHSEED": threads}
    output = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env=environment, check=True
    )
    assert output.stdout.strip() == digest(BRIEF.read())


def test_seed_split_and_index_change_the_song():
    tracks = [BRIEF, replace(BRIEF, seed=1), replace(BRIEF, split="test"), replace(BRIEF, index=99)]
    assert len({digest(track.read()) for track in tracks}) == 4


@pytest.mark.parametrize("track", SHORT + LONG, ids=lambda track: track.track_id)
def test_mixture_is_the_exact_sum_of_the_stems_without_clipping(track):
    stems = {name: pcm(waveform) for name, waveform in rendered(track).items()}
    assert tuple(stems) == ("mixture", *STEMS)
    for samples in stems.values():
        assert np.array_equal(samples, np.rint(samples))
        assert np.abs(samples).max() < 32_767
    assert np.array_equal(stems["mixture"], sum(stems[name] for name in STEMS))


@pytest.mark.parametrize("track", SHORT + LONG, ids=lambda track: track.track_id)
def test_tracks_are_stereo_at_44100_hz_with_the_configured_length(track):
    for waveform in rendered(track).values():
        assert waveform.sample_rate == 44_100
        assert waveform.samples.shape == (2, round(44_100 * track.seconds))
        assert waveform.samples.dtype == np.float32


@pytest.mark.parametrize("track", SHORT, ids=lambda track: track.track_id)
def test_each_stem_of_a_short_track_is_audible_for_a_second(track):
    stems = rendered(track)
    for name in STEMS:
        seconds = stems[name].samples.reshape(2, 6, 44_100)
        assert sum(level_db(seconds[:, second]) > -45.0 for second in range(6)) >= 1, name


@pytest.mark.parametrize("track", SHORT, ids=lambda track: track.track_id)
def test_music_starts_within_the_first_second(track):
    assert level_db(rendered(track)["mixture"].samples[:, :44_100]) > -35.0


def test_stems_rest_in_long_tracks():
    resting = set()
    for track in LONG:
        for name in STEMS:
            seconds = rendered(track)[name].samples.reshape(2, 32, 44_100)
            if any(level_db(seconds[:, second]) < -60.0 for second in range(32)):
                resting.add(name)
    assert "vocals" in resting
    assert len(resting) >= 2


@pytest.mark.parametrize("track", SHORT, ids=lambda track: track.track_id)
def test_most_energy_of_the_bass_is_below_300_hz(track):
    mono = rendered(track)["bass"].samples.mean(axis=0)
    frequencies, power = welch(mono, 44_100, nperseg=8192)
    assert power[frequencies < 300.0].sum() > 0.8 * power.sum()


def test_accompaniment_overlaps_with_the_frequency_band_of_vocals():
    fractions = []
    for track in SHORT:
        stems = rendered(track)
        frequencies, vocals = welch(stems["vocals"].samples.mean(axis=0), 44_100, nperseg=4096)
        rest = stems["mixture"].samples - stems["vocals"].samples
        accompaniment = welch(rest.mean(axis=0), 44_100, nperseg=4096)[1]
        band = (frequencies > 200.0) & (frequencies < 4000.0)
        fractions.append(accompaniment[band].sum() / (vocals[band].sum() + accompaniment[band].sum()))
    assert 0.25 < np.median(fractions) < 0.85


def test_stems_have_similar_levels():
    levels = np.array([[level_db(rendered(track)[name].samples) for name in STEMS] for track in SHORT])
    assert np.ptp(np.median(levels, axis=0)) < 6.0
    assert np.all(np.median(levels, axis=0) > -30.0)


def test_all_stems_except_bass_are_stereo():
    stems = rendered(SHORT[0])
    for name in ("vocals", "drums", "other"):
        left, right = stems[name].samples
        assert level_db(left - right) > level_db(left) - 40.0, name


def test_a_larger_corpus_starts_with_the_same_tracks():
    small = synthetic_tracks(SyntheticConfig(num_train=2, num_valid=1, num_test=1))
    large = synthetic_tracks(SyntheticConfig(num_train=9, num_valid=5, num_test=7))
    assert set(small) < set(large)


def test_track_names_are_unique_within_a_corpus():
    tracks = synthetic_tracks(SyntheticConfig(num_train=700, num_valid=150, num_test=350))
    assert len({track.track_id for track in tracks}) == 1200


def test_repeated_names_have_a_part_number():
    index = NUM_NAMES // 3
    assert track_name(0, 0, index) == f"{track_name(0, 0, 0)} (Part 2)"


def test_names_consist_of_artist_and_title():
    for track in SHORT:
        artist, title = track.track_id.split(" - ")
        assert len(artist.split()) == 2
        assert len(title.split()) >= 2


def test_fingerprints_are_unique_and_have_a_prefix():
    tracks = synthetic_tracks(SyntheticConfig(num_train=3, num_valid=3, num_test=3))
    tracks += synthetic_tracks(SyntheticConfig(seed=1)) + synthetic_tracks(SyntheticConfig(seconds=13.0))
    fingerprints = {track.fingerprint() for track in tracks}
    assert len(fingerprints) == len(tracks)
    assert all(fingerprint.startswith("synthetic-") for fingerprint in fingerprints)
