"""A training run of the recipe benchmark in this process: write the songs, train, separate and score."""

import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from cyclesep.audio.audio_io import Waveform
from cyclesep.audio.stem_names import ACCOMPANIMENT, MIXTURE
from cyclesep.config import settings
from cyclesep.cyclegan.config import MethodConfig
from cyclesep.cyclegan.model import CycleGAN
from cyclesep.data.corpora.corpus import Track
from cyclesep.data.crops.config import CropConfig
from cyclesep.data.crops.dataset import CropStream
from cyclesep.data.preprocess import prepare
from cyclesep.data.shards.manifest import make_manifest, write_manifest
from cyclesep.data.shards.reading import ShardReader
from cyclesep.data.shards.writing import write_track
from cyclesep.evaluation.track_scores import average, track_rows
from cyclesep.inference.config import SeparationConfig
from cyclesep.inference.stems import separate_waveform
from cyclesep.metrics import OracleMask, mixture_as_estimate, score_track, separate_by_oracle

TARGET = "vocals"
SAMPLE_RATE = 16000
SEGMENT_SECONDS = 4.0
ORACLE: OracleMask = "IRM2"
METRICS = ("SDR", "SIR", "SAR", "SI-SDR")
# Steps that are timed, after two warm-up steps, to estimate how many fit into the budget.
TIMED_STEPS = 4
WINDOW = SeparationConfig(device="cpu")


@dataclass(frozen=True, kw_only=True)
class RecipeRun:
    """The settings of one row of the benchmark."""

    method: Mapping[str, Any]
    """Settings that differ from the defaults of `MethodConfig`."""
    pairing: Literal["paired", "unpaired", "semi_supervised"]
    adversarial_fraction: float = 1.0
    """Fraction of the steps, at the end of the run, in which adversarial terms are used."""


@dataclass(frozen=True, kw_only=True)
class _InMemory:
    """A trained separator for `separate_waveform`."""

    module: nn.Module
    targets: tuple[str, ...]
    sample_rate: int
    channels: int


def write_songs(folder: Path, tracks: Iterable[Track]) -> None:
    """Write songs as mono shards at 16 kHz."""
    records = []
    for track in tracks:
        prepared = prepare(track.read(), sample_rate=SAMPLE_RATE, channels=1)
        records.append(
            write_track(
                folder,
                prepared.stems,
                track_id=track.track_id,
                split=track.split,
                sample_rate=SAMPLE_RATE,
                segment_samples=round(SEGMENT_SECONDS * SAMPLE_RATE),
            )
        )
    write_manifest(folder, make_manifest(records))


def train(
    run: RecipeRun, reader: ShardReader, crops: CropConfig, *, seed: int, steps: int | None, cpu_seconds: float
) -> tuple[nn.Module, dict[str, float]]:
    """Train for `steps`, or as many as fit into `cpu_seconds`; return the averaged separator and its cost."""
    crops = settings.replace(crops, _pairing(run, len(reader.manifest.split("train"))))
    if steps is None:
        steps = max(1, round(cpu_seconds / _seconds_per_step(run, reader, crops, seed)))
    model = _model(run, seed=seed, num_steps=steps, adversarial_start=round((1 - run.adversarial_fraction) * steps))
    began = time.process_time()
    for batch in CropStream(reader, crops, targets=[TARGET], seed=seed, num_steps=steps):
        model.step(batch)
    seconds = time.process_time() - began
    return model.ema_separator, {
        "steps": float(steps),
        "CPU s": seconds,
        "parameters": float(sum(parameter.numel() for parameter in model.separator.parameters())),
    }


def score_separator(separator: nn.Module, reader: ShardReader) -> dict[str, float]:
    """Return the scores of a separator on the test songs."""
    loaded = _InMemory(module=separator, targets=(TARGET,), sample_rate=SAMPLE_RATE, channels=1)
    return _scores(
        (name, stems, separate_waveform(loaded, stems[MIXTURE], WINDOW)) for name, stems in songs_to_score(reader)
    )


