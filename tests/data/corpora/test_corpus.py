import pickle
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import soundfile
import stempeg
import yaml

from cyclesep.data.corpora.composer.config import SyntheticConfig
from cyclesep.data.corpora.composer.track import synthetic_tracks
from cyclesep.data.corpora.config import CorpusConfig
from cyclesep.data.corpora.corpus import describe, find_tracks
from cyclesep.data.corpora.musdb18 import STEMS, STREAMS, read_streams
from cyclesep.data.corpora.stem_folders import split_by_name
from cyclesep.errors import AudioError, ConfigError, CorpusError

RATE = 44100
EXCERPT = Path(stempeg.example_stem_path())
HQ_NAMES = ("mixture", "vocals", "drums", "bass", "other")


def write(
    path: Path, seconds: float = 0.2, *, seed: int = 0, rate: int = RATE, channels: int = 2, **options
) -> np.ndarray:
    samples = np.random.default_rng(seed).uniform(-0.5, 0.5, (round(seconds * rate), channels))
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, samples, rate, **options)
    return soundfile.read(path, dtype="float32", always_2d=True)[0].T


def write_stem_mp4(path: Path, lengths=(0.2, 0.2, 0.2, 0.2, 0.2), codec: str = "alac", flags=()) -> list[np.ndarray]:
    """Write streams of the given lengths in seconds and return their samples; ALAC, the default, is lossless."""
    path.parent.mkdir(parents=True, exist_ok=True)
    wavs = [path.with_name(f"{path.name}.{number}.wav") for number in range(len(lengths))]
    audio = [write(wav, seconds, seed=number) for number, (wav, seconds) in enumerate(zip(wavs, lengths, strict=True))]
    inputs = [word for wav in wavs for word in ("-i", str(wav))]
    maps = [word for number in range(len(wavs)) for word in ("-map", str(number))]
    subprocess.run(["ffmpeg", "-v", "error", "-y", *inputs, *maps, "-c:a", codec, *flags, str(path)], check=True)
    for wav in wavs:
        wav.unlink()
    return audio


def musdb(path: Path, **options):
    return find_tracks(CorpusConfig(kind="musdb18", path=str(path), **options))


def stems(path: Path, **options):
    return find_tracks(CorpusConfig(kind="stems", path=str(path), **options))


# MUSDB18


def test_decoded_musdb18_excerpt_equals_stempeg():
    (track,) = musdb(EXCERPT)
    assert (track.track_id, track.split) == ("The Easton Ellises - Falcon 69", "test")
    found = track.read()
    expected, rate = stempeg.read_stems(str(EXCERPT), dtype=np.float32)
    assert tuple(found) == STEMS == HQ_NAMES
    for name, samples in zip(STREAMS, expected, strict=True):
        assert found[name].sample_rate == rate == RATE
        # Rounding in FFmpeg's AAC decoder differs between versions, by about 1 % of a 16-bit quantization step.
        np.testing.assert_allclose(found[name].samples, samples.T, rtol=0, atol=4e-7)


def test_streams_of_unequal_length_keep_their_lengths(tmp_path):
    path = tmp_path / "a.stem.mp4"
    audio = write_stem_mp4(path, lengths=(0.5, 0.3, 0.5, 0.123, 0.4))
    for waveform, expected in zip(read_streams(path, 5), audio, strict=True):
        np.testing.assert_array_equal(waveform.samples, expected)


def test_stem_mp4_splits_come_from_musdb_or_setup_yaml(tmp_path):
    for place in ("train/Meaxic - Take A Step", "train/Other One", "test/Third"):
        path = tmp_path / f"{place}.stem.mp4"
        path.parent.mkdir(exist_ok=True)
        shutil.copy(EXCERPT, path)
    splits = {track.track_id: track.split for track in musdb(tmp_path)}
    assert splits == {"Meaxic - Take A Step": "valid", "Other One": "train", "Third": "test"}
    installed = Path(__import__("musdb").__file__).parent / "configs" / "mus.yaml"
    setup = yaml.safe_load(installed.read_text()) | {"validation_tracks": ["Other One"]}
    (tmp_path / "setup.yaml").write_text(yaml.safe_dump(setup))
    assert {track.track_id: track.split for track in musdb(tmp_path)}["Other One"] == "valid"
    (tmp_path / "setup.yaml").write_text("sources: 3\n")
    with pytest.raises(CorpusError, match=r"setup\.yaml: not a valid musdb setup"):
        musdb(tmp_path)


def test_hq_wavs_keep_float_samples_above_full_scale(tmp_path):
    folder = tmp_path / "train" / "A Song"
    loud = np.full((4410, 2), 1.5)
    for name in HQ_NAMES:
        write(folder / f"{name}.wav")
    soundfile.write(folder / "vocals.wav", loud, RATE, subtype="FLOAT")
    # musdb would index this empty folder as a track.
    (folder / "old takes").mkdir()
    (track,) = musdb(tmp_path)
    assert (track.track_id, track.split) == ("A Song", "train")
    audio = track.read()
    assert tuple(audio) == HQ_NAMES
    assert audio["vocals"].samples.max() == 1.5


