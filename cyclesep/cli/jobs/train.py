"""`cyclesep train`: train a separator."""

from typing import TYPE_CHECKING

from cyclesep.cli.job import Job
from cyclesep.training.config import TrainConfig

if TYPE_CHECKING:
    from cyclesep.checkpoints.metadata import CheckpointMetadata


def run(config: TrainConfig) -> int:
    """Train a separator, or resume a run, and print the result."""
    from cyclesep.cluster.job_folder import check_output_outlives_job
    from cyclesep.reports.training_report import write_training_report
    from cyclesep.reports.write_reports import write_report
    from cyclesep.storage.uri import display_path
    from cyclesep.training.fit import fit

    check_output_outlives_job("output_dir", config.output_dir)
    result = fit(config)
    folder = display_path(result.folder.uri)
    print(f"{folder}: {_summary(result.metadata)}")
    print(f"best checkpoint {result.best.name}, last {result.last.name}; separate with checkpoint={folder}")
    write_report(result.folder, write_training_report)
    return 0


def _summary(metadata: "CheckpointMetadata") -> str:
    """Summarize a run in one line: steps, duration, hardware and validation scores."""
    from cyclesep.checkpoints.metadata import format_validation

    summary = f"{metadata.step} steps in {metadata.training_seconds:.0f} s on {metadata.hardware}"
    scores = format_validation(metadata.metrics)
    return f"{summary}; validation {scores}" if scores else summary


JOB = Job(
    name="train",
    description="Train a separator on shards, with Ray Train, on one machine or many.",
    config=TrainConfig,
    run=run,
    examples=(
        "jobs/configs/quickstart/train.yaml",
        "shards=data/musdb18 name=vocals targets=[vocals] num_workers=4 use_gpu=true",
        "jobs/configs/quickstart/train.yaml method.recipe=supervised name=supervised-baseline",
        "runs/quickstart/step-00000700 name=longer steps=1400",
    ),
    checkpoint_setting="init_from",
)
