"""Invalid input: one line on stderr that names the problem and a remedy, a non-zero status, no partial output."""

import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import soundfile

from cyclesep.checkpoints.metadata import (
    CONFIG_FILE,
    METADATA_FILE,
    TRAINING_STATE_FILE,
    WEIGHTS_FILE,
    CheckpointMetadata,
)
from cyclesep.checkpoints.save_restore import save_checkpoint
from cyclesep.cli.main import run_job
from cyclesep.config import settings
from cyclesep.cyclegan.model import CycleGAN
from cyclesep.data.corpora.composer.config import SyntheticConfig
from cyclesep.data.corpora.composer.track import synthetic_tracks
from cyclesep.data.corpora.composer.writers import write_stem_mp4
from cyclesep.data.shards.reading import ShardReader
from cyclesep.data.shards.verification import verify
from cyclesep.training.config import TrainConfig
from tests.support.paths import CHECKOUT

RATE = 8000
RAY_LOG = re.compile(r"(\x1b\[\d+m)?\([\w:]+ pid=")


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """Result of a job; `errors` are its lines on stderr without the output of other processes repeated by Ray."""

    status: int
    out: str
    errors: tuple[str, ...]

    @classmethod
    def of(cls, status: int, out: str, err: str) -> "Outcome":
        return cls(status=status, out=out, errors=tuple(line for line in err.splitlines() if not RAY_LOG.match(line)))


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    """Run a job in this process."""

    def run_words(job: str, *words: object) -> Outcome:
        with pytest.raises(SystemExit) as ended:
            run_job(job, [str(word) for word in words])
        output = capsys.readouterr()
        return Outcome.of(int(ended.value.code or 0), output.out, output.err)

    return run_words


def assert_error(ended: Outcome, job: str, *parts: str) -> None:
    """Check that stderr is one line that contains `parts` and a remedy."""
    assert ended.status in (1, 2)
    assert ended.out == ""
    (line,) = ended.errors
    assert line.startswith(f"cyclesep {job}: error: ")
    assert "; " in line
    assert len(line) < 600
    for part in parts:
        assert part in line


def write(path: Path, num_samples: int = RATE, *, rate: int = RATE, channels: int = 1, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.random.default_rng(seed).uniform(-0.3, 0.3, (num_samples, channels)), rate)
    return path


def write_bad_files(folder: Path) -> None:
    folder.mkdir()
    (folder / "text.wav").write_text("not audio")
    (folder / "empty.wav").touch()
    write(folder / "no-samples.wav", 0)
    soundfile.write(folder / "nan.wav", np.array([0.1, np.nan] * RATE), RATE, subtype="FLOAT")
    write(folder / "three.wav", 3)


def damaged(good: Path, name: str, file: str, content: bytes | None) -> None:
    """Copy a checkpoint and replace one of its files, or delete it (None)."""
    folder = shutil.copytree(good, good.with_name(name))
    (folder / file).unlink() if content is None else (folder / file).write_bytes(content)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, tiny_shards: Path) -> Path:
    """A folder with valid and invalid music, and with checkpoints damaged in every way."""
    root = tmp_path_factory.mktemp("place")
    (root / "nothing").mkdir()
    (root / "file").write_text("in the way")
    write_bad_files(root / "bad")
    for seed, track in enumerate("abc"):
        for stem in ("vocals", "drums"):
            write(root / "songs" / track / f"{stem}.wav", seed=2 * seed + (stem == "drums"))
    for bad in ("text", "empty", "no-samples", "nan"):
        write(root / "corpora" / bad / "song" / "drums.wav")
        shutil.copy(root / "bad" / f"{bad}.wav", root / "corpora" / bad / "song" / "vocals.wav")
    write(root / "corpora" / "three" / "song" / "vocals.wav", 3)
    (root / "corpora" / "no-files" / "song").mkdir(parents=True)
    (root / "corpora" / "no-tracks" / "train").mkdir(parents=True)
    write_stem_mp4(synthetic_tracks(SyntheticConfig(num_train=2, num_valid=0, num_test=1, seconds=2.0)), root / "mp4")
    cut = sorted((root / "mp4" / "train").iterdir())[0]
    cut.write_bytes(cut.read_bytes()[:60000])
    shutil.copy(cut, root / "bad" / "cut.stem.mp4")

    no_manifest = shutil.copytree(tiny_shards, root / "no-manifest")
    (no_manifest / "manifest.json").unlink()
    bad_manifest = shutil.copytree(tiny_shards, root / "bad-manifest")
    (bad_manifest / "manifest.json").write_text("{")
    no_files = shutil.copytree(tiny_shards, root / "no-lmdb")
    for file in no_files.glob("*.lmdb"):
        file.unlink()

    write_checkpoints(root / "checkpoints", tiny_shards)
    return root


