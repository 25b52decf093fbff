"""Config: YAML, words, checks, the reference."""

from dataclasses import MISSING, dataclass, field
from pathlib import Path
from typing import Literal

import pytest
from pydantic import PositiveInt

from cyclesep.config import settings
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
    """StoragePath of shards."""
    steps: PositiveInt = 10
    """Steps of the run,
    on two lines."""
    recipe: Literal["remix", "paired"] = "remix"
    """Which step."""
    optimizer: Optimizer = Optimizer()
    weights: dict[str, float] = field(default_factory=dict)
    """Terms by name."""
    init_from: str | None = None
    """Where to start."""


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_words_win_over_files_and_files_over_defaults(tmp_path: Path) -> None:
    file = write(tmp_path / "run.yaml", "shards: data\nsteps: 20\noptimizer: {lr: 0.5}\n")
    config = settings.load(Run, [file], ["steps=30", "optimizer.betas=[0.1, 0.2]"])
    assert config == Run(shards="data", steps=30, optimizer=Optimizer(lr=0.5, betas=(0.1, 0.2)))


def test_later_files_win_and_dotted_names_in_files_are_nested(tmp_path: Path) -> None:
    first = write(tmp_path / "a.yaml", "shards: data\noptimizer.lr: 0.5\n")
    second = write(tmp_path / "b.yaml", "optimizer: {lr: 0.25}\n")
    assert settings.load(Run, [first, second]).optimizer.lr == 0.25


def test_scientific_notation_is_a_number() -> None:
    assert settings.load(Run, [], ["shards=x", "optimizer.lr=3e-4"]).optimizer.lr == 3e-4


def test_free_dictionaries_take_dotted_names() -> None:
    assert settings.load(Run, [], ["shards=x", "weights.cycle=10"]).weights == {"cycle": 10.0}


def test_every_problem_is_told_at_once() -> None:
    with pytest.raises(ConfigError) as told:
        settings.build(Run, {"steps": -1, "optimizer": {"lr": "fast"}, "recipe": "mix"})
    message = str(told.value)
    assert all(part in message for part in ("shards", "steps", "-1", "optimizer.lr", "'fast'", "recipe", "'mix'"))


@pytest.mark.parametrize(
    ("typo", "meant"),
    [("step", "steps"), ("optimizer.lrr", "optimizer.lr"), ("lr", "optimizer.lr"), ("shard", "shards")],
)
def test_a_typo_is_answered_with_the_nearest_name(typo: str, meant: str) -> None:
    with pytest.raises(ConfigError, match=f"did you mean {meant}"):
        settings.load(Run, [], ["shards=x", f"{typo}=1"])


@pytest.mark.parametrize(
    ("text", "told"),
    [("- a\n- b\n", "holds list"), ("a: [1", "not valid YAML"), ("shards: x\nnonsense: 1\n", "nonsense")],
)
def test_a_bad_file_is_refused(tmp_path: Path, text: str, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        settings.load(Run, [write(tmp_path / "bad.yaml", text)])


def test_a_missing_file_and_a_bare_word_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="check the path"):
        settings.load(Run, [tmp_path / "absent.yaml"])
    with pytest.raises(ConfigError, match="name=value"):
        settings.load(Run, [], ["fast"])


def test_yaml_text_gives_back_the_config(tmp_path: Path) -> None:
    config = Run(shards="data", weights={"cycle": 2.5}, optimizer=Optimizer(betas=(0.25, 0.75)))
    assert settings.load(Run, [write(tmp_path / "whole.yaml", settings.to_yaml(config))]) == config


def test_replace_leaves_the_original_alone() -> None:
    config = Run(shards="data")
    changed = settings.replace(config, {"optimizer.lr": 0.5, "steps": 3})
    assert (changed.optimizer.lr, changed.steps, changed.shards) == (0.5, 3, "data")
    assert config == Run(shards="data")


def test_the_reference_has_every_setting_with_its_own_sentence() -> None:
    rows = {row.name: row for row in settings.reference(Run)}
    assert list(rows) == ["shards", "steps", "recipe", "optimizer.lr", "optimizer.betas", "weights", "init_from"]
    assert rows["steps"].sentence == "Steps of the run, on two lines."
    assert rows["recipe"].type == "remix | paired"
    assert rows["optimizer.betas"].type == "tuple[float, float]"
    assert rows["init_from"].type == "str | none"
    assert (rows["shards"].default, rows["steps"].default, rows["weights"].default) == (MISSING, 10, {})
