"""The whole pipeline from music to stems and scores, by the commands that users run, on one Ray cluster."""

import functools
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest
import soundfile
import torch

from cyclesep.checkpoints.metadata import TRAINING_STATE_FILE, read_metadata
from cyclesep.cli.main import run_job
from cyclesep.data.corpora.composer.config import SyntheticConfig
from cyclesep.data.corpora.composer.track import SyntheticTrack, synthetic_tracks
from cyclesep.data.corpora.composer.writers import write_musdb_hq, write_stem_mp4
from cyclesep.data.corpora.stem_folders import split_by_name
from cyclesep.data.shards.verification import verify
from cyclesep.metrics import ScoreTable

pytestmark = pytest.mark.usefixtures("ray_cluster")

SECONDS = 3.0
TINY = (
    "num_workers=2 num_dataloader_workers=0 num_validation_crops=4 crops.crop_seconds=0.5 crops.batch_size=8 "
    "method.separator.channels=8 method.separator.depth=1 method.discriminator.channels=4 "
)


@dataclass(frozen=True, kw_only=True)
class Source:
    """A kind of music, the expected shards, and the settings of a training run on it."""

    corpus: str
    sample_rate: int
    channels: int
    tracks: int
    stems: tuple[str, ...]
    targets: tuple[str, ...]
    train: str


BAND = ("mixture", "vocals", "drums", "bass", "other")
SOURCES = {
    "mp4": Source(
        corpus="corpus.kind=musdb18 corpus.path=mp4",
        sample_rate=8000, channels=1, tracks=4, stems=BAND, targets=("vocals",),
        train="method.recipe=supervised steps=4 validate_every=2 keep_checkpoints=2 output_dir=runs",
    ),
    "hq": Source(
        corpus="corpus.kind=musdb18 corpus.path=hq",
        sample_rate=8000, channels=2, tracks=4, stems=BAND, targets=("vocals", "drums", "bass", "other"),
        train="method.recipe=paired method.separator.name=tfsep steps=2 output_dir=runs",
    ),
    "stems": Source(
        corpus="corpus.kind=stems corpus.path=stems",
        sample_rate=11025, channels=1, tracks=4, stems=("mixture", "lead vox", "Schlagzeug #2"), targets=("lead vox",),
        train="method.recipe=cyclegan method.preset=notebook steps=2 output_dir=runs",
    ),
    "unpaired": Source(
        corpus="corpus.kind=unpaired corpus.target=piano corpus.target_path=solo corpus.background_path=rest "
        "corpus.background_type=accompaniment",
        sample_rate=8000, channels=1, tracks=8, stems=("accompaniment", "piano"), targets=("piano",),
        train="method.recipe=remix crops.pairing=unpaired steps=2 output_dir=runs",
    ),
    "mixtures": Source(
        corpus="corpus.kind=unpaired corpus.target=piano corpus.target_path=solo corpus.background_path=rest",
        sample_rate=8000, channels=1, tracks=8, stems=("mixture", "piano"), targets=("piano",),
        train="method.recipe=remix crops.pairing=unpaired steps=2 output_dir=runs",
    ),
}  # fmt: skip


def run(job: str, *words: object) -> int:
    """Run a command and return its exit status."""
    with pytest.raises(SystemExit) as ended:
        run_job(job, [str(word) for word in words])
    return int(ended.value.code or 0)


@pytest.fixture(scope="module")
def songs() -> list[SyntheticTrack]:
    return synthetic_tracks(SyntheticConfig(num_train=2, num_valid=1, num_test=1, seconds=SECONDS))


