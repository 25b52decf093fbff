"""Speed of BSS Eval v4: cyclesep compared with museval, each method in separate processes.

Rates are tracks per hour of CPU time, because scorers run in parallel, one per core. `dB off` is the largest difference
from museval among values up to 60 dB.
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
from annotated_types import Ge, Le

from benchmarks.scoring_audio import ScoredAudio
from benchmarks.table import Row, Table
from cyclesep.errors import ScoringError

UNIT = "tracks/CPU-h"
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")


@dataclass(frozen=True, kw_only=True)
class ScoringBenchmark:
    """Configuration of the scoring benchmark: one synthetic stereo song."""

    seconds: Annotated[float, Ge(2.0)] = 240.0
    """Length of the track."""
    stems: Annotated[int, Ge(2), Le(4)] = 4
    """Stems that are scored together."""
    sample_rate: Annotated[int, Ge(1000)] = 44100
    """Samples per second; frames are one second."""
    museval: bool = True
    """Also measure museval, which takes about the length of the track and, for 240 s, 5 GB of memory per process."""
    rounds: Annotated[int, Ge(1)] = 3
    """Repetitions of which the fastest is reported; museval runs once."""


@dataclass(frozen=True, kw_only=True)
class _Method:
    name: str
    scorer: str
    pair: bool = False
    threads: int = 1
    processes: int = 1


def run(config: ScoringBenchmark) -> Sequence[Table]:
    """Return one table for the stems alone and one with the vocals/accompaniment pair, as in a MUSDB18 evaluation.

    Raises ScoringError if a method fails, for example because memory is short.
    """
    audio = ScoredAudio.compose(seconds=config.seconds, stems=config.stems, sample_rate=config.sample_rate)
    title = f"BSS Eval v4, {audio.seconds:.0f} s at {config.sample_rate} Hz, {config.stems} stereo stems"
    with tempfile.TemporaryDirectory() as folder:
        audio.save(Path(folder))
        del audio
        return [
            _table(title, _methods(config, pair=False), config, Path(folder)),
            _table(f"{title} and vocals/accompaniment", _methods(config, pair=True), config, Path(folder)),
        ]


def _methods(config: ScoringBenchmark, *, pair: bool) -> list[_Method]:
    cores = len(os.sched_getaffinity(0))
    methods = []
    if config.museval:
        methods.append(_Method(name="museval, one thread", scorer="museval", pair=pair))
    if config.museval and not pair:
        methods.append(_Method(name=f"museval, {cores} threads", scorer="museval", threads=cores))
        methods.append(_Method(name=f"museval, {cores} processes", scorer="museval", processes=cores))
    methods.append(_Method(name="cyclesep, one thread", scorer="cyclesep", pair=pair))
    methods.append(_Method(name=f"cyclesep, {cores} processes", scorer="cyclesep", pair=pair, processes=cores))
    return methods


def _table(title: str, methods: list[_Method], config: ScoringBenchmark, folder: Path) -> Table:
    measured = [
        (method, _measure(method, 1 if method.scorer == "museval" else config.rounds, folder)) for method in methods
    ]
    oracle = np.array(measured[0][1][0]["scores"]) if config.museval else None
    return Table(
        title=title,
        unit=UNIT,
        baseline=methods[0].name,
        rows=tuple(_row(method, results, oracle) for method, results in measured),
    )


def _row(method: _Method, results: list[dict[str, Any]], oracle: np.ndarray | None) -> Row:
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
    return Row(method=method.name, rate=3600 / cpu_seconds, columns=columns)


def _difference(scores: np.ndarray, oracle: np.ndarray) -> float:
    """Return the largest difference among values up to 60 dB; infinity if NaN frames differ."""
    if scores.shape != oracle.shape or (np.isnan(scores) != np.isnan(oracle)).any():
        return float("inf")
    compared = oracle <= 60.0
    return float(np.abs(scores[compared] - oracle[compared]).max(initial=0.0))


def _measure(method: _Method, rounds: int, folder: Path) -> list[dict[str, Any]]:
    """Run all processes of a method at the same time and return their results."""
    environment = os.environ | dict.fromkeys(THREADS, str(method.threads))
    outputs = [folder / f"result-{number}.json" for number in range(method.processes)]
    pair = "pair" if method.pair else "alone"
    command = [sys.executable, "-m", "benchmarks.scoring_process", method.scorer, str(folder)]
    running = [
        subprocess.Popen([*command, str(output), pair, str(rounds)], env=environment, stderr=subprocess.PIPE, text=True)
        for output in outputs
    ]
    for process in running:
        _, stderr = process.communicate()
        if process.returncode != 0:
            last = stderr.strip().splitlines()[-1:] or ["no message"]
            raise ScoringError(
                f"{method.name}: exit status {process.returncode} ({last[0]}); try a shorter track: seconds=60"
            )
    return [json.loads(output.read_text()) for output in outputs]