def write_checkpoints(root: Path, shards: Path) -> None:
    small = {"method.separator.channels": 8, "method.separator.depth": 2, "crops.crop_seconds": 0.5}
    config = settings.replace(TrainConfig(shards=str(shards)), {**small, "crops.batch_size": 4})
    model = CycleGAN(config.method, targets=("vocals",), channels=1, sample_rate=RATE)
    progress = CheckpointMetadata(step=2, targets=("vocals",), sample_rate=RATE, channels=1)
    good = root / "good"
    save_checkpoint(good, model, config, progress)
    damaged(good, "cut-weights", WEIGHTS_FILE, (good / WEIGHTS_FILE).read_bytes()[:1000])
    damaged(good, "other-weights", WEIGHTS_FILE, b"x" * 5000)
    damaged(good, "no-weights", WEIGHTS_FILE, None)
    damaged(good, "no-config", CONFIG_FILE, None)
    damaged(good, "bad-config", CONFIG_FILE, b"[")
    damaged(good, "bad-progress", METADATA_FILE, b"{")
    damaged(good, "list-progress", METADATA_FILE, b"[1]")
    damaged(good, "cut-state", TRAINING_STATE_FILE, (good / TRAINING_STATE_FILE).read_bytes()[:1000])
    damaged(good, "other-state", TRAINING_STATE_FILE, b"not a checkpoint")
    damaged(good, "no-state", TRAINING_STATE_FILE, None)


DAMAGED_SEPARATORS = [
    ("checkpoint={place}/nowhere", "no checkpoint or finished run found; give a folder that contains metadata.json"),
    ("checkpoint={place}/nothing", "no checkpoint or finished run found"),
    ("checkpoint={place}/checkpoints/cut-weights", "separator.safetensors: missing or damaged"),
    ("checkpoint={place}/checkpoints/other-weights", "separator.safetensors: missing or damaged"),
    ("checkpoint={place}/checkpoints/no-weights", "separator.safetensors: missing or damaged (No such file"),
    ("checkpoint={place}/checkpoints/no-config", "no-config/config.yaml: missing or damaged (file not found"),
    ("checkpoint={place}/checkpoints/bad-config", "bad-config/config.yaml: missing or damaged"),
    ("checkpoint={place}/checkpoints/bad-progress", "metadata.json: missing or damaged"),
    ("checkpoint={place}/checkpoints/list-progress", "metadata.json: missing or damaged"),
]


# ingest

STEMS, MUSDB = "corpus.kind=stems ", "corpus.kind=musdb18 "


