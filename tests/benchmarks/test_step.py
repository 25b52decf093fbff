"""The step benchmark: the baseline does the notebook's operations, ours has its gradients, rows are complete."""

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
    for module, twin in zip(ours, notebook.networks(), strict=True):
        for own, theirs in zip(module.parameters(), twin.parameters(), strict=True):
            torch.testing.assert_close(own, theirs.view_as(own), rtol=0, atol=1e-9)


def test_other_gradients_are_told_and_nothing_is_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(step_baselines, "EXACT", {**EXACT, "loss_weights": {"cycle": 9.0}})
    with pytest.raises(TrainingError, match="the two steps are not the same"):
        check_gradients(8)


def test_steps_of_full_width_do_the_operations_that_were_computed_for_them() -> None:
    batch = random_batch(1)
    notebook = NotebookStep(width=64, device=torch.device("cpu"))
    written = gigaflops_per_crop(lambda batch: notebook.step(batch.mixture, batch.target[:, 0]), batch)
    corrected = gigaflops_per_crop(build_model(CORRECTED, width=64).step, batch)
    assert written == pytest.approx(80.7, abs=0.1)
    assert corrected == pytest.approx(140.1, abs=0.1)


def test_the_notebooks_generator_learns_from_the_cycle_alone() -> None:
    notebook, _, batch = same_start(8, 2)
    generated = []
    notebook.generator.register_forward_hook(lambda _module, _inputs, output: generated.append(output.requires_grad))
    notebook.step(batch.mixture, batch.target[:, 0])
    assert generated == [False, True]


def test_the_graphed_step_learns_what_the_trainer_learns() -> None:
    batch = random_batch(2)
    changes = {**CORRECTED, "optimizer.clip_norm": 1e30, "discriminator.phase_shuffle": 0}
    trained, other = build_model(changes, width=8), build_model(changes, width=8)
    trained.step(batch)
    level = batch.mixture.square().mean().sqrt()
    assert float(level) == pytest.approx(1.0, abs=1e-6)
    GraphedStep(other).eager(batch)
    for name, module in (trained.generators | trained.discriminators).items():
        twin = (other.generators | other.discriminators)[name]
        for own, theirs in zip(module.parameters(), twin.parameters(), strict=True):
            # One step of Adam moves each weight by the learning rate, whatever the gradient's size.
            assert float((own - theirs).detach().abs().mean()) < 2e-6


def test_a_run_times_all_ways_in_turn_beside_the_notebook() -> None:
    (table,) = run(StepBenchmark(width=8, batch_size=1, rounds=1, threads=(1,)))
    assert table.baseline == BASELINE
    assert [row.way for row in table.rows] == [
        f"{way}, {precision}"
        for way in ("notebook", "same gradients", "corrected")
        for precision in ("float32", "bfloat16")
    ]
    for row in table.rows:
        assert math.isfinite(row.rate)
        assert float(row.columns["s/step"]) == pytest.approx(1 / row.rate)
    flops = {row.way: row.columns["GFLOP/crop"] for row in table.rows}
    assert flops["same gradients, float32"] < flops["notebook, float32"] < flops["corrected, float32"]
