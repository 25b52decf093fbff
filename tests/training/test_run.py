"""The same run name resumes; other settings need another name."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from cyclesep.checkpoints.metadata import METADATA_FILE
from cyclesep.checkpoints.run_folder import RunFolder
from cyclesep.config import settings
from cyclesep.errors import ConfigError
from cyclesep.storage import atomic_io
from cyclesep.storage.path import StoragePath
from cyclesep.training.config import TrainConfig
from cyclesep.training.run import check_same_audio, create_or_resume, with_default_separator


def test_a_new_run_folder_contains_its_config(tmp_path: Path) -> None:
    config = TrainConfig(seed=7)
    create_or_resume(RunFolder(StoragePath.of(tmp_path / "run")), config)
    assert settings.load(TrainConfig, [tmp_path / "run" / "config.yaml"]) == config


def test_steps_and_machines_may_change(tmp_path: Path) -> None:
    create_or_resume(RunFolder(StoragePath.of(tmp_path)), TrainConfig(steps=10))
    create_or_resume(
        RunFolder(StoragePath.of(tmp_path)), TrainConfig(steps=20, num_workers=4, cpus_per_worker=2, max_failures=9)
    )
    assert settings.load(TrainConfig, [tmp_path / "config.yaml"]).steps == 20


def test_settings_that_change_a_step_may_not_change(tmp_path: Path) -> None:
    create_or_resume(RunFolder(StoragePath.of(tmp_path)), TrainConfig())
    other = settings.replace(TrainConfig(), {"seed": 1, "crops.batch_size": 32})
    with pytest.raises(ConfigError, match=r"other settings \(seed, crops\.batch_size\); set another name="):
        create_or_resume(RunFolder(StoragePath.of(tmp_path)), other)
    assert settings.load(TrainConfig, [tmp_path / "config.yaml"]) == TrainConfig()


def test_init_from_needs_a_new_name_but_may_be_repeated(tmp_path: Path) -> None:
    create_or_resume(RunFolder(StoragePath.of(tmp_path / "new")), TrainConfig(init_from="runs/old"))
    create_or_resume(RunFolder(StoragePath.of(tmp_path / "new")), TrainConfig(init_from="runs/old"))
    create_or_resume(RunFolder(StoragePath.of(tmp_path / "new")), TrainConfig())
    create_or_resume(RunFolder(StoragePath.of(tmp_path / "other")), TrainConfig())
    with pytest.raises(ConfigError, match="set another name="):
        create_or_resume(RunFolder(StoragePath.of(tmp_path / "other")), replace(TrainConfig(), init_from="runs/old"))


def test_gradient_accumulation_steps_may_change(tmp_path: Path) -> None:
    create_or_resume(RunFolder(StoragePath.of(tmp_path)), TrainConfig())
    create_or_resume(
        RunFolder(StoragePath.of(tmp_path)),
        settings.replace(TrainConfig(), {"num_workers": 1, "method.gradient_accumulation_steps": 8}),
    )


def checkpoint_of(run: Path, step: int, digest: str) -> None:
    metadata = {"step": step, "targets": ["a"], "sample_rate": 8000, "channels": 1, "manifest_digest": digest}
    atomic_io.write_text(run / f"step-{step:08d}" / METADATA_FILE, json.dumps(metadata))


def test_a_run_does_not_resume_with_other_audio(tmp_path: Path) -> None:
    check_same_audio(RunFolder(StoragePath.of(tmp_path / "new")), "data/songs", "a" * 64)
    checkpoint_of(tmp_path, 8, "b" * 64)
    checkpoint_of(tmp_path, 16, "a" * 64)
    check_same_audio(RunFolder(StoragePath.of(tmp_path)), "data/moved", "a" * 64)
    with pytest.raises(ConfigError, match=r"data/songs contains other audio \(manifest cccccccccccc\).*init_from="):
        check_same_audio(RunFolder(StoragePath.of(tmp_path)), "data/songs", "c" * 64)


@pytest.mark.parametrize(
    ("sample_rate", "use_gpu", "name"),
    [(44100, True, "tfsep"), (44100, False, "waveunet"), (16000, True, "waveunet"), (16000, False, "waveunet")],
)
def test_default_separator_depends_on_rate_and_gpu_and_does_not_change_on_resume(
    tmp_path: Path, sample_rate: int, use_gpu: bool, name: str
) -> None:
    config = with_default_separator(
        TrainConfig(), RunFolder(StoragePath.of(tmp_path)), sample_rate=sample_rate, use_gpu=use_gpu
    )
    assert config.method.separator.name == name
    create_or_resume(RunFolder(StoragePath.of(tmp_path)), config)
    assert (
        with_default_separator(
            TrainConfig(), RunFolder(StoragePath.of(tmp_path)), sample_rate=sample_rate, use_gpu=not use_gpu
        )
        == config
    )
    notebook = settings.replace(TrainConfig(), {"method.preset": "notebook"})
    assert (
        with_default_separator(notebook, RunFolder(StoragePath.of(tmp_path)), sample_rate=44100, use_gpu=True)
        == notebook
    )
