"""Cost of a training step: the original notebook's, ours with the same gradients, and the corrected step."""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Literal

import torch
from annotated_types import Ge, Gt, MultipleOf

from benchmarks.gpu_step import gpu_tables
from benchmarks.interleaving import interleaved
from benchmarks.notebook_step import NotebookStep
from benchmarks.step_baselines import (
    CORRECTED,
    EXACT,
    build_model,
    check_gradients,
    compiled,
    gigaflops_per_crop,
    random_batch,
)
from benchmarks.table import Row, Table
from cyclesep.data.crops.dataset import Batch

UNIT = "crops/s"
BASELINE = "notebook, float32"
COMPILED = "corrected, bfloat16, compiled"
CPU = torch.device("cpu")

Step = Callable[[Batch], object]


@dataclass(frozen=True, kw_only=True)
class StepBenchmark:
    """Configuration of the step benchmark."""

    batch_size: Annotated[int, Gt(0)] = 10
    """Crops of 16,384 samples per step; the notebook's batch size is 10."""
    width: Annotated[int, Gt(0), MultipleOf(8)] = 64
    """Channels of the first layers; the notebook uses 64."""
    rounds: Annotated[int, Gt(0)] = 5
    """Timed steps of each method, in turns, after one warm-up step; the median is reported."""
    threads: tuple[Annotated[int, Ge(0)], ...] = (1, 0)
    """Numbers of threads, one table each; 0: all cores available to this process."""
    clock: Literal["wall", "cpu"] = "wall"
    """wall: crops per second. cpu: crops per second of CPU time, for a machine with other load; with several threads
    always wall time."""
    compile: bool = False
    """Also time the corrected step with torch.compile, which takes minutes before its first step."""
    gpu_batches: tuple[Annotated[int, Gt(0)], ...] = (10, 32, 64, 128, 256)
    """On a GPU: batch sizes to try."""
    gpu_steps: Annotated[int, Gt(0)] = 20
    """On a GPU: steps that are timed together."""
    peak_tflops: Annotated[float, Gt(0)] | None = None
    """On a GPU: its dense bfloat16 peak in TFLOP/s; none: looked up by its name."""


def run(config: StepBenchmark) -> Sequence[Table]:
    """Check that gradients agree, then time all methods in turns, also on a GPU if there is one.

    Raises TrainingError if our gradients differ from the notebook's in float64.
    """
    difference = check_gradients(config.width)
    title = (
        f"One training step on {config.batch_size} crops; gradients equal in float64 to {difference:.0e} of the largest"
    )
    counts = [threads or len(os.sched_getaffinity(0)) for threads in config.threads]
    tables = [_cpu_table(config, f"{title}; CPU threads: {threads}", threads) for threads in dict.fromkeys(counts)]
    if torch.cuda.is_available():
        tables += gpu_tables(
            width=config.width, batches=config.gpu_batches, steps=config.gpu_steps, peak_tflops=config.peak_tflops
        )
    return tables


def _cpu_table(config: StepBenchmark, title: str, threads: int) -> Table:
    batch = random_batch(config.batch_size)
    with _threads(threads):
        methods = _methods(config)
        # FLOPs are counted on the first steps, which are not timed.
        flops = {name: gigaflops_per_crop(step, batch) for name, step in methods.items()}
        if config.compile:
            methods[COMPILED], flops[COMPILED] = _compiled(config, batch), flops["corrected, bfloat16"]
        cpu_seconds: dict[str, list[float]] = {name: [] for name in methods}
        by_cpu = config.clock == "cpu" and threads == 1
        measures = {
            name: partial(_timed, step, batch, cpu_seconds[name], by_cpu=by_cpu) for name, step in methods.items()
        }
        rates = interleaved(measures, rounds=config.rounds)
    rows = [
        Row(
            method=name,
            rate=rate,
            columns={
                "s/step": config.batch_size / rate,
                "min CPU s": min(cpu_seconds[name]),
                "GFLOP/crop": flops[name],
            },
        )
        for name, rate in rates.items()
    ]
    return Table(title=title, unit=UNIT, baseline=BASELINE, rows=tuple(rows))


def _methods(config: StepBenchmark) -> dict[str, Step]:
    methods: dict[str, Step] = {
        BASELINE: _notebook(config.width, bfloat16=False),
        "notebook, bfloat16": _notebook(config.width, bfloat16=True),
    }
    for name, changes in {"same gradients": EXACT, "corrected": CORRECTED}.items():
        for bfloat16 in (False, True):
            model = build_model({**changes, "precision": "bf16" if bfloat16 else "fp32"}, width=config.width)
            methods[f"{name}, {'bfloat16' if bfloat16 else 'float32'}"] = model.step
    return methods


def _compiled(config: StepBenchmark, batch: Batch) -> Step:
    """Return the corrected step after its first call, which compiles it."""
    model = build_model({**CORRECTED, "precision": "bf16"}, width=config.width, wrap=compiled)
    model.step(batch)
    return model.step


def _notebook(width: int, *, bfloat16: bool) -> Step:
    notebook = NotebookStep(width=width, device=CPU, bfloat16=bfloat16)
    return lambda batch: notebook.step(batch.mixture, batch.target[:, 0])


def _timed(step: Step, batch: Batch, cpu_seconds: list[float], *, by_cpu: bool) -> float:
    """Return the crops per second of one step; also appends its CPU time, which other load affects less."""
    began, worked = time.perf_counter(), time.process_time()
    step(batch)
    cpu_seconds.append(time.process_time() - worked)
    return len(batch.mixture) / (cpu_seconds[-1] if by_cpu else time.perf_counter() - began)


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
