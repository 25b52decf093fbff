"""A training step on a GPU: the notebook's with its own batch size, and the corrected step with several.

The corrected step is timed as in training with `method.precision=bf16`, with torch.compile, and as one CUDA graph. The
graph contains the whole step except operations that synchronise with the CPU: it does not skip non-finite steps, does
not clip gradients, and uses the same phase shifts each time.
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import nn

from benchmarks.notebook_step import NotebookStep
from benchmarks.step_baselines import CORRECTED, SAMPLE_RATE, build_model, compiled, gigaflops_per_crop, random_batch
from benchmarks.table import Row, Table
from cyclesep.cyclegan.adversarial import AdversarialLoss
from cyclesep.cyclegan.discriminator_input import discriminator_inputs
from cyclesep.cyclegan.distributed import DistributedContext
from cyclesep.cyclegan.model import CycleGAN
from cyclesep.cyclegan.optimization import enable_tf32
from cyclesep.cyclegan.recipes import FORWARD
from cyclesep.data.crops.dataset import Batch

UNIT = "crops/s"
BASELINE = "notebook, float32, batch 10"
NOTEBOOK_BATCH = 10
# Dense bfloat16 with float32 accumulation, TFLOP/s, by a part of the device's name (the vendor's data sheets).
PEAK_TFLOPS = {"H100 PCIe": 756.0, "H100": 989.0, "H200": 989.0, "A100": 312.0, "L40S": 362.0, "4090": 165.0}
WARMUP_STEPS = 3

Step = Callable[[Batch], object]


def gpu_tables(*, width: int, batches: Sequence[int], steps: int, peak_tflops: float | None) -> list[Table]:
    """Return a table for this process's GPU; a method that fails has no rate and shows the error."""
    peak = peak_tflops or _known_peak(torch.cuda.get_device_name())
    few = random_batch(2, device="cuda")
    rows = []
    flops = gigaflops_per_crop(_notebook(width, tf32=False), few)
    for name, tf32 in ((BASELINE, False), ("notebook, TF32, batch 10", True)):
        rows.append(_measured(name, partial(_notebook, width, tf32=tf32), NOTEBOOK_BATCH, steps, peak, flops))
    # Counted on uncompiled modules, because compiled ones show no operations.
    flops = gigaflops_per_crop(_corrected(width).step, few)
    for batch_size in batches:
        for name, build in _own_methods(width).items():
            rows.append(_measured(f"{name}, batch {batch_size}", build, batch_size, steps, peak, flops))
    title = f"One training step on {torch.cuda.get_device_name()}; corrected steps in bfloat16 and TF32"
    return [Table(title=title, unit=UNIT, baseline=BASELINE, rows=tuple(rows))]


def _own_methods(width: int) -> dict[str, Callable[[], Step]]:
    return {
        "corrected": lambda: _corrected(width).step,
        "corrected, compiled": lambda: _corrected(width, wrap=compiled).step,
        "corrected, CUDA graph": lambda: GraphedStep(_corrected(width)),
    }


def _corrected(width: int, wrap: Callable[[nn.Module], nn.Module] = lambda module: module) -> CycleGAN:
    enable_tf32(tf32=True)
    return build_model({**CORRECTED, "precision": "bf16"}, width=width, device="cuda", wrap=wrap)


def _notebook(width: int, *, tf32: bool) -> Step:
    enable_tf32(tf32=tf32)
    notebook = NotebookStep(width=width, device=torch.device("cuda"))

    def step(batch: Batch) -> object:
        return notebook.step(batch.mixture, batch.target[:, 0])

    return step


