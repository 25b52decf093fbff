"""Write a report at the end of a job and print its location."""

import sys
from collections.abc import Callable
from pathlib import Path

from cyclesep.errors import CyclesepError
from cyclesep.storage.path import StoragePath
from cyclesep.storage.uri import display_path


def write_report(folder: StoragePath | Path | str, write: Callable[[StoragePath | Path | str], str]) -> None:
    """Write a report with `write` and print its location; an error is only a warning, since the job itself is done."""
    try:
        print_report_location(write(folder))
    except CyclesepError as error:
        print(f"warning: no report was written: {error}", file=sys.stderr)


def print_report_location(uri: str) -> None:
    """Print where a report is and how to view it."""
    if "://" in uri:
        print(f"report: {uri} (download it and open it in a browser)")
    else:
        print(f"report: {display_path(Path(uri))} (open it in a browser)")
