"""`cyclesep evaluate`: separate and score a test split."""

from cyclesep.cli.job import Job
from cyclesep.evaluation.config import EvaluateConfig


def run(config: EvaluateConfig) -> int:
    """Separate and score a test split; the exit status is 1 if a track failed."""
    from rich.console import Console

    from cyclesep.cluster.job_folder import check_output_outlives_job
    from cyclesep.evaluation.evaluate import evaluate
    from cyclesep.evaluation.score_display import print_summary
    from cyclesep.reports.evaluation_report import write_evaluation_report
    from cyclesep.reports.write_reports import write_report

    check_output_outlives_job("output", config.output)
    result = evaluate(config)
    print_summary(result.tracks, console=Console())
    for failure in result.failed:
        print(f"failed: {failure}")
    write_report(result.output, write_evaluation_report)
    return 1 if result.failed else 0


JOB = Job(
    name="evaluate",
    description="Separate and score a test split in parallel, compared with the mixture, a heuristic and oracle masks.",
    config=EvaluateConfig,
    run=run,
    examples=("checkpoint=runs/quickstart shards=data/quickstart output=runs/quickstart/test",),
)
