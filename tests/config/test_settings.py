"""Settings: YAML files, overrides, validation, schema."""

from dataclasses import MISSING, dataclass, field
from pathlib import Path
from typing import Literal

import pytest
from pydantic import PositiveInt

from cyclesep.config import settings
from cyclesep.config.schema import list_settings
from cyclesep.config.suggestions import did_you_mean
from cyclesep.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Optimizer:
    lr: float = 1e-3
    """Learning rate."""
    betas: tuple[float, float] = (0.5, 0.9)
    """Decay of the moments."""


@dataclass(frozen=True, kw_only=True)
class Run:
    shards: str
    """Folder of shards."""
    steps: PositiveInt = 10
    """Steps of the run,
    on two lines."""
    recipe: Literal["remix", "paired"] = "remix"
    """Training recipe."""
    optimizer: Optimizer = Optimizer()
    weights: dict[str, float] = field(default_factory=dict)
    """Terms by name."""
    init_from: str | None = None
    """Where to start."""


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_overrides_precede_files_and_files_precede_defaults(tmp_path: Path) -> None:
    file = write(tmp_path / "run.yaml", "shards: data\nsteps: 20\noptimizer: {lr: 0.5}\n")
    config = settings.load(Run, [file], ["steps=30", "optimizer.betas=[0.1, 0.2]"])
    assert config == Run(shards="data", steps=30, optimizer=Optimizer(lr=0.5, betas=(0.1, 0.2)))


def test_later_files_take_precedence_and_dotted_names_are_nested(tmp_path: Path) -> None:
    first = write(tmp_path / "a.yaml", "shards: data\noptimizer.lr: 0.5\n")
    second = write(tmp_path / "b.yaml", "optimizer: {lr: 0.25}\n")
    assert settings.load(Run, [first, second]).optimizer.lr == 0.25


def test_scientific_notation_is_a_number() -> None:
    assert settings.load(Run, [], ["shards=x", "optimizer.lr=3e-4"]).optimizer.lr == 3e-4


def test_dictionary_settings_accept_dotted_names() -> None:
    assert settings.load(Run, [], ["shards=x", "weights.cycle=10"]).weights == {"cycle": 10.0}


def test_one_error_lists_all_problems() -> None:
    with pytest.raises(ConfigError) as error:
        settings.build(Run, {"steps": -1, "optimizer": {"lr": "fast"}, "recipe": "mix"})
    message = str(error.value)
    assert "missing required argument: shards" in message
    assert "steps: invalid value -1" in message
    assert "optimizer.lr: invalid value 'fast'" in message
    assert "recipe: invalid value 'mix'" in message


def test_partial_check_accepts_missing_settings_only() -> None:
    settings.check_partial(Run, {"steps": 3})
    with pytest.raises(ConfigError, match="^steps: invalid value -1; input should be greater than 0$"):
        settings.check_partial(Run, {"steps": -1})


@pytest.mark.parametrize(
    ("typo", "meant"),
    [("step", "steps"), ("optimizer.lrr", "optimizer.lr"), ("lr", "optimizer.lr"), ("shard", "shards")],
)
def test_error_suggests_the_most_similar_setting(typo: str, meant: str) -> None:
    with pytest.raises(ConfigError, match=f"{typo}: unknown setting; did you mean {meant}"):
        settings.load(Run, [], ["shards=x", f"{typo}=1"])


def test_error_without_a_similar_name_lists_known_names() -> None:
    assert did_you_mean("tran", ["train", "tune"]) == "did you mean train?"
    assert did_you_mean("xyz", ["train", "tune"]) == "known: train, tune"


@pytest.mark.parametrize(
    ("text", "message"),
    [("- a\n- b\n", "contains list"), ("a: [1", "not valid YAML"), ("shards: x\nnonsense: 1\n", "nonsense")],
)
def test_invalid_file_is_an_error(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        settings.load(Run, [write(tmp_path / "bad.yaml", text)])


def test_missing_file_and_argument_without_value_are_errors(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="check the path"):
        settings.load(Run, [tmp_path / "absent.yaml"])
    with pytest.raises(ConfigError, match="name=value"):
        settings.load(Run, [], ["fast"])


def test_yaml_round_trip(tmp_path: Path) -> None:
    config = Run(shards="data", weights={"cycle": 2.5}, optimizer=Optimizer(betas=(0.25, 0.75)))
    assert settings.load(Run, [write(tmp_path / "whole.yaml", settings.to_yaml(config))]) == config


def test_replace_does_not_change_the_original() -> None:
    config = Run(shards="data")
    changed = settings.replace(config, {"optimizer.lr": 0.5, "steps": 3})
    assert (changed.optimizer.lr, changed.steps, changed.shards) == (0.5, 3, "data")
    assert config == Run(shards="data")


def test_schema_lists_every_setting_with_its_description() -> None:
    rows = {row.name: row for row in list_settings(Run)}
    assert list(rows) == ["shards", "steps", "recipe", "optimizer.lr", "optimizer.betas", "weights", "init_from"]
    assert rows["steps"].description == "Steps of the run, on two lines."
    assert rows["recipe"].type == "remix | paired"
    assert rows["optimizer.betas"].type == "tuple[float, float]"
    assert rows["init_from"].type == "str | none"
    assert (rows["shards"].default, rows["steps"].default, rows["weights"].default) == (MISSING, 10, {})


def test_differences_are_dotted_names_including_keys_that_one_config_lacks() -> None:
    before = Run(shards="data", weights={"cycle": 2.5})
    assert settings.differences(before, before) == []
    now = Run(shards="data", steps=30, weights={"swap": 1.0}, optimizer=Optimizer(lr=0.5))
    assert sorted(settings.differences(before, now)) == ["optimizer.lr", "steps", "weights.cycle", "weights.swap"]
