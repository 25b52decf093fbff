"""Exported separators have the same output as the checkpoint."""

import dataclasses
import functools
import hashlib
import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import soundfile
import stempeg
import torch
from torch import nn

from cyclesep.audio import audio_io
from cyclesep.audio.audio_io import Samples
from cyclesep.audio.audio_reader import read
from cyclesep.checkpoints.loaded_separator import load_separator
from cyclesep.checkpoints.metadata import CheckpointMetadata
from cyclesep.checkpoints.save_restore import save_checkpoint
from cyclesep.cli.main import run_job
from cyclesep.config import settings
from cyclesep.cyclegan.model import CycleGAN
from cyclesep.errors import ConfigError
from cyclesep.inference.chunked_inference import separate_blocks
from cyclesep.inference.config import ExportConfig, SeparationConfig
from cyclesep.inference.export import ExportCard, export
from cyclesep.training.config import TrainConfig
from tests.support.paths import CHECKOUT

DOCS = CHECKOUT / "docs"
RATE = 8000
NETWORKS: dict[str, dict[str, object]] = {
    "waveunet": {"name": "waveunet", "channels": 8, "depth": 2},
    "wavegan": {"name": "wavegan", "channels": 8, "depth": 1},
    "tfsep": {"name": "tfsep", "channels": 8, "depth": 1, "unet_levels": 1},
    "tfsep without levels": {"name": "tfsep", "channels": 8, "depth": 1, "unet_levels": 0},
}


def save(folder: Path, separator: dict[str, object], *, targets: tuple[str, ...], channels: int) -> Path:
    """Save a checkpoint of an untrained network; return its folder."""
    config = settings.replace(TrainConfig(), {f"method.separator.{key}": value for key, value in separator.items()})
    model = CycleGAN(config.method, targets=targets, channels=channels, sample_rate=RATE, seed=1)
    save_checkpoint(
        folder,
        model,
        config,
        CheckpointMetadata(step=0, targets=targets, sample_rate=RATE, channels=channels),
    )
    return folder


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Checkpoints of all networks: two targets, stereo."""
    return {
        name: save(tmp_path_factory.mktemp("saved"), separator, targets=("vocals", "drums"), channels=2)
        for name, separator in NETWORKS.items()
    }


def exported(checkpoint: Path, output: Path, segment_seconds: float = 0.5) -> ExportCard:
    return export(
        ExportConfig(
            checkpoint=str(checkpoint),
            output=str(output),
            segment_seconds=segment_seconds,
            context_seconds=segment_seconds / 10,
            overlap_seconds=segment_seconds / 5,
        )
    )


def segments(channels: int = 2, num_samples: int = 4000) -> Samples:
    """Three segments of noise and one of music, at very different levels: `(4, channels, num_samples)`."""
    rng = np.random.default_rng(0)
    random = rng.normal(0, 1, (3, channels, num_samples)) * np.array([1.0, 0.1, 0.001])[:, None, None]
    music = audio_io.resample(audio_io.with_channels(read(stempeg.example_stem_path()), channels), RATE).samples
    return np.concatenate([random, music[None, :, 8000 : 8000 + num_samples]]).astype(np.float32)


def reference(checkpoint: Path, mixtures: Samples) -> Samples:
    with torch.inference_mode():
        estimates: torch.Tensor = load_separator(checkpoint).module(torch.from_numpy(mixtures))
    return estimates.numpy()


@pytest.fixture(scope="module")
def onnx_file(saved: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Export a network to ONNX once; return the file."""

    @functools.cache
    def of(network: str) -> Path:
        output = tmp_path_factory.mktemp("exported") / "vocals.onnx"
        exported(saved[network], output)
        return output

    return of


def assert_onnx_runtime_agrees(checkpoint: Path, output: Path) -> None:
    """Compare within 1e-4 of the peak of each segment, in batches of one and four."""
    card = ExportCard(**json.loads((output.parent / f"{output.name}.json").read_text()))
    session = onnxruntime.InferenceSession(output, providers=["CPUExecutionProvider"])
    every = segments(card.channels, card.segment_samples)
    expected = reference(checkpoint, every)
    assert expected.shape == (4, len(card.targets), card.channels, card.segment_samples)
    peaks = np.abs(expected).max(axis=(1, 2, 3), keepdims=True)
    assert peaks.min() > 1e-5
    for chosen in (slice(0, 4), slice(3, 4)):
        (estimates,) = session.run([card.output_name], {card.input_name: every[chosen]})
        np.testing.assert_allclose(estimates / peaks[chosen], expected[chosen] / peaks[chosen], rtol=0, atol=1e-4)


@pytest.mark.parametrize("network", ["waveunet", "wavegan", "tfsep"])
def test_onnx_runtime_computes_the_same_estimates(
    saved: dict[str, Path], onnx_file: Callable[[str], Path], network: str
) -> None:
    assert_onnx_runtime_agrees(saved[network], onnx_file(network))


