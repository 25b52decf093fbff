"""`cyclesep.load(...).separate(...)`, and the examples of docs/python.md."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

import cyclesep
from cyclesep.errors import AudioError, CheckpointError, ConfigError
from cyclesep.inference.python_api import Model
from tests.support.paths import CHECKOUT
from tests.support.tiny_evaluation import save_separator

DOCS = CHECKOUT / "docs"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a run named `vocals` and a song."""
    monkeypatch.chdir(tmp_path)
    save_separator(tmp_path / "runs/vocals/step-1")
    (tmp_path / "runs/vocals/run.json").write_text('{"best": "step-1", "last": "step-1"}')
    soundfile.write("song.flac", np.random.default_rng(0).uniform(-0.5, 0.5, (22050, 2)), 11025)
    return tmp_path


@pytest.fixture
def model(here: Path) -> Model:  # noqa: ARG001
    return cyclesep.load("vocals", device="cpu")


def test_stems_have_the_shape_of_the_input_and_add_up_to_it(model: Model) -> None:
    audio = np.random.default_rng(1).uniform(-0.5, 0.5, (2, 30_000)).astype(np.float32)
    for sample_rate in (8000, 44_100):
        stems = model.separate(audio, sample_rate)
        assert tuple(stems) == model.stems == ("vocals", "accompaniment")
        for stem in stems.values():
            assert (stem.shape, stem.dtype) == (audio.shape, np.float32)
        np.testing.assert_allclose(stems["vocals"] + stems["accompaniment"], audio, atol=1e-6)


def test_separation_is_bitwise_reproducible_and_does_not_modify_its_input(model: Model) -> None:
    audio = np.random.default_rng(2).normal(0, 0.1, (1, 20_000)).astype(np.float32)
    before = audio.copy()
    first, second = (model.separate(audio, 8000)["vocals"] for _ in range(2))
    assert np.array_equal(first, second)
    assert np.array_equal(audio, before)


def test_run_folder_checkpoint_and_name_load_the_same_model(here: Path, model: Model) -> None:
    assert model.path == here / "runs/vocals/step-1"
    assert cyclesep.load(here / "runs/vocals").path == here / "runs/vocals/step-1"
    assert cyclesep.load("runs/vocals/step-1").targets == ("vocals",)
    assert (model.sample_rate, model.channels) == (8000, 1)
    assert repr(model) == "Model('runs/vocals/step-1': vocals at 8000 Hz)"


@pytest.mark.parametrize(
    ("audio", "message"),
    [
        (np.zeros((2, 100), np.int16), "divide integers by their full scale"),
        (np.zeros(100, np.float32), "give mono as audio[None]"),
        (np.zeros((100, 2), np.float32), "give audio.T"),
        (np.zeros((0, 100), np.float32), "without channels; give (channels, time)"),
        (np.full((1, 8000), 1e30), "the audio peaks at 1e+30, where full scale is 1"),
        (np.zeros((2, 0), np.float32), "contains no samples"),
        (np.full((1, 10), np.nan, np.float32), "NaN"),
    ],
)
def test_errors_for_invalid_arrays_name_the_remedy(model: Model, audio: np.ndarray, message: str) -> None:
    with pytest.raises(AudioError, match=re.escape(message)):
        model.separate(audio, 8000)


@pytest.mark.parametrize("rate", [0, 1, 44.1, 44100.5, 999, 768_001, 1e9, np.nan, np.inf, "44100", None, True])
def test_error_for_an_invalid_rate_names_its_value(model: Model, rate: Any) -> None:
    message = f"sample_rate: sample rate {rate!r} is not an integer from 1000 to 768000 Hz; give"
    with pytest.raises(AudioError, match=re.escape(message)):
        model.separate(np.zeros((1, 100), np.float32), rate)


@pytest.mark.parametrize("rate", [8000.0, np.int64(8000), np.float32(8000)])
def test_rate_may_be_any_type_of_whole_number(model: Model, rate: Any) -> None:
    noise = np.random.default_rng(3).normal(0, 0.1, (1, 4000)).astype(np.float32)
    assert np.array_equal(model.separate(noise, rate)["vocals"], model.separate(noise, 8000)["vocals"])


def test_one_sample_of_many_channels_is_valid(model: Model) -> None:
    stems = model.separate(np.full((32, 1), 0.5, np.float32), 8000)
    assert {stem.shape for stem in stems.values()} == {(32, 1)}


def test_missing_run_or_gpu_is_an_error(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: ARG001
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(CheckpointError, match="did you mean vocals"):
        cyclesep.load("vocal")
    with pytest.raises(ConfigError, match="torch finds no GPU"):
        cyclesep.load("vocals", device="cuda")


def test_importing_the_package_imports_neither_torch_nor_numpy() -> None:
    code = "import sys, cyclesep; cyclesep.load; print({'torch', 'numpy', 'ray'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"


# Modules that inference and scoring must not need: None in sys.modules makes an import fail.
WITHOUT = """
import sys
BLOCKED = ["ray", "lmdb", "musdb", "boto3", "botocore", "museval", "tensorboard"]
PACKAGES = ["cyclegan", "data", "training", "tuning", "evaluation", "cluster", "cli", "reports"]
sys.modules |= dict.fromkeys([*BLOCKED, *(f"cyclesep.{name}" for name in PACKAGES)])
import numpy
audio = numpy.random.default_rng(0).uniform(-0.5, 0.5, (1, 16000)).astype(numpy.float32)
"""
LOAD = """
import cyclesep
stems = cyclesep.load(sys.argv[1], device="cpu").separate(audio, 8000)
assert {name: stem.shape for name, stem in stems.items()} == {"vocals": audio.shape, "accompaniment": audio.shape}
"""
SCORE = """
from cyclesep.metrics import evaluate
sdr, *_ = evaluate(audio[:, :, None], 0.9 * audio[:, :, None], win=8000, hop=8000)
assert numpy.allclose(sdr, 20, atol=0.1), sdr
"""


@pytest.mark.parametrize("code", [LOAD, SCORE], ids=["load", "evaluate"])
def test_separation_and_scoring_need_no_training_or_cluster_packages(here: Path, code: str) -> None:
    command = [sys.executable, "-c", WITHOUT + code, str(here / "runs/vocals")]
    subprocess.run(command, check=True, cwd=here, env=os.environ | {"PYTHONPATH": str(CHECKOUT)})


def test_examples_of_the_python_page_run(here: Path) -> None:
    snippets = re.findall(r"```python\n(.*?)```", (DOCS / "python.md").read_text(), flags=re.DOTALL)
    assert len(snippets) >= 2
    names: dict[str, object] = {}
    for snippet in snippets:
        exec(snippet, names)
    assert (here / "vocals.wav").is_file()
