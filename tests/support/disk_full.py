"""What test_ingest_integrity.py runs where a small disk is mounted at FOLDER/disk: `python small_disk.py CASE FOLDER`.

Prints what happened as one line of JSON. The disk is told to be smaller, larger or read-only by mounting it again.
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
from cyclesep.data.ingest import IngestConfig, ingest
from cyclesep.data.shards.reading import ShardReader
from cyclesep.errors import ShardError
from tests.data.test_ingest import config_of
from tests.data.test_ingest_integrity import digest_in, ingest_alone, names_in, words_of


def run(job: str, words: list[str]) -> tuple[int, str, list[str]]:
    """Status, stdout and lines on stderr of a job."""
    out, err, status = io.StringIO(), io.StringIO(), 0
    with redirect_stdout(out), redirect_stderr(err):
        try:
            run_job(job, words)
        except SystemExit as ended:
            status = int(ended.code or 0)
    return status, out.getvalue(), err.getvalue().splitlines()


def remount(disk: Path, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", str(disk)], check=True)


def full(disk: Path, config: IngestConfig) -> dict[str, Any]:
    """An ingest of more than the disk holds, on Ray; then the same on a larger one."""
    folder = Path(config.output)
    with connect(num_cpus=2):
        status, out, err = run("ingest", words_of(config))
        told: dict[str, Any] = {"status": status, "out": out, "err": err}
        told["num_finished"] = len(list(folder.glob("*.track.json")))
        try:
            ShardReader(folder)
        except ShardError as problem:
            told["reader"] = str(problem).partition(";")[0]
        remount(disk, "size=16m")
        report = ingest(config)
    told |= {"num_kept": report.num_kept, "num_ingested": report.num_ingested, "digest": digest_in(folder)}
    return told | {"partial_after": sorted(name for name in names_in(folder) if name.endswith(".partial"))}


def read_only(disk: Path, config: IngestConfig) -> dict[str, Any]:
    """A corpus on a disk that may only be read from then on, and an ingest into it."""
    folder = Path(config.output)
    ingest_alone(config)
    before = sorted(names_in(folder))
    remount(disk, "ro")
    err = io.StringIO()
    with redirect_stderr(err):
        status = run_with_error_handling("cyclesep ingest", lambda: len(ingest_alone(config).failed))
    return {
        "status": status,
        "err": err.getvalue().splitlines(),
        "digest": digest_in(folder),
        "names_before": before,
        "names": sorted(names_in(folder)),
        "status_of_verify": run("verify", [str(folder)])[0],
    }


def main(case: str, root: Path) -> None:
    disk = root / "disk"
    assert os.path.ismount(disk)
    config = config_of(root / "songs", disk / "out")
    told = {"full": full, "read-only": read_only}[case](disk, config)
    elsewhere = ingest_alone(config_of(root / "songs", root / "elsewhere")).manifest.digest
    print(json.dumps(told | {"digest_elsewhere": elsewhere}))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