def score_mixture(reader: ShardReader) -> dict[str, float]:
    """Return the scores of the mixture on the test songs."""
    return _scores(
        (name, stems, mixture_as_estimate(stems[MIXTURE], (TARGET,))) for name, stems in songs_to_score(reader)
    )


def score_oracle(reader: ShardReader) -> dict[str, float]:
    """Return the scores of an ideal mask on the test songs."""
    return _scores((name, stems, separate_by_oracle(ORACLE, stems)) for name, stems in songs_to_score(reader))


REFERENCES = {"mixture": score_mixture, f"oracle {ORACLE}": score_oracle}


def songs_to_score(reader: ShardReader) -> Iterator[tuple[str, dict[str, Waveform]]]:
    """Yield name and mixture, target and accompaniment of each test song."""
    for track in reader.manifest.split("test"):
        samples = dict(zip(track.stems, reader.read(track, track.stems, 0, track.num_samples), strict=True))
        parts = {MIXTURE: samples[MIXTURE], TARGET: samples[TARGET], ACCOMPANIMENT: samples[MIXTURE] - samples[TARGET]}
        yield (
            track.track_id,
            {
                name: Waveform(samples=np.ascontiguousarray(part), sample_rate=SAMPLE_RATE)
                for name, part in parts.items()
            },
        )


def _pairing(run: RecipeRun, num_tracks: int) -> dict[str, Any]:
    """Return the crop settings; semi-supervised runs use the stems of a quarter of the songs."""
    if run.pairing != "semi_supervised":
        return {"pairing": run.pairing}
    return {"pairing": run.pairing, "num_paired_tracks": max(1, num_tracks // 4)}


def _model(run: RecipeRun, *, seed: int, num_steps: int, adversarial_start: int) -> CycleGAN:
    config = settings.build(MethodConfig, {**run.method, "adversarial_start_step": adversarial_start})
    return CycleGAN(config, targets=[TARGET], channels=1, sample_rate=SAMPLE_RATE, num_steps=num_steps, seed=seed)


def _seconds_per_step(run: RecipeRun, reader: ShardReader, crops: CropConfig, seed: int) -> float:
    """Estimate the mean CPU seconds of a step, including reading, with adversarial terms in part of the steps."""
    adversarial = _timed(run, reader, crops, seed, adversarial_start=0)
    if run.adversarial_fraction == 1:
        return adversarial
    plain = _timed(run, reader, crops, seed, adversarial_start=TIMED_STEPS + 2)
    return run.adversarial_fraction * adversarial + (1 - run.adversarial_fraction) * plain


def _timed(run: RecipeRun, reader: ShardReader, crops: CropConfig, seed: int, *, adversarial_start: int) -> float:
    """Return the CPU seconds of a step, measured with a temporary model."""
    model = _model(run, seed=seed, num_steps=TIMED_STEPS + 2, adversarial_start=adversarial_start)
    began = 0.0
    for number, batch in enumerate(CropStream(reader, crops, targets=[TARGET], seed=seed, num_steps=TIMED_STEPS + 2)):
        if number == 2:
            began = time.process_time()
        model.step(batch)
    return (time.process_time() - began) / TIMED_STEPS


def _scores(
    estimated: Iterator[tuple[str, Mapping[str, Waveform], Mapping[str, Waveform]]],
) -> dict[str, float]:
    """Return each metric of the target: median over frames, then over songs (SI-SDR: over songs)."""
    references = (TARGET, ACCOMPANIMENT)
    with torch.no_grad():
        scores = [
            score_track({part: stems[part] for part in references}, estimates, track_id=name)
            for name, stems, estimates in estimated
        ]
    rows = [row for score in scores for row in track_rows("", score) if row.target == TARGET]
    return {metric: average(np.array([row.values[metric] for row in rows])) for metric in METRICS}
