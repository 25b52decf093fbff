"""Exported separators give what the checkpoint gives, run by another program."""

import hashlib
import json
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import stempeg
import torch

from cyclesep import audio, checkpoints, settings
from cyclesep.audio import Samples
from cyclesep.commandline import run_job
from cyclesep.cyclegan import CycleGAN
from cyclesep.errors import ConfigError
from cyclesep.export import ExportConfig, ModelCard, export
from cyclesep.training import TrainConfig

RATE = 8000
NETWORKS = {
    "waveunet": {"name": "waveunet", "width": 8, "depth": 2},
    "seed": {"name": "seed", "width": 8, "depth": 1},
    "tfsep": {"name": "tfsep", "width": 8, "depth": 1},
}


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A checkpoint of each network: two targets, stereo, weights far from zero."""
    folders = {}
    for name, separator in NETWORKS.items():
        config = settings.replace(
            TrainConfig(), {f"cyclegan.separator.{key}": value for key, value in separator.items()}
        )
        model = CycleGAN(config.cyclegan, targets=("vocals", "drums"), channels=2, sample_rate=RATE, seed=1)
        progress = checkpoints.Progress(step=0, targets=("vocals", "drums"), sample_rate=RATE, channels=2)
        folders[name] = tmp_path_factory.mktemp(name)
        checkpoints.save(folders[name], model, config, progress)
    return folders


def exported(checkpoint: Path, output: Path) -> ModelCard:
    return export(
        ExportConfig(checkpoint=str(checkpoint), output=str(output), window_seconds=0.5, context_seconds=0.05)
    )


def windows() -> Samples:
    """Three windows of noise and one of real music, at levels far apart: `(4, 2, 4000)`."""
    rng = np.random.default_rng(0)
    random = rng.normal(0, 1, (3, 2, 4000)) * np.array([1.0, 0.1, 0.001])[:, None, None]
    music = audio.resample(audio.with_channels(audio.read(stempeg.example_stem_path()), 2), RATE).samples
    return np.concatenate([random, music[None, :, 8000:12_000]]).astype(np.float32)


def reference(checkpoint: Path) -> Samples:
    with torch.inference_mode():
        estimates: torch.Tensor = checkpoints.load_separator(checkpoint).module(torch.from_numpy(windows()))
    return estimates.numpy()


@pytest.mark.parametrize("network", ["waveunet", "seed"])
def test_onnx_runtime_gives_the_same_estimates(saved: dict[str, Path], tmp_path: Path, network: str) -> None:
    output = tmp_path / "model.onnx"
    card = exported(saved[network], output)
    session = onnxruntime.InferenceSession(output, providers=["CPUExecutionProvider"])
    (estimates,) = session.run([card.output_name], {card.input_name: windows()})
    expected = reference(saved[network])
    assert estimates.shape == expected.shape == (4, 2, 2, 4000)
    assert np.abs(expected).max() > 1e-3
    np.testing.assert_allclose(estimates, expected, atol=1e-4)


@pytest.mark.parametrize("network", NETWORKS)
def test_the_program_of_torch_export_gives_the_same_estimates(
    saved: dict[str, Path], tmp_path: Path, network: str
) -> None:
    output = tmp_path / "model.pt2"
    exported(saved[network], output)
    with torch.inference_mode():
        estimates = torch.export.load(output).module()(torch.from_numpy(windows())).numpy()
    np.testing.assert_allclose(estimates, reference(saved[network]), atol=1e-4)


def test_the_json_beside_it_says_all_that_using_it_needs(saved: dict[str, Path], tmp_path: Path) -> None:
    output = tmp_path / "model.pt2"
    with pytest.raises(SystemExit) as ended:
        run_job("export", [str(saved["seed"]), f"output={output}", "window_seconds=1", "context_seconds=0.1"])
    assert ended.value.code == 0
    card = json.loads((tmp_path / "model.pt2.json").read_text())
    assert card["sha256"] == hashlib.sha256(output.read_bytes()).hexdigest()
    assert (card["sample_rate"], card["channels"], card["targets"]) == (8000, 2, ["vocals", "drums"])
    assert (card["window_samples"], card["context_samples"], card["crossfade_samples"]) == (8000, 800, 800)
    assert card["hop_samples"] == 8000 - 2 * 800 - 800
    assert card["input_shape"] == ["batch", 2, 8000]
    assert card["output_shape"] == ["batch", 2, 2, 8000]
    assert card["checkpoint_digest"] == checkpoints.load_separator(saved["seed"]).digest


def test_a_network_that_onnx_cannot_hold_is_refused_and_another_format_named(
    saved: dict[str, Path], tmp_path: Path
) -> None:
    output = tmp_path / "model.onnx"
    with pytest.raises(ConfigError, match=r"complex numbers.*model\.pt2 for torch\.export"):
        exported(saved["tfsep"], output)
    assert not list(tmp_path.iterdir())


def test_without_the_onnx_packages_it_is_told_which_one_is_missing(
    saved: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def without_onnxscript(*_: object, **__: object) -> None:
        raise ModuleNotFoundError("No module named 'onnxscript'", name="onnxscript")

    monkeypatch.setattr(torch.onnx, "export", without_onnxscript)
    with pytest.raises(ConfigError, match="onnxscript is not here; pip install onnx onnxscript"):
        exported(saved["seed"], tmp_path / "m.onnx")


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"output": "model.bin"}, r"ends neither in \.onnx nor in \.pt2"),
        ({"window_seconds": 1.0}, "leaves nothing between"),
    ],
)
def test_impossible_exports_are_refused(saved: dict[str, Path], changes: dict[str, object], told: str) -> None:
    values = {"checkpoint": str(saved["seed"]), "output": "m.pt2", **changes}
    with pytest.raises(ConfigError, match=told):
        export(settings.build(ExportConfig, values))
