"""`cyclesep export`: export a separator to one file for applications."""

from cyclesep.cli.job import Job
from cyclesep.inference.config import ExportConfig


def run(config: ExportConfig) -> int:
    """Export a separator, and print what was written."""
    from cyclesep.cluster.job_folder import check_output_outlives_job
    from cyclesep.inference.export import export

    check_output_outlives_job("output", config.output)
    card = export(config)
    print(f"{config.output}: {', '.join(card.targets)} at {card.sample_rate} Hz, {card.channels} channels")
    print(f"{config.output}.json: how to use it, in segments of {card.segment_samples} samples")
    return 0


JOB = Job(
    name="export",
    description="Export a separator to one file for applications: ONNX or torch.export.",
    config=ExportConfig,
    run=run,
    examples=("quickstart output=vocals.pt2", "runs/vocals output=vocals.onnx segment_seconds=4"),
    positional="checkpoint",
    single_positional=True,
)
