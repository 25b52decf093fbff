"""A separator as one file for applications: ONNX, or a program of torch.export, and a JSON that says how to use it.

The network takes windows of a fixed length, as many at a time as one likes; cutting audio into windows and joining the
estimates is the application's part, with the numbers in the JSON (cyclesep.inference.chunked_inference does the same here).
"""

import hashlib
import io
import json
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import NonNegativeFloat, PositiveFloat
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from cyclesep import __version__
from cyclesep.checkpoints.separator import load_separator
from cyclesep.errors import ConfigError
from cyclesep.inference.chunked_inference import Geometry, SeparationConfig
from cyclesep.inference.stems import residual_name
from cyclesep.models.separators.stft import without_complex_numbers
from cyclesep.storage import atomic_io

ONNX, TORCH = ".onnx", ".pt2"
_DEFAULTS = SeparationConfig()


@dataclass(frozen=True, kw_only=True)
class ExportConfig:
    """What to export, and for windows of which length."""

    checkpoint: str
    """Checkpoint folder, or run (its folder, or its name below `runs`), whose best checkpoint is taken."""

    output: str
    """File to write: .onnx for ONNX Runtime and others, .pt2 for torch.export; FILE.json is written beside it."""

    segment_seconds: PositiveFloat = _DEFAULTS.segment_seconds
    """Length of what the network takes at once; it is fixed in the file."""

    context_seconds: NonNegativeFloat = _DEFAULTS.context_seconds
    """What the application is told to discard at each end of a window."""

    overlap_seconds: NonNegativeFloat = _DEFAULTS.overlap_seconds
    """Over how long the application is told to fade one window into the next."""


@dataclass(frozen=True, kw_only=True)
class ModelCard:
    """What an application needs to know of an exported separator; the JSON beside it holds these fields."""

    file: str
    sha256: str
    sample_rate: int
    channels: int
    targets: tuple[str, ...]
    """In the order of the output."""
    residual: str
    """What the mixture minus all estimates is called."""
    window_samples: int
    context_samples: int
    crossfade_samples: int
    hop_samples: int
    """From the beginning of one window to that of the next."""
    input_name: str = "mixture"
    input_shape: tuple[str | int, ...]
    """float32, full scale 1."""
    output_name: str = "estimates"
    output_shape: tuple[str | int, ...]
    checkpoint_digest: str
    version: str = __version__


def export(config: ExportConfig) -> ModelCard:
    """Write `config.output` and its JSON, each whole or not at all.

    Raises ConfigError for another suffix, a window too short, packages that are missing, or a network that ONNX cannot
    hold; CheckpointError for a checkpoint that cannot be loaded.
    """
    output = Path(config.output)
    if output.suffix not in (ONNX, TORCH):
        raise ConfigError(f"output: {config.output} ends neither in {ONNX} nor in {TORCH}; name it so, for its kind")
    separator = load_separator(config.checkpoint)
    windows = SeparationConfig(
        segment_seconds=config.segment_seconds,
        context_seconds=config.context_seconds,
        overlap_seconds=config.overlap_seconds,
    )
    geometry = Geometry.of(windows, separator.sample_rate)
    module = without_complex_numbers(separator.module) if output.suffix == ONNX else separator.module
    program = _traced(module, separator.channels, geometry.window)
    content = _onnx(program, output) if output.suffix == ONNX else _saved(program)
    card = ModelCard(
        file=output.name,
        sha256=hashlib.sha256(content).hexdigest(),
        sample_rate=separator.sample_rate,
        channels=separator.channels,
        targets=separator.targets,
        residual=residual_name(separator.targets),
        window_samples=geometry.window,
        context_samples=geometry.context,
        crossfade_samples=geometry.fade,
        hop_samples=geometry.hop,
        input_shape=("batch", separator.channels, geometry.window),
        output_shape=("batch", len(separator.targets), separator.channels, geometry.window),
        checkpoint_digest=separator.digest,
    )
    with atomic_io.replacing(output) as partial:
        partial.write_bytes(content)
    atomic_io.write_text(output.with_name(output.name + ".json"), json.dumps(asdict(card), indent=2) + "\n")
    return card


def _traced(module: nn.Module, channels: int, window: int) -> ExportedProgram:
    """The network as a graph for any number of windows of one length."""
    # Two, because a batch of one would be taken for fixed.
    example: Tensor = torch.zeros(2, channels, window)
    with _quiet(), torch.no_grad():
        return torch.export.export(module.eval(), (example,), dynamic_shapes={"mixture": {0: Dim("batch")}})


def _saved(program: ExportedProgram) -> bytes:
    buffer = io.BytesIO()
    with _quiet():
        torch.export.save(program, buffer)
    return buffer.getvalue()


def _onnx(program: ExportedProgram, output: Path) -> bytes:
    instead = f"write {output.with_suffix(TORCH)} for torch.export"
    if _has_complex_numbers(program):
        raise ConfigError(f"output: ONNX has no complex numbers, and this network computes with them; {instead}")
    try:
        with _quiet():
            converted: Any = torch.onnx.export(
                program, dynamo=True, verbose=False, input_names=["mixture"], output_names=["estimates"]
            )
        return bytes(converted.model_proto.SerializeToString())
    except ImportError as problem:
        raise ConfigError(
            f"output: ONNX needs the packages onnx and onnxscript, and {problem.name} is not here; "
            f"pip install onnx onnxscript, or {instead}"
        ) from problem
    except torch.onnx.OnnxExporterError as problem:
        raise ConfigError(f"output: ONNX lacks an operation of this network; {instead}") from problem


def _has_complex_numbers(program: ExportedProgram) -> bool:
    values = (node.meta.get("val") for node in program.graph.nodes)
    return any(isinstance(value, Tensor) and value.is_complex() for value in values)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporter's warnings, which tell of its own insides and of packages that are not needed."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
