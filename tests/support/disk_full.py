"""Test cases on a small disk at FOLDER/disk; run as `python -m tests.support.disk_full CASE FOLDER`.

Prints the outcome as one line of JSON. The disk is remounted to change its size or to make it read-only.
"""

import io
import json
import os
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

from cyclesep.cli.error_handling import run_with_error_handling
from cyclesep.cli.main import run_job
from cyclesep.cluster.connect import connect
from cyclesep.data.config import IngestConfig
from cyclesep.data.ingest import ingest
from cyclesep.data.shards.reading import ShardReader
from cyclesep.errors import ShardError
from tests.support.ingest_helpers import corpus_digest, file_names, ingest_arguments, ingest_config, ingest_without_ray


def run(job: str, arguments: list[str]) -> tuple[int, str, list[str]]:
    """Run a job and return its status, stdout and the lines of stderr."""
    out, err, status = io.StringIO(), io.StringIO(), 0
    with redirect_stdout(out), redirect_stderr(err):
        try:
            run_job(job, arguments)
        except SystemExit as ended:
            status = int(ended.code or 0)
    return status, out.getvalue(), err.getvalue().splitlines()


def remount(disk: Path, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", str(disk)], check=True)


def full(disk: Path, config: IngestConfig) -> dict[str, Any]:
    """Ingest more than the disk can hold, with Ray; then the same on a larger disk."""
    folder = Path(config.output)
    with connect(num_cpus=2):
        status, out, err = run("ingest", ingest_arguments(config))
        result: dict[str, Any] = {"status": status, "out": out, "err": err}
        result["num_finished"] = len(list(folder.glob("*.track.json")))
        try:
            ShardReader(folder)
        except ShardError as error:
            result["reader"] = str(error).partition(";")[0]
        remount(disk, "size=16m")
        report = ingest(config)
    result |= {
        "num_unchanged": report.num_unchanged,
        "num_ingested": report.num_ingested,
        "digest": corpus_digest(folder),
    }
    return result | {"partial_after": sorted(name for name in file_names(folder) if name.endswith(".partial"))}


def read_only(disk: Path, config: IngestConfig) -> dict[str, Any]:
    """Ingest, make the disk read-only, and ingest and verify again."""
    folder = Path(config.output)
    ingest_without_ray(config)
    before = sorted(file_names(folder))
    remount(disk, "ro")
    err = io.StringIO()
    with redirect_stderr(err):
        status = run_with_error_handling("cyclesep ingest", lambda: len(ingest_without_ray(config).failed))
    return {
        "status": status,
        "err": err.getvalue().splitlines(),
        "digest": corpus_digest(folder),
        "names_before": before,
        "names": sorted(file_names(folder)),
        "status_of_verify": run("verify", [str(folder)])[0],
    }


def main(case: str, root: Path) -> None:
    disk = root / "disk"
    assert os.path.ismount(disk)
    config = ingest_config(root / "songs", disk / "out")
    result = {"full": full, "read-only": read_only}[case](disk, config)
    elsewhere = ingest_without_ray(ingest_config(root / "songs", root / "elsewhere")).manifest.digest
    print(json.dumps(result | {"digest_elsewhere": elsewhere}))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