@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (STEMS + "corpus.path={place}/nowhere", "{place}/nowhere: not found; check corpus.path"),
        (STEMS + "corpus.path={place}/nothing", "{place}/nothing: no track folders found"),
        (STEMS + "corpus.path={place}/corpora/no-tracks", "no track folders found"),
        (STEMS + "corpus.path={place}/file", "file: is not a folder"),
        (STEMS + "corpus.path=", "corpus.path: invalid value none; set it as corpus.path=..."),
        ("corpus.kind=stems", "corpus.path: required for corpus.kind=stems but empty"),
        (STEMS + "corpus.pth={place}/songs", "corpus.pth: unknown setting; did you mean corpus.path?"),
        (STEMS + "corpus.path=[a", "corpus.path: '[a' is not valid YAML"),
        ("corpus.kind=stem", "corpus.kind: invalid value 'stem'; did you mean stems? choices: musdb18, stems"),
        ("corpus=3", "corpus: invalid value 3; it is a group of settings; set them as corpus.setting=value"),
        ("sample_rate=fast", "sample_rate: invalid value 'fast'; input should be a whole number"),
        ("channels=3", "channels: invalid value 3; choices: 1 or 2"),
        ("output=3", "output: invalid value 3; YAML does not read it as text; quote it twice: output=\"'3'\""),
        ("{place}/nowhere.yaml", "nowhere.yaml: cannot read config (No such file or directory)"),
        ("{place}/songs", "songs'; expected a YAML file or a setting as name=value"),
        ("--outptu", "unrecognized arguments: --outptu; `cyclesep ingest --help` lists"),
        (MUSDB + "corpus.path={place}/nothing", "nothing: no train/ or test/ folder and no .stem.mp4 files found"),
        (MUSDB + "corpus.path={place}/corpora/no-tracks", "no .stem.mp4 files or track folders in train"),
        (MUSDB + "corpus.path={place}/bad/cut.stem.mp4", "none of 1 tracks could be ingested; cut: {place}/bad/cut"),
        (STEMS + "corpus.path={place}/corpora/text", "song: {place}/corpora/text/song/vocals.wav: neither libsndfile"),
        (STEMS + "corpus.path={place}/corpora/empty", "vocals.wav: neither libsndfile nor FFmpeg can read it as audio"),
        (STEMS + "corpus.path={place}/corpora/no-samples", "vocals.wav: contains no samples"),
        (STEMS + "corpus.path={place}/corpora/nan", "8000 samples are NaN or infinite, the first at 0.000 s"),
        (STEMS + "corpus.path={place}/corpora/three", "song: lasts 0.0004 s, the minimum is 0.1 s"),
        (STEMS + "corpus.path={place}/corpora/no-files", "song: no audio files found"),
        (
            "corpus.kind=unpaired corpus.target_path={place}/songs corpus.background_path={place}/songs/a",
            "one contains the other",
        ),
        (
            "corpus.kind=unpaired corpus.target_path={place}/songs corpus.background_path={place}/nothing",
            "nothing: no audio files found",
        ),
        (STEMS + "corpus.path={place}/songs output={place}/file", "file: cannot be written"),
        (STEMS + "corpus.path={place}/songs output={place}/file/out", "file/out: cannot be written"),
    ],
)
def test_ingest_errors(run: Callable[..., Outcome], place: Path, tmp_path: Path, words: str, message: str) -> None:
    output = f"output={tmp_path}/out"
    ended = run("ingest", output, "sample_rate=8000", "channels=1", *words.format(place=place).split(" "))
    assert_error(ended, "ingest", message.format(place=place))
    assert list(tmp_path.iterdir()) == []


def test_a_missing_required_argument_is_an_error(run: Callable[..., Outcome]) -> None:
    assert_error(run("ingest"), "ingest", "missing required argument: output; set it as output=...")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- 1\n", "bad.yaml: contains list, not settings; write lines of name: value"),
        ("sample_rate: 1\nchannels: [\n", "bad.yaml, line 3: not valid YAML"),
        ("corpus: {path: [1]}\n", "corpus.path: invalid value [1]"),
        (
            "rate: 8000\nchannels: x\n",
            "channels: invalid value 'x'; choices: 1 or 2; rate: unknown setting; did you mean sample",
        ),
    ],
)
def test_config_file_errors(run: Callable[..., Outcome], tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "bad.yaml").write_text(text)
    assert_error(run("ingest", tmp_path / "bad.yaml", "output=out"), "ingest", message)


@pytest.mark.usefixtures("ray_cluster")
def test_a_failed_track_is_reported_and_the_others_are_ingested(
    run: Callable[..., Outcome], place: Path, tmp_path: Path
) -> None:
    songs = shutil.copytree(place / "songs", tmp_path / "songs")
    (songs / "b" / "vocals.wav").write_text("not audio")
    out = tmp_path / "out"
    ended = run("ingest", "corpus.kind=stems", f"corpus.path={songs}", f"output={out}", "sample_rate=8000")
    assert (ended.status, ended.errors) == (1, ())
    (failed,) = [line for line in ended.out.splitlines() if line.startswith("failed: ")]
    assert failed.startswith(f"failed: b: {songs}/b/vocals.wav: neither libsndfile nor FFmpeg can read it")
    assert [track.track_id for track in ShardReader(out).manifest.tracks] == ["a", "c"]
    verify(out)


