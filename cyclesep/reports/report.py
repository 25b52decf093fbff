"""`cyclesep report`: write the page of a run or of an evaluation anew."""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import Field

from cyclesep.errors import ConfigError, CyclesepError
from cyclesep.evaluation.results import SUMMARY
from cyclesep.reports.evaluation_report import write_evaluation_report
from cyclesep.reports.training_report import write_training_report
from cyclesep.storage.uri import display_path
from cyclesep.storage.path import StoragePath

RUN = "run.json"


@dataclass(frozen=True, kw_only=True)
class ReportConfig:
    """Which pages are written."""

    folders: Annotated[tuple[str, ...], Field(min_length=1)]
    """Folders of evaluations or of training runs, here or s3://bucket/prefix; each gets its report.html."""


def write_report(folder: StoragePath | Path | str, write: Callable[[StoragePath | Path | str], str]) -> None:
    """Write a page at the end of a job, and say so; the job's own work counts, whatever becomes of the page."""
    try:
        tell_report(write(folder))
    except CyclesepError as problem:
        print(f"warning: there is no report: {problem}", file=sys.stderr)


def tell_report(place: str) -> None:
    """Say where a page lies and how to look at it."""
    remote = "://" in place
    told = place if remote else display_path(Path(place))
    print(f"report: {told} ({'fetch it and open it' if remote else 'open it'} in a browser)")
