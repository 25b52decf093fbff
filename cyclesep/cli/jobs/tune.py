"""`cyclesep tune`: search for training settings."""

import sys

from cyclesep.cli.job import Job
from cyclesep.tuning.config import TuneConfig


def run(config: TuneConfig) -> int:
    """Search for training settings, or resume a search; the exit status is 1 if scoring the best run failed."""
    from rich.console import Console

    from cyclesep.cluster.connect import connect
    from cyclesep.cluster.job_folder import check_output_outlives_job
    from cyclesep.evaluation.score_display import print_summary
    from cyclesep.reports.search_report import write_search_report
    from cyclesep.reports.write_reports import print_report_location
    from cyclesep.tuning.search import evaluate_winner, search
    from cyclesep.tuning.search_display import print_search
    from cyclesep.tuning.space import grid_size, read_space

    check_output_outlives_job("output_dir", config.output_dir)
    # Report an invalid search space before Ray starts, which takes seconds.
    space = read_space(config.space, config.train)
    if config.search == "grid":
        grid_size(space)
    # The progress display reports on trials; the output of their processes would hide it.
    with connect(log_to_driver=False):
        result = search(config)
        report = write_search_report(result)
        scores = evaluate_winner(result) if config.evaluate else None
    print_search(result, console=Console())
    print_report_location(report)
    if scores is None:
        return 0
    print_summary(scores.tracks, console=Console())
    for failure in scores.failed:
        print(f"failed: {failure}", file=sys.stderr)
    return 1 if scores.failed else 0


JOB = Job(
    name="tune",
    description="Search for training settings, such as loss weights and learning rates, with Ray Tune.",
    config=TuneConfig,
    run=run,
    examples=(
        "jobs/configs/tune-demo/tune.yaml",
        "jobs/configs/tune-vocals-16k.yaml name=weights search=random scheduler=pbt num_trials=8",
        "jobs/configs/tune-vocals-16k.yaml name=small search=optuna scheduler=none objectives=[sdr,parameters]",
    ),
)