def test_missing_hq_stems_raise_an_error_with_their_names(tmp_path):
    for name in ("mixture", "vocals", "bass"):
        write(tmp_path / "test" / "A Song" / f"{name}.wav")
    (track,) = musdb(tmp_path)
    with pytest.raises(CorpusError, match=r"A Song: drums\.wav, other\.wav not found"):
        track.read()


def test_flat_folder_of_stem_mp4_uses_the_default_split(tmp_path):
    shutil.copy(EXCERPT, tmp_path / "b.stem.mp4")
    shutil.copy(EXCERPT, tmp_path / "a.stem.mp4")
    assert [(t.track_id, t.split) for t in musdb(tmp_path, default_split="valid")] == [("a", "valid"), ("b", "valid")]


@pytest.mark.parametrize("flags", [(), ("-movflags", "+faststart")])
def test_truncated_stem_mp4_raises_an_audio_error(tmp_path, flags):
    path = tmp_path / "a.stem.mp4"
    write_stem_mp4(path, lengths=(2.0,) * 5, flags=flags)
    content = path.read_bytes()
    for fraction in (0.3, 0.6, 0.9):
        path.write_bytes(content[: int(len(content) * fraction)])
        (track,) = musdb(path)
        with pytest.raises(AudioError, match=r"a\.stem\.mp4: .*(copy|export)"):
            track.read()


def test_stem_mp4_with_other_content_raises_an_audio_error(tmp_path):
    write_stem_mp4(tmp_path / "two.stem.mp4", lengths=(0.2, 0.2))
    (tmp_path / "text.stem.mp4").write_text("no music")
    text, two = musdb(tmp_path)
    with pytest.raises(AudioError, match="has 2 audio streams, expected 5"):
        two.read()
    with pytest.raises(AudioError, match="ffmpeg cannot read it"):
        text.read()


# Folders of stems


def test_stem_folders_read_any_audio_format_and_ignore_other_files(tmp_path):
    folder = tmp_path / "Song"
    expected = write(folder / "Lead Vox.flac", channels=1, rate=22050)
    write(folder / "Mix.WAV")
    write(folder / "strings.ogg", rate=48000)
    subprocess.run(["ffmpeg", "-v", "error", "-i", str(folder / "Mix.WAV"), str(folder / "keys.m4a")], check=True)
    (folder / "notes.txt").write_text("tempo 120")
    (folder / "._Lead Vox.flac").write_text("resource fork")
    (tmp_path / ".hidden").mkdir()
    (track,) = stems(tmp_path)
    audio = track.read()
    assert set(audio) == {"Lead Vox", "mixture", "strings", "keys"}
    np.testing.assert_array_equal(audio["Lead Vox"].samples, expected)
    assert audio["Lead Vox"].sample_rate == 22050
    assert audio["strings"].sample_rate == 48000


def test_split_folders_set_the_split_and_reject_other_folders(tmp_path):
    for split, name in (("train", "a"), ("valid", "b"), ("test", "c"), ("train", "d")):
        write(tmp_path / split / name / "vocals.wav")
    assert [(t.split, t.track_id) for t in stems(tmp_path)] == [
        ("test", "c"),
        ("train", "a"),
        ("train", "d"),
        ("valid", "b"),
    ]
    write(tmp_path / "e" / "vocals.wav")
    with pytest.raises(CorpusError, match="'e' is next to 'test'"):
        stems(tmp_path)


def test_hashed_split_has_the_configured_fractions_and_is_stable():
    splits = [split_by_name(f"song {number}", 0.2, 0.1) for number in range(4000)]
    assert splits.count("valid") / 4000 == pytest.approx(0.2, abs=0.02)
    assert splits.count("test") / 4000 == pytest.approx(0.1, abs=0.02)
    assert [split_by_name(name, 0.3, 0.3) for name in "abcdef"] == ["train", "test", "test", "test", "test", "test"]


def test_duplicate_track_names_and_duplicate_stems_raise_errors(tmp_path):
    write(tmp_path / "train" / "a" / "vocals.wav")
    write(tmp_path / "train" / "a" / "vocals.flac")
    (track,) = stems(tmp_path)
    with pytest.raises(CorpusError, match="2 files for the stem 'vocals'"):
        track.read()
    write(tmp_path / "test" / "a" / "vocals.wav")
    with pytest.raises(CorpusError, match="2 tracks are named 'a'"):
        stems(tmp_path)


def test_track_is_picklable_and_its_fingerprint_depends_on_its_files(tmp_path):
    write(tmp_path / "a" / "vocals.wav")
    (track,) = stems(tmp_path)
    before = track.fingerprint()
    assert pickle.loads(pickle.dumps(track)).fingerprint() == before
    write(tmp_path / "a" / "vocals.wav", seconds=0.3)
    assert stems(tmp_path)[0].fingerprint() != before
    (tmp_path / "a" / "vocals.wav").unlink()
    assert track.fingerprint() != before


