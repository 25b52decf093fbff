"""Training on a local Ray cluster: workers, checkpoints, errors before the start."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from cyclesep.checkpoints.loaded_separator import load_separator
from cyclesep.checkpoints.metadata import read_metadata
from cyclesep.checkpoints.run_folder import find_checkpoint
from cyclesep.config import settings
from cyclesep.cyclegan.adversarial import AdversarialLoss
from cyclesep.data.shards.reading import ShardReader
from cyclesep.errors import ConfigError, TrainingError
from cyclesep.training.config import TrainConfig
from cyclesep.training.fit import fit

SMALL = {
    "crops.crop_seconds": 0.5,
    "crops.batch_size": 8,
    "method.separator.channels": 8,
    "method.separator.depth": 2,
    "method.optimizer.schedule": "constant",
    "num_validation_crops": 4,
    "num_dataloader_workers": 0,
    "validate_every": 4,
    "steps": 8,
}


@pytest.fixture
def configured(tiny_shards: Path, tmp_path: Path) -> Callable[..., TrainConfig]:
    """Return small TrainConfigs with changes (double underscores stand for dots)."""

    def build(**changes: object) -> TrainConfig:
        config = TrainConfig(shards=str(tiny_shards), output_dir=str(tmp_path / "runs"))
        return settings.replace(
            config, {**SMALL, **{name.replace("__", "."): value for name, value in changes.items()}}
        )

    return build


@pytest.mark.usefixtures("ray_cluster")
def test_two_workers_write_a_checkpoint_that_separates(
    configured: Callable[..., TrainConfig], tiny_shards: Path
) -> None:
    result = fit(configured(name="two", num_workers=2, num_dataloader_workers=1))
    assert result.metadata.step == 8
    assert result.metadata.manifest_digest == ShardReader(tiny_shards).manifest.digest
    assert {"validation/sdr", "validation/si_sdr", "validation/si_sdri"} <= set(result.metadata.metrics)

    loaded = load_separator(result.folder)
    assert (loaded.targets, loaded.sample_rate, loaded.channels) == (("vocals",), 8000, 1)
    assert loaded.module(torch.zeros(1, 1, 999)).shape == (1, 1, 1, 999)

    lines = [json.loads(line) for line in (result.folder.path / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [4, 8]
    assert list((result.folder.path / "tensorboard").glob("events.out.tfevents.*"))


@pytest.mark.usefixtures("ray_cluster")
def test_collapse_with_fail_ends_the_run_without_retries(
    configured: Callable[..., TrainConfig],
) -> None:
    collapse = {"min_output_energy": 1e6, "output_patience": 6, "fail": True}
    collapse_settings = {f"method__collapse__{name}": value for name, value in collapse.items()}
    config = configured(name="silent", num_workers=2, max_failures=3, **collapse_settings)
    with pytest.raises(TrainingError, match="runs/silent: .* collapsed to silence"):
        fit(config)
    folder = Path(config.output_dir) / "silent"
    events = [json.loads(line) for line in (folder / "logs/rank-0.jsonl").read_text().splitlines()]
    assert [event["message"] for event in events] == ["started", "validated", "ended"]
    assert "collapsed to silence" in events[-1]["problem"]
    assert read_metadata(find_checkpoint(str(folder))).step == 4


@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"targets": ["piano"]}, "has no stem 'piano'; it has drums, vocals"),
        ({"num_workers": 3, "crops__batch_size": 12}, "needs 3 CPUs, the cluster has 2"),
        ({"use_gpu": True}, "needs as many GPUs, the cluster has 0"),
        ({"num_workers": 3}, "batch_size: 8 is not a multiple of 3"),
        ({"method__recipe": "supervised", "crops__pairing": "semi_supervised"}, "mixtures at every step, which"),
        ({"method__recipe": "paired", "crops__pairing": "unpaired"}, "pairing=unpaired does not provide"),
        (
            {"num_workers": 2, "method__gradient_accumulation_steps": 3},
            "does not divide the 4 crops that each of 2 workers has",
        ),
        (
            {"num_workers": 2, "crops__batch_size": 2, "method__recipe": "remix", "crops__pairing": "paired"},
            "crops.batch_size=2: gives each step of a worker one crop, but method.recipe=remix exchanges targets",
        ),
    ],
)
def test_invalid_settings_raise_before_anything_starts(
    configured: Callable[..., TrainConfig], changes: dict[str, object], message: str
) -> None:
    config = configured(**changes)
    with pytest.raises(ConfigError, match=message):
        fit(config)
    assert not Path(config.output_dir).exists()


@pytest.mark.usefixtures("ray_cluster")
def test_terms_with_a_start_step_are_tested_before_anything_starts(
    configured: Callable[..., TrainConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = []

    def fail(adversarial_loss: AdversarialLoss, *_: object) -> None:
        steps.append(adversarial_loss)
        raise RuntimeError("no kernel image")

    monkeypatch.setattr(AdversarialLoss, "generator_terms", fail)
    with pytest.raises(ConfigError, match=r"a step on crops .* failed \(no kernel image\)"):
        fit(configured(name="late", method__adversarial_start_step=6))
    assert len(steps) == 1


def test_a_name_must_not_be_a_path() -> None:
    with pytest.raises(ConfigError, match="name"):
        settings.build(TrainConfig, {"name": "../elsewhere"})
