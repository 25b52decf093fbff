"""`cyclesep compare`: compare evaluations."""

from cyclesep.cli.job import Job
from cyclesep.evaluation.config import CompareConfig


def run(config: CompareConfig) -> int:
    """Compare evaluations and print which differences are significant; warnings go to stderr."""
    from rich.console import Console

    from cyclesep.cli.output import print_warnings, write_json
    from cyclesep.evaluation.compare import compare
    from cyclesep.evaluation.score_display import print_comparison

    comparison = compare(config)
    print_comparison(comparison, min_effect_db=config.min_effect_db, console=Console())
    print_warnings(comparison.warnings)
    write_json(comparison.to_json(), config.output)
    return 0


JOB = Job(
    name="compare",
    description="Compare evaluations, and test which differences are significant.",
    config=CompareConfig,
    run=run,
    examples=(
        "runs/quickstart/test-songs runs/supervised-baseline/test-songs",
        "runs/quickstart/test-songs systems=[heuristic,separator] metrics=[SDR,SI-SDR] output=comparison.json",
    ),
    positional="runs",
)