@pytest.mark.usefixtures("ray_cluster")
def test_a_truncated_mp4_in_a_musdb_folder_does_not_stop_the_others(
    run: Callable[..., Outcome], place: Path, tmp_path: Path
) -> None:
    bad, _ = sorted((place / "mp4" / "train").iterdir())
    path, output = f"corpus.path={place}/mp4", f"output={tmp_path}/out"
    ended = run("ingest", "corpus.kind=musdb18", path, output, "sample_rate=8000", "channels=1")
    assert (ended.status, ended.errors) == (1, ())
    (failed,) = [line for line in ended.out.splitlines() if line.startswith("failed: ")]
    assert failed.startswith(f"failed: {bad.name.removesuffix('.stem.mp4')}: {bad}: ")
    assert failed.endswith("; copy or export it again")
    assert len(verify(tmp_path / "out").tracks) == 2


@pytest.mark.usefixtures("ray_cluster")
def test_mixed_rates_channels_and_formats_are_ingested(run: Callable[..., Outcome], tmp_path: Path) -> None:
    song = tmp_path / "songs" / "song"
    write(song / "vocals.wav", 44100, rate=44100, channels=2)
    write(song / "drums.flac", 8000)
    write(song / "bass.ogg", 22050, rate=22050)
    ended = run("ingest", "corpus.kind=stems", f"corpus.path={tmp_path}/songs", f"output={tmp_path}/out")
    assert (ended.status, ended.errors) == (0, ())
    (track,) = verify(tmp_path / "out").tracks
    assert (track.sample_rate, track.channels, track.num_samples) == (44100, 2, 44100)
    assert set(track.stems) == {"mixture", "vocals", "drums", "bass"}


# train


@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("shards={place}/nowhere", "{place}/nowhere: manifest.json not found, so no ingest was finished here"),
        ("shards={place}/nothing", "{place}/nothing: manifest.json not found"),
        ("shards={place}/no-manifest", "no-manifest: manifest.json not found"),
        ("shards={place}/bad-manifest", "manifest.json: damaged, it is not JSON; run the same ingest again"),
        ("shards={place}/no-lmdb", "cannot be read (No such file or directory)"),
        ("stepz=3", "stepz: unknown setting; did you mean steps?"),
        ("steps=many", "steps: invalid value 'many'; input should be a whole number"),
        ("steps=0", "steps: invalid value 0"),
        ("method.recipe=magic", "method.recipe: invalid value 'magic'"),
        ("method.separator.channels=9", "method.separator.channels: invalid value 9; input should be a multiple of 8"),
        ("method.loss_weights.cycl=3", "loss_weights: recipe=remix has no term cycl; its terms are"),
        ("method.recipe=supervised crops.pairing=unpaired", "recipe=supervised needs targets aligned"),
        ("targets=[]", "targets: invalid value []; give at least one: targets=[...]"),
        ("targets=vocals", "targets: invalid value 'vocals'; write a list: targets=[vocals]"),
        ("targets=[piano]", "has no stem 'piano'; it has drums, vocals"),
        ("targets=[vocals,vocals]", "targets: vocals, vocals contains a stem twice"),
        ("crops.crop_seconds=0.00001", "a step on crops of crops.crop_seconds=1e-05 failed"),
        ("crops.batch_size=3", "batch_size: 3 is not a multiple"),
        ("name=../elsewhere", "name: invalid value '../elsewhere'"),
        ("num_workers=3 crops.batch_size=12", "needs 3 CPUs, the cluster has 2; lower one of them"),
        ("{place}/nowhere", "expected a YAML file, a checkpoint folder or a setting"),
        ("{place}/nothing", "nothing: contains no config.yaml; give a checkpoint folder"),
        ("{place}/checkpoints/no-config", "no-config: contains no config.yaml; give a checkpoint folder"),
        ("{place}/checkpoints/bad-config", "bad-config/config.yaml, line 1: not valid YAML"),
        ("{place}/checkpoints/bad-progress", "metadata.json: missing or damaged"),
        ("{place}/checkpoints/cut-state", "training_state.pt: missing or damaged (cannot be unpickled)"),
        ("{place}/checkpoints/other-state", "training_state.pt: missing or damaged (cannot be unpickled)"),
        ("{place}/checkpoints/no-state", "training_state.pt: missing or damaged (No such file"),
        ("{place}/checkpoints/good method.separator.channels=16", "does not fit the networks of this config"),
        ("{place}/checkpoints/good steps=2", "already has 2 steps; increase steps"),
        ("init_from={place}/nowhere", "nowhere: no checkpoint or finished run found"),
    ],
)
def test_train_errors(
    run: Callable[..., Outcome], place: Path, tiny_shards: Path, tmp_path: Path, words: str, message: str
) -> None:
    usual = ["crops.crop_seconds=0.5", "crops.batch_size=4", f"shards={tiny_shards}", f"output_dir={tmp_path}/runs"]
    ended = run("train", *usual, "name=new", "steps=4", *words.format(place=place).split(" "))
    assert_error(ended, "train", message.format(place=place))
    assert list(tmp_path.iterdir()) == []


