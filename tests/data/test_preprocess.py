import numpy as np
import pytest

from cyclesep.audio.audio_io import Waveform
from cyclesep.data.preprocess import count_clipped, mix, prepare
from cyclesep.data.shards.manifest import make_manifest, write_manifest
from cyclesep.data.shards.reading import ShardReader
from cyclesep.data.shards.writing import write_track
from cyclesep.errors import AudioError

RATE = 8000


def waveform(seed: int, seconds: float = 1.0, channels: int = 1, sample_rate: int = RATE) -> Waveform:
    samples = np.random.default_rng(seed).normal(0, 0.1, (channels, round(seconds * sample_rate)))
    return Waveform(samples=samples.astype(np.float32), sample_rate=sample_rate)


def test_stems_get_equal_rates_channels_and_lengths():
    keys = waveform(1, channels=2, sample_rate=44100)
    sources = {"voice": waveform(0), "keys": keys, "bass": waveform(2, seconds=0.5)}
    prepared = prepare(sources, sample_rate=16000, channels=2)
    assert {stem.shape for stem in prepared.stems.values()} == {(2, 16000)}
    assert list(prepared.stems) == ["mixture", "voice", "keys", "bass"]
    assert prepared.warnings == ("bass: padded, ends 0.50 s before the longest stem",)
    assert not prepared.stems["bass"][:, 8000:].any()


def test_existing_mixture_is_kept_and_a_single_stem_gets_none():
    mixture = waveform(3)
    prepared = prepare({"voice": waveform(0), "mixture": mixture}, sample_rate=RATE, channels=1)
    np.testing.assert_array_equal(prepared.stems["mixture"], mixture.samples)
    assert list(prepare({"piano": waveform(0)}, sample_rate=RATE, channels=1).stems) == ["piano"]


@pytest.mark.parametrize(("scale", "gain"), [(0.01, 1.0), (0.2, 2.0), (0.5, 4.0), (2.0, 16.0)])
def test_stored_mixture_is_the_exact_sum_of_the_stored_stems(tmp_path, scale, gain):
    stems = {str(seed): np.clip(waveform(seed).samples * 10, -3.9, 3.9) * np.float32(scale) for seed in range(5)}
    stored = {"mixture": mix(stems), **stems}
    track = write_track(tmp_path, stored, track_id="a", split="train", sample_rate=RATE, segment_samples=1000)
    write_manifest(tmp_path, make_manifest([track]))
    assert track.gain == gain
    mixture, *others = ShardReader(tmp_path).read(track, track.stems, 0, track.num_samples)
    np.testing.assert_array_equal(mixture, np.sum(others, axis=0))


def test_silent_stem_is_a_warning_and_a_silent_track_an_error():
    silence = Waveform(samples=np.zeros((1, RATE), np.float32), sample_rate=RATE)
    assert prepare({"a": waveform(0), "b": silence}, sample_rate=RATE, channels=1).warnings == ("b: completely silent",)
    with pytest.raises(AudioError, match="completely silent; exclude it"):
        prepare({"a": silence, "b": silence}, sample_rate=RATE, channels=1)


def test_three_samples_are_too_short_for_a_track():
    with pytest.raises(AudioError, match=r"lasts 0\.0004 s"):
        prepare({"a": waveform(0, seconds=3 / RATE)}, sample_rate=RATE, channels=1)


def test_error_for_six_channels_has_a_remedy():
    with pytest.raises(AudioError, match="cannot convert 6 channels to 2; mix"):
        prepare({"a": waveform(0, channels=6)}, sample_rate=RATE, channels=2)


def test_only_flat_tops_count_as_clipping():
    tone = np.sin(np.arange(8000) * 0.05, dtype=np.float32)[None]
    assert count_clipped(tone) == 0
    clipped = np.clip(1.5 * tone, -1, 1)
    assert count_clipped(clipped) == int((np.abs(clipped) == 1).sum())
    assert count_clipped(clipped[:, :2]) == 0
    prepared = prepare({"a": Waveform(samples=clipped, sample_rate=RATE)}, sample_rate=RATE, channels=1)
    assert prepared.clipped_samples == count_clipped(clipped)
    assert prepared.warnings == (f"a: {prepared.clipped_samples} clipped samples",)
