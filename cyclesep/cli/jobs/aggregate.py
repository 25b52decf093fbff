"""`cyclesep aggregate`: summarize museval JSON files in a table."""

from cyclesep.cli.job import Job
from cyclesep.evaluation.config import AggregateConfig


def run(config: AggregateConfig) -> int:
    """Print a table of the scores in museval JSON files; warnings go to stderr."""
    from rich.console import Console

    from cyclesep.cli.output import print_warnings, write_json
    from cyclesep.evaluation.aggregate import aggregate
    from cyclesep.evaluation.score_display import print_aggregate

    table = aggregate(config)
    print_aggregate(table, over_frames=config.over_frames, over_tracks=config.over_tracks, console=Console())
    print_warnings(table.warnings)
    write_json(table.to_json(), config.output)
    return 0


JOB = Job(
    name="aggregate",
    description="Summarize museval JSON files in a table: of one system, of a folder of systems, of SiSEC 2018.",
    config=AggregateConfig,
    run=run,
    examples=("runs/quickstart/test-songs", "sisec18 targets=[vocals,accompaniment] output=table.json"),
    positional="folders",
)
