"""Validation of search spaces and search settings before a search starts."""

from pathlib import Path
from typing import Any

import pytest

from cyclesep.config import settings
from cyclesep.config.overrides import parse_override
from cyclesep.errors import ConfigError
from cyclesep.training.config import TrainConfig
from cyclesep.tuning.config import TuneConfig
from cyclesep.tuning.schedulers import make_domain
from cyclesep.tuning.space import Parameter, grid_size, read_space
from cyclesep.tuning.validation_set import read_validation_baseline

BASE = TrainConfig()
LR = "method.optimizer.lr_separator"


def space_of(text: str) -> Any:
    """Return the space of a YAML file with this `space`."""
    return read_space(settings.build(TuneConfig, {"space": parse_override(f"space={text}")[1]}).space, BASE)


def test_nested_and_dotted_names_are_equivalent(tmp_path: Path) -> None:
    file = tmp_path / "tune.yaml"
    file.write_text(
        "space:\n"
        f"  {LR}: {{loguniform: [1.0e-4, 1.0e-2]}}\n"
        "  method.loss_weights: {cycle: {uniform: [0, 10]}, identity: {choice: [0, 1]}}\n"
        "  method: {gradient_accumulation_steps: {randint: [1, 3]}}\n"
    )
    space = read_space(settings.load(TuneConfig, [file]).space, BASE)
    again = tmp_path / "again.yaml"
    again.write_text(settings.to_yaml(settings.load(TuneConfig, [file])))
    assert settings.load(TuneConfig, [again]) == settings.load(TuneConfig, [file])
    assert {each.name: (each.kind, each.values) for each in space.parameters} == {
        LR: ("loguniform", (1e-4, 1e-2)),
        "method.loss_weights.cycle": ("uniform", (0, 10)),
        "method.loss_weights.identity": ("choice", (0, 1)),
        "method.gradient_accumulation_steps": ("randint", (1, 3)),
    }


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ("{method.optimizer.lr_seperator: {uniform: [1, 2]}}", f"unknown setting; did you mean {LR}?"),
        ("{optimizer.ema_decay: {uniform: [0, 0.5]}}", "did you mean method.optimizer.ema_decay?"),
        ("{method.loss_weights.cycel: {uniform: [0, 1]}}", "did you mean method.loss_weights.cycle?"),
        (f"{{{LR}: {{loguniforn: [1, 2]}}}}", "unknown distribution 'loguniforn'; did you mean loguniform?"),
        (f"{{{LR}: 0.1}}", "invalid distribution 0.1; write"),
        (
            f"{{{LR}: {{uniform: [1, 2], choice: [1, 2]}}}}",
            "invalid distribution {'uniform': [1, 2], 'choice': [1, 2]}; write",
        ),
        (f"{{{LR}: {{uniform: 3}}}}", "3 is not a list"),
        (f"{{{LR}: {{uniform: [2, 1]}}}}", "is empty; put the lower bound first"),
        (f"{{{LR}: {{loguniform: [0, 1]}}}}", "the lower bound 0 must be positive"),
        (f"{{{LR}: {{uniform: [-1, 1]}}}}", "invalid value -1"),
        ("{method.separator.channels: {choice: [16, 20]}}", "invalid value 20"),
        ("{method.separator.depth: {uniform: [1, 4]}}", "fractional part"),
        ("{method.gradient_accumulation_steps: {randint: [1, 2.5]}}", "[1, 2.5] must be integers"),
        ("{method.separator.name: {choice: [tfsep]}}", "choice has 1 values"),
        ("{seed: {choice: [1, 2]}}", "cannot be searched; finalists are trained with several seeds"),
        ("{}", "empty; list settings"),
    ],
)
def test_invalid_space_raises_one_line_with_remedy(space: str, message: str) -> None:
    with pytest.raises(ConfigError, match="^space") as raised:
        space_of(space)
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


def test_all_problems_are_reported_at_once() -> None:
    with pytest.raises(ConfigError) as raised:
        space_of(f"{{{LR}: {{uniform: [2, 1]}}, cyclegan.clip_norn: {{uniform: [1, 2]}}}}")
    assert "put the lower bound first" in str(raised.value)
    assert "did you mean method.optimizer.clip_norm?" in str(raised.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scheduler": "pbt", "search": "optuna"}, "set search=random"),
        ({"objectives": ["sdr", "seconds"]}, "set search=optuna"),
        ({"objectives": ["seconds"]}, "put sdr or si_sdr before seconds"),
        ({"gpus_per_trial": 0.5, "train": {"num_workers": 2}}, "cannot share a GPU"),
    ],
)
def test_incompatible_search_settings_raise(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        settings.build(TuneConfig, changes)


def test_list_choice_is_sampled_as_text_and_set_as_list() -> None:
    space = space_of("{method.optimizer.betas_separator: {choice: [[0.5, 0.9], [0.8, 0.99]]}}")
    (parameter,) = space.parameters
    sample = {parameter.name: parameter.to_plain(parameter.values[1])}
    assert sample == {parameter.name: "[0.8, 0.99]"}
    config = settings.replace(BASE, space.changes(sample | {"seed": 3}))
    assert config.method.optimizer.betas_separator == (0.8, 0.99)
    assert config.seed == BASE.seed


def test_randint_includes_both_bounds() -> None:
    domain = make_domain(Parameter(name="x", kind="randint", values=(1, 3)))
    assert {domain.sample() for _ in range(200)} == {1, 2, 3}


def test_grid_size_is_product_of_choices() -> None:
    space = space_of("{method.separator.channels: {choice: [8, 16, 24]}, method.separator.depth: {choice: [1, 2]}}")
    assert grid_size(space) == 6
    with pytest.raises(ConfigError, match="set search=random"):
        grid_size(space_of(f"{{{LR}: {{uniform: [1, 2]}}}}"))


def test_validation_crops_are_the_same_for_all_trials(tiny_shards: Path) -> None:
    base = settings.replace(BASE, {"shards": str(tiny_shards), "num_validation_crops": 4, "crops.crop_seconds": 0.5})
    augmented = read_space({"crops.augment.gain_db": {"uniform": [0, 12]}}, base)
    baseline = read_validation_baseline(base, augmented)
    assert baseline == read_validation_baseline(base, augmented)
    assert baseline.num_crops == 4
    # Vocals and drums have about the same level.
    assert -6 < baseline.mixture_sdr < 6
    with pytest.raises(ConfigError, match="changes the validation crops, so trials cannot be compared"):
        read_validation_baseline(base, read_space({"crops.crop_seconds": {"choice": [0.5, 0.25]}}, base))


def test_missing_target_raises(tiny_shards: Path) -> None:
    base = settings.replace(BASE, {"shards": str(tiny_shards), "targets": ["piano"]})
    with pytest.raises(ConfigError, match="no stem 'piano'; its stems are drums, vocals"):
        read_validation_baseline(base, read_space({LR: {"uniform": [1, 2]}}, base))
