"""Training on a real Ray cluster of this machine: workers, checkpoints, going on, refusals."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from cyclesep.checkpoints.metadata import read_metadata
from cyclesep.checkpoints.run_folder import find_checkpoint
from cyclesep.checkpoints.separator import load_separator
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
    """A small TrainConfig with the given dotted changes."""

    def build(**changes: object) -> TrainConfig:
        config = TrainConfig(shards=str(tiny_shards), output_dir=str(tmp_path / "runs"))
        return settings.replace(
            config, {**SMALL, **{name.replace("__", "."): value for name, value in changes.items()}}
        )

    return build


@pytest.mark.usefixtures("ray_cluster")
def test_two_workers_leave_a_checkpoint_that_separates(
    configured: Callable[..., TrainConfig], tiny_shards: Path
) -> None:
    report = fit(configured(name="two", num_workers=2, num_dataloader_workers=1))
    assert report.progress.step == 8
    assert report.progress.manifest_digest == ShardReader(tiny_shards).manifest.digest
    assert {"validation/sdr", "validation/si_sdr", "validation/si_sdr_gain"} <= set(report.progress.metrics)

    loaded = load_separator(report.folder)
    assert (loaded.targets, loaded.sample_rate, loaded.channels) == (("vocals",), 8000, 1)
    assert loaded.module(torch.zeros(1, 1, 999)).shape == (1, 1, 1, 999)

    lines = [json.loads(line) for line in (report.folder.path / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [4, 8]
    assert list((report.folder.path / "tensorboard").glob("events.out.tfevents.*"))


@pytest.mark.usefixtures("ray_cluster")
def test_a_collapse_that_shall_end_the_run_ends_it_at_the_first_attempt(
    configured: Callable[..., TrainConfig],
) -> None:
    collapse = {"min_output_energy": 1e6, "output_patience": 6, "fail": True}
    alarm = {f"cyclegan__collapse__{name}": value for name, value in collapse.items()}
    config = configured(name="silent", num_workers=2, max_failures=3, **alarm)
    with pytest.raises(TrainingError, match="runs/silent: .* collapsed to silence"):
        fit(config)
    folder = Path(config.output_dir) / "silent"
    events = [json.loads(line) for line in (folder / "logs/rank-0.jsonl").read_text().splitlines()]
    assert [event["message"] for event in events] == ["started", "validated", "ended"]
    assert "collapsed to silence" in events[-1]["problem"]
    assert read_metadata(find_checkpoint(str(folder))).step == 4


@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"targets": ["piano"]}, "holds no stem 'piano'; it holds drums, vocals"),
        ({"num_workers": 3, "crops__batch_size": 12}, "needs 3 CPUs and the cluster has 2"),
        ({"use_gpu": True}, "needs as many GPUs and the cluster has 0"),
        ({"num_workers": 3}, "batch_size: 8 is not a multiple of 3"),
        ({"cyclegan__recipe": "supervised", "crops__pairing": "semi_supervised"}, "mixtures at every step, which"),
        ({"cyclegan__recipe": "paired", "crops__pairing": "unpaired"}, "pairing=unpaired does not give"),
        ({"num_workers": 2, "cyclegan__accumulate": 3}, "each of 2 workers has 4 of the 8 crops"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_starts(
    configured: Callable[..., TrainConfig], changes: dict[str, object], told: str
) -> None:
    config = configured(**changes)
    with pytest.raises(ConfigError, match=told):
        fit(config)
    assert not Path(config.output_dir).exists()


@pytest.mark.usefixtures("ray_cluster")
def test_terms_that_come_late_are_tried_before_anything_starts(
    configured: Callable[..., TrainConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = []

    def prepared(adversary: AdversarialLoss, *_: object, **__: object) -> None:
        steps.append(adversary)
        raise RuntimeError("no kernel image")

    monkeypatch.setattr(AdversarialLoss, "prepared", prepared)
    with pytest.raises(ConfigError, match=r"a step on crops .* fails \(no kernel image\)"):
        fit(configured(name="late", cyclegan__adversarial_from_step=6))
    assert len(steps) == 1


def test_a_name_is_no_path() -> None:
    with pytest.raises(ConfigError, match="name"):
        settings.build(TrainConfig, {"name": "../elsewhere"})
