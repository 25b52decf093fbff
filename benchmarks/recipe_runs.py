"""One training run of the recipes benchmark, in this process: write the songs, train, separate and score."""

import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from cyclesep.audio.audio_io import Waveform
from cyclesep.config import settings
from cyclesep.cyclegan.config import MethodConfig
from cyclesep.cyclegan.model import CycleGAN
from cyclesep.data.corpora.corpus import Track
from cyclesep.data.crops.config import CropConfig
from cyclesep.data.crops.dataset import CropStream
from cyclesep.data.crops.pairing import ACCOMPANIMENT
from cyclesep.data.preprocess import prepare
from cyclesep.data.shards.manifest import MIXTURE, make_manifest, write_manifest
from cyclesep.data.shards.reading import ShardReader
from cyclesep.data.shards.writing import write_track
from cyclesep.inference.chunked_inference import SeparationConfig
from cyclesep.inference.stems import separate_waveform
from cyclesep.metrics import OracleMask, ScoreTable, mixture_as_estimate, score_track, separate_by_oracle

TARGET = "vocals"
SAMPLE_RATE = 16000
SEGMENT_SECONDS = 4.0
ORACLE: OracleMask = "IRM2"
METRICS = ("SDR", "SIR", "SAR", "SI-SDR")
# Steps that are timed to learn how many fit into the budget, after two that warm up.
TIMED_STEPS = 4
WINDOW = SeparationConfig(device="cpu")


@dataclass(frozen=True, kw_only=True)
class RecipeRun:
    """One row of the benchmark before it has run."""

    cyclegan: Mapping[str, Any]
    """What differs from the defaults of `MethodConfig`."""
    pairing: Literal["paired", "unpaired", "semi_supervised"]
    judged_share: float = 1.0
    """The last share of the steps in which discriminators take part."""


@dataclass(frozen=True, kw_only=True)
class _InMemory:
    """A trained separator as `separate_waveform` takes it."""

    module: nn.Module
    targets: tuple[str, ...]
    sample_rate: int
    channels: int


def write_songs(folder: Path, tracks: Iterable[Track]) -> None:
    """Write songs as mono shards of 16 kHz."""
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
    """Train for `steps`, or for as many as fit into `cpu_seconds`; gives the averaged separator and what it cost."""
    crops = settings.replace(crops, _pairing(run, len(reader.manifest.split("train"))))
    if steps is None:
        steps = max(1, round(cpu_seconds / _seconds_per_step(run, reader, crops, seed)))
    model = _model(run, seed=seed, num_steps=steps, judged_from=round((1 - run.judged_share) * steps))
    began = time.process_time()
    for batch in CropStream(reader, crops, targets=[TARGET], seed=seed, num_steps=steps):
        model.step(batch)
    spent = time.process_time() - began
    return model.ema_separator, {
        "steps": float(steps),
        "CPU s": spent,
        "parameters": float(sum(parameter.numel() for parameter in model.separator.parameters())),
    }


def score_separator(separator: nn.Module, reader: ShardReader) -> dict[str, float]:
    """Scores of a separator on the test songs."""
    loaded = _InMemory(module=separator, targets=(TARGET,), sample_rate=SAMPLE_RATE, channels=1)
    return _scores(
        (name, stems, separate_waveform(loaded, stems[MIXTURE], WINDOW)) for name, stems in songs_to_score(reader)
    )


def score_mixture(reader: ShardReader) -> dict[str, float]:
    """Scores of the untouched mixture on the test songs."""
    return _scores(
        (name, stems, mixture_as_estimate(stems[MIXTURE], (TARGET,))) for name, stems in songs_to_score(reader)
    )


def score_oracle(reader: ShardReader) -> dict[str, float]:
    """Scores of an ideal mask on the test songs."""
    return _scores((name, stems, separate_by_oracle(ORACLE, stems)) for name, stems in songs_to_score(reader))


REFERENCES = {"mixture": score_mixture, f"oracle {ORACLE}": score_oracle}


def songs_to_score(reader: ShardReader) -> Iterator[tuple[str, dict[str, Waveform]]]:
    """Name, mixture, target and accompaniment of each test song."""
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
    """Semi-supervised runs have the stems of a quarter of the songs."""
    if run.pairing != "semi_supervised":
        return {"pairing": run.pairing}
    return {"pairing": run.pairing, "num_paired_tracks": max(1, num_tracks // 4)}


def _model(run: RecipeRun, *, seed: int, num_steps: int, judged_from: int) -> CycleGAN:
    config = settings.build(MethodConfig, {**run.cyclegan, "adversarial_start_step": judged_from})
    return CycleGAN(config, targets=[TARGET], channels=1, sample_rate=SAMPLE_RATE, num_steps=num_steps, seed=seed)


def _seconds_per_step(run: RecipeRun, reader: ShardReader, crops: CropConfig, seed: int) -> float:
    """Processor seconds of a step, reading included, with discriminators in their share of the steps."""
    judged = _timed(run, reader, crops, seed, judged_from=0)
    if run.judged_share == 1:
        return judged
    plain = _timed(run, reader, crops, seed, judged_from=TIMED_STEPS + 2)
    return run.judged_share * judged + (1 - run.judged_share) * plain


def _timed(run: RecipeRun, reader: ShardReader, crops: CropConfig, seed: int, *, judged_from: int) -> float:
    """Processor seconds of a step of a model that is thrown away."""
    model = _model(run, seed=seed, num_steps=TIMED_STEPS + 2, judged_from=judged_from)
    began = 0.0
    for number, batch in enumerate(CropStream(reader, crops, targets=[TARGET], seed=seed, num_steps=TIMED_STEPS + 2)):
        if number == 2:
            began = time.process_time()
        model.step(batch)
    return (time.process_time() - began) / TIMED_STEPS


def _scores(
    estimated: Iterator[tuple[str, Mapping[str, Waveform], Mapping[str, Waveform]]],
) -> dict[str, float]:
    """Each metric of the target: its median over frames, then over songs (SI-SDR: over songs)."""
    references = (TARGET, ACCOMPANIMENT)
    with torch.no_grad():
        scores = [
            score_track({part: stems[part] for part in references}, estimates, track_id=name)
            for name, stems, estimates in estimated
        ]
    summaries = ScoreTable.from_scores("", scores).summary()
    found = {summary.metric: summary.median for summary in summaries if summary.target == TARGET}
    return {metric: found[metric] for metric in METRICS}