# separate


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("{place}/nowhere.wav", "{place}/nowhere.wav: file not found; check the path"),
        ("{place}/nothing", "inputs: no audio files found in {place}/nothing; give audio files or folders"),
        ("{place}/nowhere/*.wav", "inputs: no audio files found in {place}/nowhere/*.wav"),
        ("stems=[vocals]", "missing required argument: inputs"),
        ("{song} stemz=[vocals]", "stemz: unknown setting; did you mean stems?"),
        ("{song} stems=[piano]", "stems: unknown target 'piano'; the separator extracts vocals"),
        (
            "{song} separation.batch_size=two",
            "separation.batch_size: invalid value 'two'; input should be a whole number",
        ),
        ("{song} separation.segment_seconds=0.1", "segment_seconds=0.1: too short for context_seconds="),
        (
            "{song} format=flac sample_format=float",
            "sample_format: flac does not support float; set sample_format=pcm24",
        ),
        ("{song} output={place}/file", "cannot be written (Not a directory)"),
        ("{place}/bad/text.wav", "bad/text.wav: neither libsndfile nor FFmpeg can read it as audio"),
        ("{place}/bad/empty.wav", "bad/empty.wav: neither libsndfile nor FFmpeg can read it as audio"),
        ("{place}/bad/no-samples.wav", "bad/no-samples.wav: contains no samples"),
        ("{place}/bad/nan.wav", "8000 samples are NaN or infinite"),
        ("{place}/bad/cut.stem.mp4", "bad/cut.stem.mp4: neither libsndfile nor FFmpeg can read it"),
        *[("{song} " + words, message) for words, message in DAMAGED_SEPARATORS],
    ],
)
def test_separate_errors(run: Callable[..., Outcome], place: Path, tmp_path: Path, words: str, message: str) -> None:
    names = {"place": place, "song": place / "songs" / "a" / "vocals.wav"}
    usual = [f"checkpoint={place}/checkpoints/good", f"output={tmp_path}/out"]
    assert_error(run("separate", *usual, *words.format(**names).split(" ")), "separate", message.format(**names))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("num_samples", "rate", "channels"), [(3, 44100, 1), (1, 8000, 2), (9001, 22050, 2)])
def test_files_of_any_length_rate_and_channels_are_separated(
    run: Callable[..., Outcome], place: Path, tmp_path: Path, num_samples: int, rate: int, channels: int
) -> None:
    song = write(tmp_path / "song.wav", num_samples, rate=rate, channels=channels)
    assert run("separate", song, f"checkpoint={place}/checkpoints/good", f"output={tmp_path}/out").status == 0
    for stem in ("vocals", "accompaniment"):
        found = soundfile.info(tmp_path / "out" / "song" / f"{stem}.wav")
        assert (found.frames, found.samplerate, found.channels) == (num_samples, rate, channels)


