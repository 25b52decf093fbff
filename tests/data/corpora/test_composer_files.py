"""Files of synthetic tracks: musdb and stempeg read the exact samples."""

import musdb
import numpy as np
import pytest
import soundfile
import stempeg

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
