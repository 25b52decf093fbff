"""The same run name goes on; other settings need another name."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from cyclesep.checkpoints.metadata import METADATA_FILE
from cyclesep.config import settings
from cyclesep.errors import ConfigError
from cyclesep.storage import atomic_io
from cyclesep.storage.path import StoragePath
from cyclesep.training.config import TrainConfig
from cyclesep.training.run_folder import create_or_resume, refuse_other_audio, with_separator


def test_a_new_folder_keeps_its_config(tmp_path: Path) -> None:
    config = TrainConfig(seed=7)
    create_or_resume(StoragePath.of(tmp_path / "run"), config)
    assert settings.load(TrainConfig, [tmp_path / "run" / "config.yaml"]) == config


def test_how_long_and_on_what_may_change(tmp_path: Path) -> None:
    create_or_resume(StoragePath.of(tmp_path), TrainConfig(steps=10))
    create_or_resume(StoragePath.of(tmp_path), TrainConfig(steps=20, num_workers=4, cpus_per_worker=2, max_failures=9))
    assert settings.load(TrainConfig, [tmp_path / "config.yaml"]).steps == 20


def test_what_changes_a_step_may_not(tmp_path: Path) -> None:
    create_or_resume(StoragePath.of(tmp_path), TrainConfig())
    other = settings.replace(TrainConfig(), {"seed": 1, "crops.batch_size": 32})
    with pytest.raises(ConfigError, match=r"other settings \(seed, crops\.batch_size\); give this one another name="):
        create_or_resume(StoragePath.of(tmp_path), other)
    assert settings.load(TrainConfig, [tmp_path / "config.yaml"]) == TrainConfig()


def test_start_from_needs_a_new_name_but_may_be_repeated(tmp_path: Path) -> None:
    create_or_resume(StoragePath.of(tmp_path / "new"), TrainConfig(init_from="runs/old"))
    create_or_resume(StoragePath.of(tmp_path / "new"), TrainConfig(init_from="runs/old"))
    create_or_resume(StoragePath.of(tmp_path / "new"), TrainConfig())
    create_or_resume(StoragePath.of(tmp_path / "other"), TrainConfig())
    with pytest.raises(ConfigError, match="another name="):
        create_or_resume(StoragePath.of(tmp_path / "other"), replace(TrainConfig(), init_from="runs/old"))


def test_the_number_of_parts_of_a_batch_may_change(tmp_path: Path) -> None:
    create_or_resume(StoragePath.of(tmp_path), TrainConfig())
    create_or_resume(
        StoragePath.of(tmp_path),
        settings.replace(TrainConfig(), {"num_workers": 1, "method.gradient_accumulation_steps": 8}),
    )


def checkpoint_of(run: Path, step: int, digest: str) -> None:
    progress = {"step": step, "targets": ["a"], "sample_rate": 8000, "channels": 1, "manifest_digest": digest}
    atomic_io.write_text(run / f"step-{step:08d}" / METADATA_FILE, json.dumps(progress))


def test_a_run_does_not_go_on_with_other_audio(tmp_path: Path) -> None:
    refuse_other_audio(StoragePath.of(tmp_path / "new"), "data/songs", "a" * 64)
    checkpoint_of(tmp_path, 8, "b" * 64)
    checkpoint_of(tmp_path, 16, "a" * 64)
    refuse_other_audio(StoragePath.of(tmp_path), "data/moved", "a" * 64)
    with pytest.raises(ConfigError, match=r"data/songs holds other audio \(manifest cccccccccccc\).*init_from="):
        refuse_other_audio(StoragePath.of(tmp_path), "data/songs", "c" * 64)


@pytest.mark.parametrize(
    ("sample_rate", "use_gpu", "name"),
    [(44100, True, "tfsep"), (44100, False, "waveunet"), (16000, True, "waveunet"), (16000, False, "waveunet")],
)
def test_the_separator_that_nobody_named_is_for_quality_on_gpus_and_stays_what_it_was_elsewhere(
    tmp_path: Path, sample_rate: int, use_gpu: bool, name: str
) -> None:
    config = with_separator(TrainConfig(), StoragePath.of(tmp_path), sample_rate=sample_rate, use_gpu=use_gpu)
    assert config.method.separator.name == name
    create_or_resume(StoragePath.of(tmp_path), config)
    assert (
        with_separator(TrainConfig(), StoragePath.of(tmp_path), sample_rate=sample_rate, use_gpu=not use_gpu) == config
    )
    seed = settings.replace(TrainConfig(), {"method.preset": "seed"})
    assert with_separator(seed, StoragePath.of(tmp_path), sample_rate=44100, use_gpu=True) == seed