def test_invalid_files_in_a_folder_are_reported_and_the_valid_one_is_separated(
    run: Callable[..., Outcome], place: Path, tmp_path: Path
) -> None:
    ended = run("separate", place / "bad", f"checkpoint={place}/checkpoints/good", f"output={tmp_path}/out")
    assert ended.status == 1
    failed = [line for line in ended.errors if ": error: " in line]
    names = ("cut.stem.mp4", "empty.wav", "nan.wav", "no-samples.wav", "text.wav")
    assert [name in line for name, line in zip(names, failed, strict=True)] == [True] * 5
    assert "failed" not in ended.out
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["three"]


# evaluate


@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("shards={place}/nowhere", "{place}/nowhere: manifest.json not found"),
        ("shards={place}/no-manifest", "no-manifest: manifest.json not found"),
        ("shards={place}/bad-manifest", "manifest.json: damaged, it is not JSON"),
        ("corpus.kind=stems", "shards, corpus: exactly one must be set, for the references; "),
        ("shards=null", "shards, corpus: exactly one must be set, for the references; "),
        ("shards=null corpus.kind=stems corpus.path={place}/nowhere", "nowhere: not found; check corpus.path"),
        ("shards=null corpus.kind=musdb18 corpus.path={place}/nothing", "nothing: no train/ or test/ folder"),
        (
            "shards=null corpus.kind=stems corpus.path={place}/songs corpus.test_fraction=0",
            "corpus stems: no tracks found in split=test; choose another split",
        ),
        ("shardz=3", "shardz: unknown setting; did you mean shards?"),
        ("split=all", "split: invalid value 'all'; choices: train, valid, test"),
        ("frame_seconds=long", "frame_seconds: invalid value 'long'; input should be a number"),
        ("targets=[vocals]", "targets: the checkpoint defines its targets; omit this setting"),
        ("estimates={place}/nowhere", "estimates: folder {place}/nowhere/test not found"),
        ("checkpoint=null mixture=false heuristic=false oracles=[]", "nothing to score; give a checkpoint"),
        *DAMAGED_SEPARATORS,
    ],
)
def test_evaluate_errors(
    run: Callable[..., Outcome], place: Path, tiny_shards: Path, tmp_path: Path, words: str, message: str
) -> None:
    usual = [f"checkpoint={place}/checkpoints/good", f"shards={tiny_shards}", f"output={tmp_path}/out"]
    assert_error(
        run("evaluate", *usual, *words.format(place=place).split(" ")), "evaluate", message.format(place=place)
    )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("ray_cluster")
def test_an_evaluation_without_scored_tracks_fails_without_a_table(
    run: Callable[..., Outcome], place: Path, tmp_path: Path
) -> None:
    only = ["heuristic=false", "oracles=[]", "targets=[vocals]", f"output={tmp_path}/out"]
    corpus = [
        "corpus.kind=stems",
        f"corpus.path={place}/corpora/nan",
        "corpus.test_fraction=1",
        "corpus.valid_fraction=0",
    ]
    ended = run("evaluate", *only, *corpus)
    assert (ended.status, ended.out) == (1, "")
    (error,) = [line for line in ended.errors if line.startswith("cyclesep evaluate: error: ")]
    assert "none of 1 tracks could be scored; mixture: song: " in error
    assert "samples are NaN or infinite" in error
    left = [path.relative_to(tmp_path).as_posix() for path in tmp_path.glob("out/**/*")]
    assert sorted(left) == ["out/evaluation.yaml", "out/parts"]


# scripts


@pytest.mark.parametrize(
    ("script", "words", "message"),
    [
        ("ingest.py", "corpus.kind=stems corpus.path=nowhere output=out", "nowhere: not found; check corpus.path"),
        ("separate.py", "nowhere.wav checkpoint=nowhere", "nowhere: no checkpoint or finished run found"),
    ],
)
def test_scripts_report_the_same_errors(tmp_path: Path, script: str, words: str, message: str) -> None:
    command = [sys.executable, str(CHECKOUT / "jobs" / script), *words.split(" ")]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert_error(Outcome.of(done.returncode, done.stdout, done.stderr), script.removesuffix(".py"), message)
    assert list(tmp_path.iterdir()) == []
