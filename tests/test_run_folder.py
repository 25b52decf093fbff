"""The same run name goes on; other settings need another name."""

from dataclasses import replace
from pathlib import Path

import pytest

from cyclesep import settings
from cyclesep.errors import ConfigError
from cyclesep.training.config import TrainConfig
from cyclesep.training.run_folder import claim


def test_a_new_folder_keeps_its_config(tmp_path: Path) -> None:
    config = TrainConfig(seed=7)
    claim(tmp_path / "run", config)
    assert settings.load(TrainConfig, [tmp_path / "run" / "config.yaml"]) == config


def test_how_long_and_on_what_may_change(tmp_path: Path) -> None:
    claim(tmp_path, TrainConfig(steps=10))
    claim(tmp_path, TrainConfig(steps=20, num_workers=4, cpus_per_worker=2, max_failures=9))
    assert settings.load(TrainConfig, [tmp_path / "config.yaml"]).steps == 20


def test_what_changes_a_step_may_not(tmp_path: Path) -> None:
    claim(tmp_path, TrainConfig())
    other = settings.replace(TrainConfig(), {"seed": 1, "crops.batch_size": 32})
    with pytest.raises(ConfigError, match=r"other settings \(seed, crops\.batch_size\); give this one another name="):
        claim(tmp_path, other)
    assert settings.load(TrainConfig, [tmp_path / "config.yaml"]) == TrainConfig()


def test_start_from_needs_a_new_name_but_may_be_repeated(tmp_path: Path) -> None:
    claim(tmp_path / "new", TrainConfig(start_from="runs/old"))
    claim(tmp_path / "new", TrainConfig(start_from="runs/old"))
    claim(tmp_path / "new", TrainConfig())
    claim(tmp_path / "other", TrainConfig())
    with pytest.raises(ConfigError, match="another name="):
        claim(tmp_path / "other", replace(TrainConfig(), start_from="runs/old"))
