"""How fast a track is scored by BSS Eval v4: cyclesep beside museval, each way in processes of its own.

Rates are tracks per hour of processor time, because scorers run side by side, one per core. `dB off` is the largest
difference from museval among values up to 60 dB.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from annotated_types import Ge, Le

from benchmarks.scoring_audio import ScoredAudio
from benchmarks.table import Row, Table
from cyclesep.errors import ScoringError

UNIT = "tracks/CPU-h"
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")


@dataclass(frozen=True, kw_only=True)
class ScoringBenchmark:
    """One track of a synthetic song in stereo, scored in several ways."""

    seconds: Annotated[float, Ge(2.0)] = 240.0
    """Length of the track."""
    stems: Annotated[int, Ge(2), Le(4)] = 4
    """Stems that are scored together."""
    sample_rate: Annotated[int, Ge(1000)] = 44100
    """Samples per second; frames are one second."""
    museval: bool = True
    """Whether museval is measured as well: about as long as the track, and 5 GB of memory per process for 240 s."""
    rounds: Annotated[int, Ge(1)] = 3
    """The fastest of so many counts, museval's only one."""


@dataclass(frozen=True, kw_only=True)
class _Way:
    name: str
    scorer: str
    pair: bool = False
    threads: int = 1
    processes: int = 1


def run(config: ScoringBenchmark) -> Sequence[Table]:
    """One table for the stems alone, one with the vocals/accompaniment pair beside them, as in a MUSDB18 evaluation.

    Raises ScoringError if a way fails, such as for want of memory.
    """
    audio = ScoredAudio.compose(seconds=config.seconds, stems=config.stems, sample_rate=config.sample_rate)
    title = f"BSS Eval v4, {audio.seconds:.0f} s at {config.sample_rate} Hz, {config.stems} stereo stems"
    with tempfile.TemporaryDirectory() as folder:
        audio.save(Path(folder))
        del audio
        return [
            _table(title, _ways(config, pair=False), config, Path(folder)),
            _table(f"{title} and vocals/accompaniment", _ways(config, pair=True), config, Path(folder)),
        ]


def _ways(config: ScoringBenchmark, *, pair: bool) -> list[_Way]:
    cores = len(os.sched_getaffinity(0))
    ways = []
    if config.museval:
        ways.append(_Way(name="museval, one thread", scorer="museval", pair=pair))
    if config.museval and not pair:
        ways.append(_Way(name=f"museval, {cores} threads", scorer="museval", threads=cores))
        ways.append(_Way(name=f"museval, {cores} processes", scorer="museval", processes=cores))
    ways.append(_Way(name="cyclesep, one thread", scorer="cyclesep", pair=pair))
    ways.append(_Way(name=f"cyclesep, {cores} processes", scorer="cyclesep", pair=pair, processes=cores))
    ways.append(_Way(name="cyclesep, PyTorch on one thread", scorer="cpu", pair=pair))
    if torch.cuda.is_available():
        ways.append(_Way(name="cyclesep, PyTorch on a GPU", scorer="cuda", pair=pair))
    return ways


def _table(title: str, ways: list[_Way], config: ScoringBenchmark, folder: Path) -> Table:
    measured = [(way, _measure(way, 1 if way.scorer == "museval" else config.rounds, folder)) for way in ways]
    oracle = np.array(measured[0][1][0]["scores"]) if config.museval else None
    return Table(
        title=title,
        unit=UNIT,
        baseline=ways[0].name,
        rows=tuple(_row(way, results, oracle) for way, results in measured),
    )


def _row(way: _Way, results: list[dict[str, Any]], oracle: np.ndarray | None) -> Row:
    cpu_seconds = float(np.mean([result["cpu_seconds"] for result in results]))
    wall_seconds = max(result["wall_seconds"] for result in results)
    columns: dict[str, float | str] = {
        "CPU-s": cpu_seconds,
        "wall s": wall_seconds,
        "tracks/h": 3600 * len(results) / wall_seconds,
        "MB above the audio": max(result["peak_mb"] for result in results),
    }
    if oracle is not None:
        columns["dB off"] = f"{_difference(np.array(results[0]['scores']), oracle):.0e}"
    return Row(way=way.name, rate=3600 / cpu_seconds, columns=columns)


def _difference(scores: np.ndarray, oracle: np.ndarray) -> float:
    """The largest among values up to 60 dB; infinite where the NaN frames differ."""
    if scores.shape != oracle.shape or (np.isnan(scores) != np.isnan(oracle)).any():
        return float("inf")
    compared = oracle <= 60.0
    return float(np.abs(scores[compared] - oracle[compared]).max(initial=0.0))


def _measure(way: _Way, rounds: int, folder: Path) -> list[dict[str, Any]]:
    """What each of the processes of a way, all at once, found."""
    environment = os.environ | dict.fromkeys(THREADS, str(way.threads))
    outputs = [folder / f"result-{number}.json" for number in range(way.processes)]
    pair = "pair" if way.pair else "alone"
    command = [sys.executable, "-m", "benchmarks.scoring_process", way.scorer, str(folder)]
    running = [
        subprocess.Popen([*command, str(output), pair, str(rounds)], env=environment, stderr=subprocess.PIPE, text=True)
        for output in outputs
    ]
    for process in running:
        _, told = process.communicate()
        if process.returncode != 0:
            last = told.strip().splitlines()[-1:] or ["no message"]
            raise ScoringError(
                f"{way.name}: its process ended with {process.returncode} ({last[0]}); try a shorter track: seconds=60"
            )
    return [json.loads(output.read_text()) for output in outputs]
