"""Help, completion and `cyclesep config` answer without importing slow libraries."""

import subprocess
import sys
from pathlib import Path

import pytest

from cyclesep.cli.print_config import commented_yaml
from cyclesep.cli.registry import JOBS

HEAVY = "torch, ray, scipy, matplotlib, pyarrow, lmdb, musdb, boto3, museval, pandas"
RUN = f"""
import sys
from cyclesep.cli.main import main
try:
    main(sys.argv[1:])
except SystemExit as exit:
    status = exit.code
print("found:", *(name for name in "{HEAVY}".split(", ") if name in sys.modules), file=sys.stderr)
sys.exit(status)
"""


def imported_by(*arguments: str) -> tuple[set[str], str]:
    """Run a command; return the slow packages that it imports, and its output."""
    done = subprocess.run([sys.executable, "-c", RUN, *arguments], capture_output=True, text=True, check=True)
    return set(done.stderr.rpartition("found:")[2].split()), done.stdout


@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["--version"], ["completion", "zsh"], ["config", "--help"], ["config", "tune"],
     ["config", "train", "steps=7"], ["config", "evaluate", "--markdown"], *([job, "--help"] for job in JOBS)],
    ids=" ".join,
)  # fmt: skip
def test_help_completion_and_config_import_nothing_slow(arguments: list[str]) -> None:
    imported, output = imported_by(*arguments)
    assert not imported
    assert output


def test_config_without_arguments_prints_the_defaults() -> None:
    assert imported_by("config", "train")[1] == commented_yaml(JOBS["train"].config)


def test_info_of_shards_imports_neither_torch_nor_ray(tiny_shards: Path) -> None:
    imported, output = imported_by("info", str(tiny_shards))
    assert not imported & {"torch", "ray"}
    assert "10 tracks, 40.0 s, 8000 Hz" in output
