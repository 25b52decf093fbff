"""Files of synthetic tracks: musdb and stempeg read the exact samples."""

import musdb
import numpy as np
import pytest
import soundfile
import stempeg

from benchmarks.piano_recordings import PianoDomainConfig, _right_hand, write_piano_domain
from cyclesep.data.corpora.composer.config import SyntheticConfig
from cyclesep.data.corpora.composer.track import synthetic_tracks
from cyclesep.data.corpora.composer.writers import write_musdb_hq, write_stem_mp4
from cyclesep.errors import StorageError

TRACKS = synthetic_tracks(SyntheticConfig(num_train=1, num_valid=1, num_test=1, seconds=2.0))
NAMES = {track.split: track.track_id for track in TRACKS}
STEMS = ("vocals", "drums", "bass", "other")


@pytest.fixture(scope="module")
def hq_root(tmp_path_factory):
    root = tmp_path_factory.mktemp("hq")
    write_musdb_hq(TRACKS, root)
    return root


@pytest.fixture(scope="module")
def stem_root(tmp_path_factory):
    root = tmp_path_factory.mktemp("stems")
    write_stem_mp4(TRACKS, root)
    return root


def databases(root, *, is_wav):
    options = {"root": str(root), "is_wav": is_wav, "setup_file": "setup.yaml"}
    train = musdb.DB(subsets="train", split="train", **options)
    valid = musdb.DB(subsets="train", split="valid", **options)
    test = musdb.DB(subsets="test", **options)
    return {"train": train, "valid": valid, "test": test}


def assert_musdb_reads(root, *, is_wav):
    found = databases(root, is_wav=is_wav)
    assert {split: [track.name for track in database] for split, database in found.items()} == {
        split: [name] for split, name in NAMES.items()
    }
    rendered = TRACKS[2].read()
    track = found["test"][0]
    assert np.array_equal(track.audio.T.astype(np.float32), rendered["mixture"].samples)
    for name in STEMS:
        assert np.array_equal(track.targets[name].audio.T.astype(np.float32), rendered[name].samples), name
    rest = rendered["drums"].samples + rendered["bass"].samples + rendered["other"].samples
    assert np.array_equal(track.targets["accompaniment"].audio.T.astype(np.float32), rest)


def test_musdb_reads_wav_folders_with_all_splits_and_exact_samples(hq_root):
    assert_musdb_reads(hq_root, is_wav=True)


def test_musdb_reads_stem_mp4_with_all_splits_and_exact_samples(stem_root):
    assert_musdb_reads(stem_root, is_wav=False)


def test_track_folders_contain_exactly_five_16_bit_wavs(hq_root):
    folder = hq_root / "train" / NAMES["valid"]
    assert {path.name for path in folder.iterdir()} == {f"{name}.wav" for name in ("mixture", *STEMS)}
    assert soundfile.info(folder / "mixture.wav").subtype == "PCM_16"
    assert {path.name for path in hq_root.iterdir()} == {"train", "test", "setup.yaml"}


def test_stempeg_reads_five_streams_in_musdb_order(stem_root):
    path = stem_root / "train" / f"{NAMES['train']}.stem.mp4"
    streams, rate = stempeg.read_stems(str(path))
    rendered = TRACKS[0].read()
    assert rate == 44_100
    for stream, name in zip(streams, ("mixture", "drums", "bass", "other", "vocals"), strict=True):
        assert np.array_equal(stream.T.astype(np.float32), rendered[name].samples), name


def test_missing_ffmpeg_raises_an_error_without_partial_files(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(StorageError, match="ffmpeg is not installed"):
        write_stem_mp4(TRACKS[:1], tmp_path)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_piano_domain_has_two_folders_of_audible_wavs(tmp_path):
    config = PianoDomainConfig(num_piano=1, piano_seconds=6.0, num_others=8, others_seconds=2.0)
    write_piano_domain(tmp_path, config)
    assert [path.name for path in sorted((tmp_path / "piano").iterdir())] == ["piano_0000.wav"]
    clips = sorted((tmp_path / "others").iterdir())
    assert len(clips) == 8
    assert len({path.stem.rsplit("_", 1)[0] for path in clips}) >= 4
    for path in [*clips, tmp_path / "piano" / "piano_0000.wav"]:
        samples, rate = soundfile.read(path)
        assert rate == 44_100
        assert samples.shape == (round(44_100 * (6.0 if path.parent.name == "piano" else 2.0)), 2)
        assert 0.02 < np.sqrt(np.mean(samples**2)) < 0.3
        assert np.abs(samples).max() < 0.98


def test_duets_use_new_recordings_and_do_not_clip(tmp_path):
    config = PianoDomainConfig(
        num_piano=1, piano_seconds=4.0, num_others=2, others_seconds=4.0, num_train_duets=1, num_test_duets=1,
        duet_seconds=4.0,
    )  # fmt: skip
    write_piano_domain(tmp_path, config)
    solo = [soundfile.read(path)[0] for path in [*(tmp_path / "piano").iterdir(), *(tmp_path / "others").iterdir()]]
    for folder in (tmp_path / "duets/train/duet_0000", tmp_path / "duets/test/duet_0001"):
        parts = [soundfile.read(folder / f"{stem}.wav")[0] for stem in ("piano", "accompaniment")]
        assert 0.1 < np.abs(sum(parts)).max() < 1.0
        for part in parts:
            assert max(abs(np.corrcoef(part[:, 0], other[:, 0])[0, 1]) for other in solo) < 0.3
    assert sorted(path.name for path in (tmp_path / "duets").iterdir()) == ["test", "train"]


def test_piano_melodies_stay_on_the_keyboard():
    lasts = set()
    for seed in range(200):
        rng = np.random.default_rng(seed)
        for start in (48, 60, 95):
            bar = list(_right_hand([tonic + 1 for tonic in (0, 2, 4, 5, 7, 9, 11)], [1, 5, 8], start, rng))
            lasts |= {midi for _, _, midi, accent in bar if accent > 1}
    assert min(lasts) >= 60
    assert max(lasts) <= 91
