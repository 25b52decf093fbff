"""Export a separator to one file, ONNX or torch.export, and a JSON file that describes how to use it.

The network takes any number of segments of a fixed length. The application splits audio into segments and crossfades
the estimates, as cyclesep.inference.chunked_inference does, with the lengths in the JSON.
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
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from cyclesep import __version__
from cyclesep.checkpoints.loaded_separator import load_separator
from cyclesep.errors import ConfigError
from cyclesep.inference.chunked_inference import SegmentGeometry
from cyclesep.inference.config import ExportConfig, SeparationConfig
from cyclesep.inference.stems import residual_name
from cyclesep.models.separators.stft import replace_spectrograms
from cyclesep.storage import atomic_io

ONNX, TORCH = ".onnx", ".pt2"


@dataclass(frozen=True, kw_only=True)
class ExportCard:
    """How an application uses an exported separator; the JSON file has these fields."""

    file: str
    sha256: str
    sample_rate: int
    channels: int
    targets: tuple[str, ...]
    """In the order of the output."""
    residual: str
    """Name of the mixture minus all estimates."""
    segment_samples: int
    context_samples: int
    overlap_samples: int
    hop_samples: int
    """Distance between the starts of consecutive segments."""
    input_name: str = "mixture"
    input_shape: tuple[str | int, ...]
    """float32, full scale 1."""
    output_name: str = "estimates"
    output_shape: tuple[str | int, ...]
    checkpoint_digest: str
    version: str = __version__


def export(config: ExportConfig) -> ExportCard:
    """Write `config.output` and its JSON file, each atomically.

    Raises ConfigError for another suffix, a segment that is too short, missing packages, or a network that ONNX does
    not support; CheckpointError for a checkpoint that cannot be loaded.
    """
    output = Path(config.output)
    if output.suffix not in (ONNX, TORCH):
        raise ConfigError(f"output: {config.output} must end in {ONNX} or {TORCH}")
    separator = load_separator(config.checkpoint)
    separation = SeparationConfig(
        segment_seconds=config.segment_seconds,
        context_seconds=config.context_seconds,
        overlap_seconds=config.overlap_seconds,
    )
    geometry = SegmentGeometry.of(separation, separator.sample_rate)
    module = replace_spectrograms(separator.module) if output.suffix == ONNX else separator.module
    program = _trace(module, separator.channels, geometry.segment)
    content = _to_onnx(program, output) if output.suffix == ONNX else _to_bytes(program)
    card = ExportCard(
        file=output.name,
        sha256=hashlib.sha256(content).hexdigest(),
        sample_rate=separator.sample_rate,
        channels=separator.channels,
        targets=separator.targets,
        residual=residual_name(separator.targets),
        segment_samples=geometry.segment,
        context_samples=geometry.context,
        overlap_samples=geometry.overlap,
        hop_samples=geometry.hop,
        input_shape=("batch", separator.channels, geometry.segment),
        output_shape=("batch", len(separator.targets), separator.channels, geometry.segment),
        checkpoint_digest=separator.digest,
    )
    with atomic_io.replacing(output) as partial:
        partial.write_bytes(content)
    atomic_io.write_text(output.with_name(output.name + ".json"), json.dumps(asdict(card), indent=2) + "\n")
    return card


def _trace(module: nn.Module, channels: int, num_samples: int) -> ExportedProgram:
    """Trace the network for any number of segments of one length."""
    # A batch of one would be treated as a constant.
    example: Tensor = torch.zeros(2, channels, num_samples)
    with _without_warnings(), torch.no_grad():
        return torch.export.export(module.eval(), (example,), dynamic_shapes={"mixture": {0: Dim("batch")}})


def _to_bytes(program: ExportedProgram) -> bytes:
    buffer = io.BytesIO()
    with _without_warnings():
        torch.export.save(program, buffer)
    return buffer.getvalue()


def _to_onnx(program: ExportedProgram, output: Path) -> bytes:
    instead = f"export to {output.with_suffix(TORCH)} for torch.export"
    if _has_complex_numbers(program):
        raise ConfigError(f"output: ONNX does not support the complex numbers of this network; {instead}")
    try:
        with _without_warnings():
            converted: Any = torch.onnx.export(
                program, dynamo=True, verbose=False, input_names=["mixture"], output_names=["estimates"]
            )
        return bytes(converted.model_proto.SerializeToString())
    except ImportError as problem:
        raise ConfigError(
            f"output: ONNX needs the packages onnx and onnxscript, and {problem.name} is not installed; "
            f"pip install onnx onnxscript, or {instead}"
        ) from problem
    except torch.onnx.OnnxExporterError as problem:
        raise ConfigError(f"output: ONNX does not support an operation of this network; {instead}") from problem


def _has_complex_numbers(program: ExportedProgram) -> bool:
    values = (node.meta.get("val") for node in program.graph.nodes)
    return any(isinstance(value, Tensor) and value.is_complex() for value in values)


@contextmanager
def _without_warnings() -> Iterator[None]:
    """Suppress the exporter's warnings, which concern its internals and optional packages."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
