"""Saving and loading checkpoints, and errors for damaged ones."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from cyclesep.checkpoints.loaded_separator import load_separator
from cyclesep.checkpoints.run_folder import find_run
from cyclesep.checkpoints.save_restore import load_training_state, save_checkpoint
from cyclesep.config import settings
from cyclesep.cyclegan.model import CycleGAN
from cyclesep.data.crops.dataset import Batch
from cyclesep.errors import CheckpointError
from cyclesep.training.config import TrainConfig
from tests.support.checkpoint_metadata import METADATA


@pytest.fixture
def config() -> TrainConfig:
    return settings.replace(
        TrainConfig(targets=("vocals", "drums")),
        {"method.separator.channels": 8, "method.separator.depth": 2, "method.recipe": "supervised"},
    )


def make_model(config: TrainConfig, seed: int) -> CycleGAN:
    """A model after one step, so that its weights differ from their moving average."""
    model = CycleGAN(config.method, targets=METADATA.targets, channels=1, sample_rate=8000, seed=seed)
    target = torch.randn(2, 2, 1, 2000, generator=torch.Generator().manual_seed(seed))
    model.step(Batch(mixture=target.sum(1), target=target, paired=True))
    return model


@pytest.fixture
def saved(tmp_path: Path, config: TrainConfig) -> Path:
    save_checkpoint(tmp_path / "checkpoint", make_model(config, seed=1), config, METADATA)
    return tmp_path / "checkpoint"


def test_load_separator_returns_the_averaged_separator(saved: Path, config: TrainConfig) -> None:
    loaded = load_separator(saved)
    assert (loaded.targets, loaded.sample_rate, loaded.channels, loaded.path) == (("vocals", "drums"), 8000, 1, saved)
    mixture = torch.randn(1, 1, 1234)
    assert torch.equal(loaded.module(mixture), make_model(config, seed=1).ema_separator(mixture))
    assert not loaded.module.training


def test_training_state_is_restored(saved: Path, config: TrainConfig) -> None:
    model = make_model(config, seed=2)
    assert load_training_state(saved, model) == METADATA
    before, after = make_model(config, seed=1).state_dict(), model.state_dict()
    assert after["step"] == 1
    for name, tensor in before["networks"]["separator"].items():
        assert torch.equal(tensor, after["networks"]["separator"][name])


def test_equal_weights_have_equal_digests(saved: Path, tmp_path: Path, config: TrainConfig) -> None:
    save_checkpoint(tmp_path / "again", make_model(config, seed=1), config, replace(METADATA, commit="other"))
    save_checkpoint(tmp_path / "other", make_model(config, seed=2), config, METADATA)
    first, again, other = (load_separator(path) for path in (saved, tmp_path / "again", tmp_path / "other"))
    assert first.digest == again.digest != other.digest


def test_run_folder_resolves_to_its_best_checkpoint(saved: Path) -> None:
    find_run(saved.parent).write_result(best="checkpoint", last="elsewhere")
    assert load_separator(saved.parent).path == saved


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("separator.safetensors", b"", "separator.safetensors: missing or damaged"),
        ("separator.safetensors", None, "separator.safetensors: missing or damaged"),
        ("config.yaml", None, "config.yaml: missing or damaged"),
        ("config.yaml", b"method: {separator: {breadth: 7}}", "another version of cyclesep"),
        ("metadata.json", b"{", "metadata.json: missing or damaged"),
        ("metadata.json", b'{"step": 1}', "another version of cyclesep"),
    ],
)
def test_errors_for_damaged_files_name_the_file(saved: Path, name: str, content: bytes | None, message: str) -> None:
    (saved / name).unlink() if content is None else (saved / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=message) as raised:
        load_separator(saved)
    assert "\n" not in str(raised.value)


def test_weights_of_another_network_are_an_error(saved: Path, config: TrainConfig) -> None:
    wider = settings.replace(config, {"method.separator.channels": 16})
    (saved / "config.yaml").write_text(settings.to_yaml(wider))
    with pytest.raises(CheckpointError, match="does not fit the network"):
        load_separator(saved)
    with pytest.raises(CheckpointError, match="use the config"):
        load_training_state(saved, make_model(wider, seed=1))


def test_folder_without_a_checkpoint_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no checkpoint or finished run found"):
        load_separator(tmp_path)


def test_checkpoint_contains_no_code(saved: Path) -> None:
    torch.load(saved / "training_state.pt", weights_only=True)
    assert json.loads((saved / "metadata.json").read_text())["targets"] == ["vocals", "drums"]
