"""The step benchmark: the baseline has the notebook's operations, ours the same gradients, rows are complete."""

import math

import pytest
import torch

from benchmarks import step_baselines
from benchmarks.gpu_step import GraphedStep
from benchmarks.notebook_step import NotebookStep
from benchmarks.step import BASELINE, StepBenchmark, run
from benchmarks.step_baselines import (
    CORRECTED,
    EXACT,
    build_model,
    check_gradients,
    gigaflops_per_crop,
    random_batch,
    same_start,
)
from cyclesep.errors import TrainingError

torch.set_num_threads(1)


def test_gradients_equal_the_notebooks_in_float64() -> None:
    assert check_gradients(8) < 1e-12


def test_weights_equal_the_notebooks_after_three_steps_in_float64() -> None:
    notebook, model, batch = same_start(8, 3)
    for _ in range(3):
        notebook.step(batch.mixture, batch.target[:, 0])
        model.step(batch)
    ours = (*model.generators.values(), *model.discriminators.values())
    for module, notebook_network in zip(ours, notebook.networks(), strict=True):
        for own, theirs in zip(module.parameters(), notebook_network.parameters(), strict=True):
            torch.testing.assert_close(own, theirs.view_as(own), rtol=0, atol=1e-9)


def test_different_gradients_raise_before_anything_is_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(step_baselines, "EXACT", {**EXACT, "loss_weights": {"cycle": 9.0}})
    with pytest.raises(TrainingError, match="the costs of the two steps cannot be compared"):
        check_gradients(8)


def test_flops_of_full_width_steps() -> None:
    batch = random_batch(1)
    notebook = NotebookStep(width=64, device=torch.device("cpu"))
    written = gigaflops_per_crop(lambda batch: notebook.step(batch.mixture, batch.target[:, 0]), batch)
    corrected = gigaflops_per_crop(build_model(CORRECTED, width=64).step, batch)
    assert written == pytest.approx(80.7, abs=0.1)
    assert corrected == pytest.approx(140.1, abs=0.1)


def test_the_notebook_generator_learns_from_the_cycle_only() -> None:
    notebook, _, batch = same_start(8, 2)
    generated = []
    notebook.generator.register_forward_hook(lambda _module, _inputs, output: generated.append(output.requires_grad))
    notebook.step(batch.mixture, batch.target[:, 0])
    assert generated == [False, True]


def test_the_graphed_step_equals_the_step_of_training() -> None:
    batch = random_batch(2)
    changes = {**CORRECTED, "optimizer.clip_norm": 1e30, "discriminator.phase_shuffle": 0}
    trained, other = build_model(changes, width=8), build_model(changes, width=8)
    trained.step(batch)
    level = batch.mixture.square().mean().sqrt()
    assert float(level) == pytest.approx(1.0, abs=1e-6)
    GraphedStep(other).eager(batch)
    for name, module in (trained.generators | trained.discriminators).items():
        graphed_network = (other.generators | other.discriminators)[name]
        for own, theirs in zip(module.parameters(), graphed_network.parameters(), strict=True):
            # One step of Adam changes each weight by the learning rate, independent of the gradient's size.
            assert float((own - theirs).detach().abs().mean()) < 2e-6


def test_a_run_times_all_methods() -> None:
    (table,) = run(StepBenchmark(width=8, batch_size=1, rounds=1, threads=(1,)))
    assert table.baseline == BASELINE
    assert [row.method for row in table.rows] == [
        f"{method}, {precision}"
        for method in ("notebook", "same gradients", "corrected")
        for precision in ("float32", "bfloat16")
    ]
    for row in table.rows:
        assert math.isfinite(row.rate)
        assert float(row.columns["s/step"]) == pytest.approx(1 / row.rate)
    flops = {row.method: row.columns["GFLOP/crop"] for row in table.rows}
    assert flops["same gradients, float32"] < flops["notebook, float32"] < flops["corrected, float32"]