@pytest.mark.slow
@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("targets", [("vocals",), ("vocals", "drums")])
@pytest.mark.parametrize("channels", [1, 2])
def test_onnx_runtime_computes_the_same_estimates_for_all_targets_channels_and_lengths(
    tmp_path: Path, network: str, targets: tuple[str, ...], channels: int
) -> None:
    checkpoint = save(tmp_path / "saved", NETWORKS[network], targets=targets, channels=channels)
    # The first is shorter than the STFT window.
    for segment_seconds in (0.05, 1.0):
        exported(checkpoint, tmp_path / "model.onnx", segment_seconds)
        assert_onnx_runtime_agrees(checkpoint, tmp_path / "model.onnx")


def test_example_of_the_page_equals_cyclesep_separate(
    saved: dict[str, Path], onnx_file: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(onnx_file("tfsep").parent)
    song = segments(num_samples=10_000)[3]
    soundfile.write("song.wav", song.T, RATE, subtype="FLOAT")
    (snippet,) = re.findall(r"```python\n(.*?)```", (DOCS / "separate.md").read_text(), flags=re.DOTALL)
    exec(snippet, {})
    config = SeparationConfig(segment_seconds=0.5, context_seconds=0.05, overlap_seconds=0.1)
    chunks = separate_blocks(load_separator(saved["tfsep"]), [song], channels=2, sample_rate=RATE, config=config)
    expected = np.concatenate([estimates[0] for _, estimates in chunks], axis=1)
    vocals = soundfile.read("vocals.wav", dtype="float32")[0].T
    np.testing.assert_allclose(vocals, expected, rtol=0, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize("network", ["waveunet", "wavegan", pytest.param("tfsep", marks=pytest.mark.slow)])
def test_torch_export_computes_the_same_estimates(saved: dict[str, Path], tmp_path: Path, network: str) -> None:
    output = tmp_path / "model.pt2"
    exported(saved[network], output)
    with torch.inference_mode():
        estimates = torch.export.load(output).module()(torch.from_numpy(segments())).numpy()
    np.testing.assert_allclose(estimates, reference(saved[network], segments()), atol=1e-4)


def test_json_file_describes_the_exported_network(saved: dict[str, Path], tmp_path: Path) -> None:
    output = tmp_path / "model.pt2"
    with pytest.raises(SystemExit) as exit:
        run_job("export", [str(saved["wavegan"]), f"output={output}", "segment_seconds=1", "context_seconds=0.1"])
    assert exit.value.code == 0
    card = json.loads((tmp_path / "model.pt2.json").read_text())
    assert card["sha256"] == hashlib.sha256(output.read_bytes()).hexdigest()
    assert (card["sample_rate"], card["channels"], card["targets"]) == (8000, 2, ["vocals", "drums"])
    assert (card["segment_samples"], card["context_samples"], card["overlap_samples"]) == (8000, 800, 800)
    assert card["hop_samples"] == 8000 - 2 * 800 - 800
    assert card["input_shape"] == ["batch", 2, 8000]
    assert card["output_shape"] == ["batch", 2, 2, 8000]
    assert card["checkpoint_digest"] == load_separator(saved["wavegan"]).digest


class OwnTransform(nn.Module):
    def forward(self, mixture: torch.Tensor) -> torch.Tensor:
        return torch.fft.irfft(torch.fft.rfft(mixture)).unsqueeze(1)


def test_error_for_a_network_that_onnx_does_not_support_suggests_another_format(
    saved: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = dataclasses.replace(load_separator(saved["wavegan"]), module=OwnTransform())
    monkeypatch.setattr("cyclesep.inference.export.load_separator", lambda _: own)
    output = tmp_path / "model.onnx"
    with pytest.raises(ConfigError, match=r"complex numbers.*model\.pt2 for torch\.export"):
        exported(saved["wavegan"], output)
    assert not list(tmp_path.iterdir())


def test_error_without_the_onnx_packages_names_the_missing_one(
    saved: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def without_onnxscript(*_: object, **__: object) -> None:
        raise ModuleNotFoundError("No module named 'onnxscript'", name="onnxscript")

    monkeypatch.setattr(torch.onnx, "export", without_onnxscript)
    with pytest.raises(ConfigError, match="onnxscript is not installed; pip install onnx onnxscript"):
        exported(saved["wavegan"], tmp_path / "m.onnx")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"output": "model.bin"}, r"model\.bin must end in \.onnx or \.pt2"),
        ({"segment_seconds": 1.0}, "segment_seconds=1.0: too short"),
    ],
)
def test_invalid_exports_are_errors(saved: dict[str, Path], changes: dict[str, object], message: str) -> None:
    values = {"checkpoint": str(saved["wavegan"]), "output": "m.pt2", **changes}
    with pytest.raises(ConfigError, match=message):
        export(settings.build(ExportConfig, values))