@pytest.fixture(scope="module")
def music(songs: list[SyntheticTrack], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with music in all layouts that can be ingested."""
    root = tmp_path_factory.mktemp("music")
    write_stem_mp4(songs, root / "mp4")
    write_musdb_hq(songs, root / "hq")
    write_own_stems(root / "stems")
    write_recordings(root / "solo", hertz=523.0)
    write_recordings(root / "rest", hertz=65.0)
    return root


def write_own_stems(root: Path) -> None:
    """Write tracks with unusual names, three formats, different rates and channels in a track, and one mixture file."""
    names = {"train": ("Ünïcode & (demo) #1", "it's = [live]"), "valid": ("100 %",), "test": ("-- last --",)}
    rng = np.random.default_rng(0)
    for split, tracks in names.items():
        for number, track in enumerate(tracks):
            folder = root / split / track
            folder.mkdir(parents=True)
            write_sound(folder / "lead vox.flac", 44100, 2, 300 + 50 * number, rng)
            write_sound(folder / "Schlagzeug #2.ogg", 22050, 1, 80, rng)
            if number == 0:
                write_sound(folder / "Mix.WAV", 16000, 2, 300, rng)


def write_recordings(root: Path, *, hertz: float) -> None:
    """Write two recordings for training and one for each other split, using names that hash to these splits."""
    root.mkdir()
    rng = np.random.default_rng(1)
    wanted = ["train", "train", "valid", "test"]
    stem = {"solo": "piano"}.get(root.name)
    for name in (f"take {number}.wav" for number in range(1000)):
        # `rest` is ingested under two stem names; only use names that give the same split for both.
        splits = {split_by_name(f"{s}/{name}", 0.1, 0.1) for s in ([stem] if stem else ["mixture", "accompaniment"])}
        if len(splits) == 1 and (split := splits.pop()) in wanted:
            wanted.remove(split)
            write_sound(root / name, 22050, 1 + len(wanted) % 2, hertz * (1 + len(wanted)), rng)
        if not wanted:
            return


def write_sound(path: Path, rate: int, channels: int, hertz: float, rng: np.random.Generator) -> None:
    time = np.arange(round(SECONDS * rate)) / rate
    tone = 0.2 * np.sin(2 * np.pi * hertz * time) * (0.6 + 0.4 * np.sin(2 * np.pi * 3 * time))
    soundfile.write(path, tone[:, None] + rng.normal(0, 0.01, (len(time), channels)), rate)


@pytest.fixture(scope="module")
def ingested(music: Path) -> Callable[[str], Path]:
    """Return the shards of a kind of music, ingesting it on first use."""

    @functools.cache
    def make(name: str) -> Path:
        source, folder = SOURCES[name], music / "shards" / name
        words = source.corpus
        for setting in ("path", "target_path", "background_path"):
            words = words.replace(f".{setting}=", f".{setting}={music}/")
        words += f" sample_rate={source.sample_rate} channels={source.channels} segment_seconds=1 output={folder}"
        assert run("ingest", *words.split(" ")) == 0
        return folder

    return make


@pytest.fixture(scope="module")
def trained(ingested: Callable[[str], Path], music: Path) -> Callable[[str], Path]:
    """Return a folder with the checkpoints of a run, training on first use; the run folder itself is deleted."""

    @functools.cache
    def train(name: str) -> Path:
        source, runs = SOURCES[name], music / "runs"
        targets = "targets=[" + ", ".join(f"'{target}'" for target in source.targets) + "]"
        words = (TINY + source.train.replace("output_dir=", f"output_dir={music}/")).split(" ")
        assert run("train", f"shards={ingested(name)}", f"name={name}", targets, *words) == 0
        kept = music / "elsewhere" / name
        kept.mkdir(parents=True)
        for folder in (runs / name).glob("step-*"):
            shutil.move(folder, kept / folder.name)
        shutil.rmtree(runs)
        return kept

    return train


def last(checkpoints: Path) -> Path:
    return max(checkpoints.iterdir())


@pytest.mark.parametrize("name", SOURCES)
def test_every_kind_of_music_is_ingested(name: str, ingested: Callable[[str], Path]) -> None:
    source, manifest = SOURCES[name], verify(ingested(name))
    assert set(manifest.stems) == set(source.stems)
    assert len(manifest.tracks) == source.tracks
    assert {track.split for track in manifest.tracks} == {"train", "valid", "test"}
    assert (manifest.sample_rate, manifest.channels) == (source.sample_rate, source.channels)
    assert {track.num_samples for track in manifest.tracks} == {round(SECONDS * source.sample_rate)}


def test_mp4_and_wav_folders_contain_the_same_songs(
    ingested: Callable[[str], Path], songs: list[SyntheticTrack]
) -> None:
    for name in ("mp4", "hq"):
        found = {(track.track_id, track.split) for track in verify(ingested(name)).tracks}
        assert found == {(song.track_id, song.split) for song in songs}


@pytest.mark.parametrize(
    "name", [name if name in ("stems", "mp4") else pytest.param(name, marks=pytest.mark.slow) for name in SOURCES]
)
def test_a_checkpoint_of_two_workers_separates_without_its_run(
    name: str, trained: Callable[[str], Path], tmp_path: Path
) -> None:
    source, checkpoint = SOURCES[name], last(trained(name))
    metadata = read_metadata(checkpoint)
    assert (metadata.targets, metadata.sample_rate, metadata.channels) == (
        source.targets,
        source.sample_rate,
        source.channels,
    )
    assert metadata.hardware.startswith("2 x ")
    assert ("validation/sdr" in metadata.metrics) == (name != "mixtures")

    rng = np.random.default_rng(2)
    shapes = {"long": (70003, 44100, 2), "low": (8009, 16000, 1)}
    for song, (num_samples, rate, channels) in shapes.items():
        soundfile.write(tmp_path / f"{song}.wav", rng.uniform(-0.5, 0.5, (num_samples, channels)), rate)
    assert run("separate", tmp_path, f"checkpoint={checkpoint}", f"output={tmp_path}/out", "residual=true") == 0

    residual = "accompaniment" if len(source.targets) == 1 else "residual"
    for song, shape in shapes.items():
        names = {path.stem: path for path in (tmp_path / "out" / song).iterdir()}
        assert set(names) == {*source.targets, residual}
        stems = [soundfile.read(path, dtype="float32", always_2d=True)[0] for path in names.values()]
        found = {
            (*stem.shape, soundfile.info(path).samplerate) for stem, path in zip(stems, names.values(), strict=True)
        }
        assert found == {(shape[0], shape[2], shape[1])}
        mixture = soundfile.read(tmp_path / f"{song}.wav", dtype="float32", always_2d=True)[0]
        np.testing.assert_allclose(sum(stems), mixture, atol=1e-6)


@pytest.mark.slow
def test_training_from_a_copied_checkpoint_is_bit_exact(trained: Callable[[str], Path], tmp_path: Path) -> None:
    """Two steps, a copy of the checkpoint, and two more steps in another run equal four steps of the first run."""
    early, late = sorted(trained("mp4").iterdir())
    copy = shutil.copytree(early, tmp_path / "copy")
    assert read_metadata(copy).step == 2
    assert run("train", copy, "name=longer", f"output_dir={tmp_path}/runs") == 0
    resumed, expected = (
        torch.load(folder / TRAINING_STATE_FILE, weights_only=True)
        for folder in (tmp_path / "runs" / "longer" / "step-00000004", late)
    )
    assert read_metadata(tmp_path / "runs" / "longer" / "step-00000004").step == 4
    assert_equal(resumed, expected)
    lines = (tmp_path / "runs" / "longer" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [4]


def assert_equal(found: object, expected: object, place: str = "") -> None:
    """Compare nested containers; tensors must be bitwise equal."""
    if isinstance(expected, dict):
        assert isinstance(found, dict)
        assert list(found) == list(expected), place
        for name in expected:
            assert_equal(found[name], expected[name], f"{place}/{name}")
    elif isinstance(expected, list | tuple):
        for number, (one, other) in enumerate(zip(found, expected, strict=True)):  # type: ignore[call-overload]
            assert_equal(one, other, f"{place}/{number}")
    elif isinstance(expected, torch.Tensor):
        assert torch.equal(found, expected), place  # type: ignore[arg-type]
    else:
        assert found == expected, place


def test_a_checkpoint_is_evaluated_on_mp4_files(
    trained: Callable[[str], Path], music: Path, songs: list[SyntheticTrack], tmp_path: Path
) -> None:
    out, checkpoint = tmp_path / "out", last(trained("mp4"))
    corpus = ["corpus.kind=musdb18", f"corpus.path={music}/mp4"]
    assert run("evaluate", f"checkpoint={checkpoint}", *corpus, f"output={out}", "save_estimates=true") == 0

    (song,) = [song for song in songs if song.split == "test"]
    systems = ["mixture", "heuristic", "separator", "IRM2"]
    for system in systems:
        scores = json.loads((out / "museval" / system / "test" / f"{song.track_id}.json").read_text())
        assert {target["name"]: len(target["frames"]) for target in scores["targets"]} == {
            "vocals": 3,
            "accompaniment": 3,
        }
        found = soundfile.info(out / "estimates" / system / "test" / song.track_id / "vocals.wav")
        assert (found.frames, found.samplerate, found.channels) == (round(SECONDS * 44100), 44100, 2)

    summary = json.loads((out / "summary.json").read_text())
    assert (summary["tracks"], summary["failed"]) == (1, [])
    sdr = {row["system"]: row["SDR"] for row in summary["scores"] if row["target"] == "vocals"}
    assert list(sdr) == systems
    assert sdr["IRM2"] > sdr["mixture"] + 3
    assert set(ScoreTable.read(out / "scores.parquet").table["track_id"].to_pylist()) == {song.track_id}
    assert pyarrow.parquet.read_table(out / "tracks.parquet").num_rows == 2 * len(systems)
