"""`cyclesep report`: write the page of a run or of an evaluation anew."""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import Field

from cyclesep.errors import ConfigError, CyclesepError
from cyclesep.evaluation.track_scores import SUMMARY
from cyclesep.reports.evaluation_report import write_evaluation_report
from cyclesep.reports.training_report import write_training_report
from cyclesep.storage.atomic_io import shown
from cyclesep.storage.path import StoragePath

RUN = "run.json"


@dataclass(frozen=True, kw_only=True)
class ReportConfig:
    """Which pages are written."""

    folders: Annotated[tuple[str, ...], Field(min_length=1)]
    """Folders of evaluations or of training runs, here or s3://bucket/prefix; each gets its report.html."""


def run(config: ReportConfig) -> int:
    """Write report.html into each folder; raises ConfigError for a folder that is neither run nor evaluation."""
    for place in config.folders:
        folder = StoragePath.of(place)
        files = folder.sizes("")
        if SUMMARY in files:
            tell_report(write_evaluation_report(folder))
        elif RUN in files:
            tell_report(write_training_report(folder))
        else:
            raise ConfigError(f"folders: {place} holds neither {SUMMARY} of an evaluation nor {RUN} of a finished run")
    return 0


def write_report(folder: StoragePath | Path | str, write: Callable[[StoragePath | Path | str], str]) -> None:
    """Write a page at the end of a job, and say so; the job's own work counts, whatever becomes of the page."""
    try:
        tell_report(write(folder))
    except CyclesepError as problem:
        print(f"warning: there is no report: {problem}", file=sys.stderr)


def tell_report(place: str) -> None:
    """Say where a page lies and how to look at it."""
    remote = "://" in place
    told = place if remote else shown(Path(place))
    print(f"report: {told} ({'fetch it and open it' if remote else 'open it'} in a browser)")