def _measured(name: str, build: Callable[[], Step], batch_size: int, steps: int, peak: float, flops: float) -> Row:
    """Build a step, warm up, and time `steps` steps together, with synchronisation before and after."""
    try:
        # Compile again for this batch size instead of using a dynamic shape.
        torch.compiler.reset()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        batch, step = random_batch(batch_size, device="cuda"), build()
        for _ in range(WARMUP_STEPS):
            step(batch)
        torch.cuda.synchronize()
        began = time.perf_counter()
        for _ in range(steps):
            step(batch)
        torch.cuda.synchronize()
        rate = steps * batch_size / (time.perf_counter() - began)
    except RuntimeError as problem:
        return Row(method=name, rate=math.nan, columns={"failed": " ".join(str(problem).split())[:60]})
    gibibytes = torch.cuda.max_memory_allocated() / 2**30
    percent = 100 * rate * flops / 1e3 / peak
    return Row(method=name, rate=rate, columns={"GFLOP/crop": flops, "% of bf16 peak": percent, "GiB": gibibytes})


def _known_peak(name: str) -> float:
    return next((peak for part, peak in PEAK_TFLOPS.items() if part in name), math.nan)


class GraphedStep:
    """The step of a model's recipe as a CUDA graph, captured at its first call and replayed afterwards.

    Weights change as in `CycleGAN.step` as long as gradients are finite and below the clipping norm. The model's own
    optimizers and moving average are not used.
    """

    def __init__(self, model: CycleGAN) -> None:
        config = model.config
        optimizer = config.optimizer
        assert optimizer.lr_separator is not None
        assert optimizer.lr_discriminator is not None
        assert optimizer.betas_separator is not None
        on_gpu = model.device.type == "cuda"
        self._model = model
        self._generator_optimizer = torch.optim.Adam(
            [parameter for module in model.generators.values() for parameter in module.parameters()],
            lr=optimizer.lr_separator,
            betas=optimizer.betas_separator,
            fused=True,
            capturable=on_gpu,
        )
        self._discriminator_optimizer = torch.optim.Adam(
            [parameter for module in model.discriminators.values() for parameter in module.parameters()],
            lr=optimizer.lr_discriminator,
            betas=optimizer.betas_discriminator,
            fused=True,
            capturable=on_gpu,
        )
        self._adversarial_loss = AdversarialLoss(
            config, model.discriminators, model.discriminators, DistributedContext()
        )
        self._graph: torch.cuda.CUDAGraph | None = None
        self._batch: Batch | None = None

    def __call__(self, batch: Batch) -> None:
        """Run one step on `batch`; the first call runs warm-up steps and captures one, on a separate stream."""
        if self._graph is None or self._batch is None:
            self._capture(batch)
        else:
            self._batch.mixture.copy_(batch.mixture)
            self._batch.target.copy_(batch.target)
            self._graph.replay()

    def eager(self, batch: Batch) -> None:
        """Run the same step without a graph: generators first, then discriminators on the same fakes."""
        config, rng = self._model.config, torch.Generator().manual_seed(0)
        autocast = torch.autocast(self._model.device.type, dtype=torch.bfloat16, enabled=config.precision == "bf16")
        self._generator_optimizer.zero_grad(set_to_none=True)
        with autocast:
            outputs = FORWARD[self._model.recipe.forward](self._model.generators, batch, self._model.weights)
            pairs = discriminator_inputs(config, outputs.pairs, rng, paired=batch.paired, sample_rate=SAMPLE_RATE)
            terms = outputs.terms | self._adversarial_loss.generator_terms(pairs, rng, self._model.weights)
        torch.stack([self._model.weights[name] * term for name, term in terms.items()]).sum().backward()
        self._generator_optimizer.step()
        self._discriminator_optimizer.zero_grad(set_to_none=True)
        discriminator_terms, _ = self._adversarial_loss.discriminator_terms(pairs, rng, step=0, autocast=autocast)
        torch.stack(list(discriminator_terms.values())).sum().backward()
        self._discriminator_optimizer.step()

    def _capture(self, batch: Batch) -> None:
        # A copy, because later batches are written into it.
        self._batch = replace(batch, mixture=batch.mixture.clone(), target=batch.target.clone())
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(WARMUP_STEPS):
                self.eager(self._batch)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self.eager(self._batch)
        self._graph = graph
