"""Piano recordings, clips of other instruments, and duets, as files."""

import numpy as np
import soundfile

from benchmarks.piano_recordings import PianoDomainConfig, _right_hand, write_piano_domain


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
