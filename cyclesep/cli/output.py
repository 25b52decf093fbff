"""Output that several jobs share: warnings on stderr, a JSON file."""

import sys
from collections.abc import Sequence

from cyclesep.cluster.job_folder import check_output_outlives_job
from cyclesep.storage.path import StoragePath


def print_warnings(warnings: Sequence[str]) -> None:
    """Print each warning as a line on stderr."""
    for warning in warnings:
        print(f"warning: {warning}", file=sys.stderr)


def write_json(text: str, output: str | None) -> None:
    """Write JSON text to the file `output`, local or s3://, if one is given."""
    if output is not None:
        check_output_outlives_job("output", output)
        folder, _, name = output.rpartition("/")
        StoragePath.of(folder or ".").write_text(name, text)
