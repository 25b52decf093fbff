"""Reads the scalars and the validation audio that a training run has logged."""

import io
import json
import logging
import math
import re
from dataclasses import dataclass, field
from typing import Any

import soundfile
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from cyclesep.audio.audio_io import Samples
from cyclesep.audio.stem_names import MIXTURE
from cyclesep.checkpoints.run_folder import RunFolder
from cyclesep.errors import StorageError
from cyclesep.evaluation.excerpts import Excerpt
from cyclesep.storage.path import StoragePath

_SAMPLE = re.compile(r"samples/crop-(\d+)/(?:(mixture)|(.+)-(estimate|reference))")


@dataclass(kw_only=True)
class ScalarSeries:
    """Steps and values of one scalar."""

    steps: list[float] = field(default_factory=list)
    values: list[float] = field(default_factory=list)


def read_scalars(folder: StoragePath) -> dict[str, ScalarSeries]:
    """Return all scalars of a run by name, from TensorBoard's event files or else from metrics.jsonl.

    Raises StorageError if the folder has neither.
    """
    events = _read_events(folder)
    if events is not None:
        scalars = {name: events.Scalars(name) for name in events.Tags()["scalars"]}
        return {
            name: ScalarSeries(steps=[event.step for event in points], values=[event.value for event in points])
            for name, points in scalars.items()
        }
    try:
        lines = [json.loads(line) for line in folder.read_text(RunFolder.METRICS).splitlines()]
    except ValueError as error:
        raise StorageError(
            f"{folder.file_uri(RunFolder.METRICS)}: is damaged ({error}); delete its damaged line"
        ) from error
    # A resumed run logs repeated steps twice; the last line is used.
    by_step = {line["step"]: line for line in lines}
    result: dict[str, ScalarSeries] = {}
    for step, line in sorted(by_step.items()):
        for name, value in line.items():
            if name != "step":
                series = result.setdefault(name, ScalarSeries())
                series.steps.append(step)
                series.values.append(math.nan if value is None else float(value))
    return result


def read_samples(folder: StoragePath, *, system: str) -> list[Excerpt]:
    """Return mixture, references and estimates of the crops of the last validation; empty if none were logged."""
    events = _read_events(folder)
    crops: dict[str, dict[str, tuple[Samples, int]]] = {}
    for tag in events.Tags()["audio"] if events is not None else []:
        match = _SAMPLE.fullmatch(tag)
        if match and events is not None:
            crop, mixture, target, kind = match.groups()
            last = events.Audio(tag)[-1]
            crops.setdefault(crop, {})[mixture or f"{target}.{kind}"] = _decode(last.encoded_audio_string)
    return [_excerpt(f"validation crop {int(crop) + 1}", crops[crop], system) for crop in sorted(crops, key=int)]


def _read_events(folder: StoragePath) -> Any:
    """Return TensorBoard's reader, or None without event files."""
    board = folder.child(RunFolder.TENSORBOARD)
    names = [name for name in board.sizes("") if name.startswith("events.out.")]
    if not names:
        return None
    # TensorBoard warns about steps that were repeated after a restart.
    logging.getLogger("tensorboard").setLevel(logging.ERROR)
    # Read all scalars, and only the last audio sample of each name.
    events = EventAccumulator(str(board.local_path(*names)), size_guidance={"scalars": 0, "audio": 1, "images": 1})
    return events.Reload()


def _decode(encoded: bytes) -> tuple[Samples, int]:
    samples, sample_rate = soundfile.read(io.BytesIO(encoded), dtype="float32", always_2d=True)
    return samples.mean(axis=1), sample_rate


def _excerpt(name: str, signals: dict[str, tuple[Samples, int]], system: str) -> Excerpt:
    targets = [signal.removesuffix(".estimate") for signal in signals if signal.endswith(".estimate")]
    mixture, sample_rate = signals[MIXTURE]
    return Excerpt(
        system=system,
        track_id=name,
        split="valid",
        start_seconds=0.0,
        sample_rate=sample_rate,
        mixture=mixture,
        references={target: signals[f"{target}.reference"][0] for target in targets},
        estimates={target: signals[f"{target}.estimate"][0] for target in targets},
    )
