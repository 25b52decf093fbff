"""`cyclesep report`: regenerate HTML reports."""

from cyclesep.cli.job import Job
from cyclesep.errors import ConfigError
from cyclesep.reports.config import ReportConfig


def run(config: ReportConfig) -> int:
    """Write report.html into each folder; raises ConfigError for a folder that is neither a run nor an evaluation."""
    from cyclesep.checkpoints.run_folder import RunFolder
    from cyclesep.evaluation.results import SUMMARY
    from cyclesep.reports.evaluation_report import write_evaluation_report
    from cyclesep.reports.training_report import write_training_report
    from cyclesep.reports.write_reports import print_report_location
    from cyclesep.storage.path import StoragePath

    for place in config.folders:
        folder = StoragePath.of(place)
        files = folder.sizes("")
        if SUMMARY in files:
            print_report_location(write_evaluation_report(folder))
        elif RunFolder.RESULT in files:
            print_report_location(write_training_report(folder))
        else:
            raise ConfigError(
                f"folders: {place} contains neither {SUMMARY} of an evaluation nor {RunFolder.RESULT} of a finished run"
            )
    return 0


JOB = Job(
    name="report",
    description="Regenerate report.html of a run or an evaluation, a self-contained page that works offline.",
    config=ReportConfig,
    run=run,
    examples=("runs/quickstart runs/quickstart/test-songs",),
    positional="folders",
)