# Unpaired recordings


def test_unpaired_recordings_are_tracks_with_one_stem(tmp_path):
    for number in range(3):
        write(tmp_path / "piano" / f"{number}.wav", channels=1)
    write(tmp_path / "rest" / "album" / "0.mp3")
    config = CorpusConfig(
        kind="unpaired", target="piano", target_path=str(tmp_path / "piano"), background_path=str(tmp_path / "rest")
    )
    tracks = find_tracks(config)
    assert sorted(track.track_id for track in tracks) == ["mixture/album/0.mp3", *(f"piano/{n}.wav" for n in range(3))]
    assert {tuple(track.read()) for track in tracks} == {("piano",), ("mixture",)}
    assert {
        track.split
        for track in find_tracks(CorpusConfig(**vars(config) | {"valid_fraction": 1.0, "test_fraction": 0.0}))
    } == {"valid"}
    alone = CorpusConfig(**vars(config) | {"background_type": "accompaniment"})
    assert "accompaniment/album/0.mp3" in [track.track_id for track in find_tracks(alone)]


def test_overlapping_unpaired_folders_raise_an_error(tmp_path):
    write(tmp_path / "all" / "piano" / "0.wav")
    with pytest.raises(CorpusError, match="one contains the other"):
        find_tracks(
            CorpusConfig(
                kind="unpaired", target_path=str(tmp_path / "all/piano"), background_path=str(tmp_path / "all")
            )
        )


# Errors


@pytest.mark.parametrize("kind", ["musdb18", "stems"])
def test_missing_and_empty_folders_raise_errors(tmp_path, kind):
    with pytest.raises(ConfigError, match=rf"corpus\.path: required for corpus\.kind={kind} but empty"):
        find_tracks(CorpusConfig(kind=kind))
    with pytest.raises(CorpusError, match=r"nowhere: not found; check corpus\.path"):
        find_tracks(CorpusConfig(kind=kind, path=str(tmp_path / "nowhere")))
    with pytest.raises(CorpusError, match=f"{tmp_path}: no .* found"):
        find_tracks(CorpusConfig(kind=kind, path=str(tmp_path)))
    (tmp_path / "file").write_text("x")
    with pytest.raises(CorpusError, match=rf"{tmp_path}/file: is n(ot|either)"):
        find_tracks(CorpusConfig(kind=kind, path=str(tmp_path / "file")))


def test_musdb_folder_without_tracks_raises_an_error(tmp_path):
    (tmp_path / "train").mkdir()
    with pytest.raises(CorpusError, match=r"no \.stem\.mp4 files or track folders in train; "):
        musdb(tmp_path)


def test_invalid_unpaired_configs_raise_errors(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    paths = {"target_path": str(tmp_path / "a"), "background_path": str(tmp_path / "b")}
    with pytest.raises(CorpusError, match="a: no audio files found"):
        find_tracks(CorpusConfig(kind="unpaired", **paths))
    with pytest.raises(ConfigError, match="'mixture' is the stem name of the background recordings"):
        find_tracks(CorpusConfig(kind="unpaired", target="mixture", **paths))
    with pytest.raises(ConfigError, match="the sum must be at most 1"):
        find_tracks(CorpusConfig(kind="unpaired", valid_fraction=0.7, test_fraction=0.7, **paths))


def test_unreadable_files_nan_and_missing_stems_raise_errors(tmp_path):
    folder = tmp_path / "Song"
    folder.mkdir()
    (folder / "vocals.wav").write_text("not audio")
    with pytest.raises(AudioError, match=r"vocals\.wav: neither libsndfile nor FFmpeg can read it"):
        stems(tmp_path)[0].read()
    soundfile.write(folder / "vocals.wav", np.array([0.1, np.nan, 0.2]), RATE, subtype="FLOAT")
    with pytest.raises(AudioError, match="1 samples are NaN"):
        stems(tmp_path)[0].read()
    (folder / "vocals.wav").unlink()
    with pytest.raises(CorpusError, match="Song: no audio files found"):
        stems(tmp_path)[0].read()


def test_describe_returns_the_settings_of_the_kind_with_absolute_paths(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    described = describe(CorpusConfig(kind="stems", path="music", target="ignored"))
    assert described == {"kind": "stems", "path": str(tmp_path / "music"), "valid_fraction": 0.1, "test_fraction": 0.1}


def test_synthetic_tracks_come_from_the_composer():
    config = SyntheticConfig(num_train=2, num_valid=1, num_test=1)
    found = find_tracks(CorpusConfig(kind="synthetic", synthetic=config))
    assert sorted(t.track_id for t in found) == sorted(t.track_id for t in synthetic_tracks(config))
    assert [t.split for t in found] == ["test", "train", "train", "valid"]
