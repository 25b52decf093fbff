"""cyclesep: train, tune, run and score cycle-consistent adversarial music source separators on Ray."""

from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from cyclesep.inference.python_api import Model

__all__ = ["__version__", "load"]

__version__ = "0.1.0"


def load(path: str | Path, *, device: Literal["auto", "cpu", "cuda"] = "auto") -> "Model":
    """Load a trained separator: a checkpoint, a run (its best checkpoint), or the name of a run in `runs`; also s3://.

        stems = cyclesep.load("runs/vocals").separate(audio, sample_rate)

    `audio` is float32 `(channels, time)`; `stems` maps the name of each stem to an array of that shape. `device` "auto"
    is the GPU if there is one, else the CPU. Raises cyclesep.errors.CheckpointError for a checkpoint that is missing or
    damaged, ConfigError for "cuda" without a GPU.
    """
    # torch takes seconds to import.
    from cyclesep.inference.python_api import load_model

    return load_model(path, device=device)
