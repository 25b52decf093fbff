"""What a run has told while it trained: its scalars step by step, and the last sounds of its validation."""

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
from cyclesep.errors import StorageError
from cyclesep.evaluation.excerpts import Excerpt
from cyclesep.storage.path import StoragePath

_TENSORBOARD, _METRICS = "tensorboard", "metrics.jsonl"
_SAMPLE = re.compile(r"samples/crop-(\d+)/(?:(mixture)|(.+)-(estimate|reference))")


@dataclass(kw_only=True)
class Told:
    """Scalars by name (`separator/total`): steps and values."""

    steps: list[float] = field(default_factory=list)
    values: list[float] = field(default_factory=list)


def read_scalars(folder: StoragePath) -> dict[str, Told]:
    """All scalars of a run: of TensorBoard's files where there are some, else those of each validation.

    Raises StorageError if the folder holds neither.
    """
    events = _events(folder)
    if events is not None:
        told = {name: events.Scalars(name) for name in events.Tags()["scalars"]}
        return {
            name: Told(steps=[event.step for event in points], values=[event.value for event in points])
            for name, points in told.items()
        }
    try:
        lines = [json.loads(line) for line in folder.read_text(_METRICS).splitlines()]
    except ValueError as problem:
        raise StorageError(f"{folder.file_uri(_METRICS)}: is damaged ({problem}); delete its damaged line") from problem
    # Steps that a resumed run did again stand there twice.
    by_step = {line["step"]: line for line in lines}
    found: dict[str, Told] = {}
    for step, line in sorted(by_step.items()):
        for name, value in line.items():
            if name != "step":
                told_before = found.setdefault(name, Told())
                told_before.steps.append(step)
                told_before.values.append(math.nan if value is None else float(value))
    return found


def read_samples(folder: StoragePath, *, system: str) -> list[Excerpt]:
    """The validation crops of the last validation as mixture, references and estimates; none if none were kept."""
    events = _events(folder)
    crops: dict[str, dict[str, tuple[Samples, int]]] = {}
    for tag in events.Tags()["audio"] if events is not None else []:
        found = _SAMPLE.fullmatch(tag)
        if found and events is not None:
            crop, mixture, target, kind = found.groups()
            last = events.Audio(tag)[-1]
            crops.setdefault(crop, {})[mixture or f"{target}.{kind}"] = _decoded(last.encoded_audio_string)
    return [_excerpt(f"validation crop {int(crop) + 1}", crops[crop], system) for crop in sorted(crops, key=int)]


def _events(folder: StoragePath) -> Any:
    """TensorBoard's reader, or None where there are no event files."""
    board = folder.child(_TENSORBOARD)
    names = [name for name in board.sizes("") if name.startswith("events.out.")]
    if not names:
        return None
    # All scalars, and the last sound of each name.
    # Its warnings are of steps that were done again after a restart, which is as it should be.
    logging.getLogger("tensorboard").setLevel(logging.ERROR)
    events = EventAccumulator(str(board.local_path(*names)), size_guidance={"scalars": 0, "audio": 1, "images": 1})
    return events.Reload()


def _decoded(encoded: bytes) -> tuple[Samples, int]:
    samples, sample_rate = soundfile.read(io.BytesIO(encoded), dtype="float32", always_2d=True)
    return samples.mean(axis=1), sample_rate


def _excerpt(name: str, signals: dict[str, tuple[Samples, int]], system: str) -> Excerpt:
    targets = [signal.removesuffix(".estimate") for signal in signals if signal.endswith(".estimate")]
    mixture, sample_rate = signals["mixture"]
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
