"""The settings in a file: fresh, the same as the dataclasses', and read without importing what takes seconds."""

import subprocess
import sys
from pathlib import Path

import pytest

from cyclesep.cli.help import job_help
from cyclesep.cli.main import JOBS, import_object
from cyclesep.cli.print_config import commented_yaml
from cyclesep.cli.reference import FILE, job_reference, reference_of, reference_text

HEAVY = "torch, ray, scipy, matplotlib, pyarrow, lmdb, musdb"
RUN = f"""
import sys
from cyclesep.cli.main import main
try:
    main(sys.argv[1:])
except SystemExit as ended:
    status = ended.code
print("found:", *(name for name in "{HEAVY}".split(", ") if name in sys.modules), file=sys.stderr)
sys.exit(status)
"""


def imported_by(*words: str, heavy: str = HEAVY) -> tuple[set[str], str]:
    """Which of the heavy packages a command has import_object, and what it printed."""
    done = subprocess.run([sys.executable, "-c", RUN, *words], capture_output=True, text=True, check=True)
    found = done.stderr.rpartition("found:")[2].split()
    return set(found) & set(heavy.split(", ")), done.stdout


def test_the_file_is_what_the_dataclasses_give() -> None:
    assert FILE.read_text(encoding="utf-8") == reference_text(), "run `make reference`"


@pytest.mark.parametrize("name", JOBS)
def test_help_out_of_the_file_is_that_of_the_dataclass(name: str) -> None:
    helped = {
        job_help(name, "", (), {"--help": ""}, reference.groups)
        for reference in (job_reference(name, JOBS[name]), reference_of(import_object(JOBS[name].config)))
    }
    assert len(helped) == 1


@pytest.mark.parametrize(
    "words",
    [["--help"], ["--version"], ["completion", "zsh"], ["config", "--help"], ["config", "tune"], ["train", "--help"],
     ["config", "evaluate", "--markdown"]],
    ids=" ".join,
)  # fmt: skip
def test_what_only_tells_of_settings_imports_nothing_heavy(words: list[str]) -> None:
    found, told = imported_by(*words)
    assert not found
    assert told


def test_config_without_words_is_the_yaml_of_the_dataclass() -> None:
    assert imported_by("config", "train")[1] == commented_yaml(import_object(JOBS["train"].config))


def test_info_of_shards_imports_neither_torch_nor_ray(tiny_shards: Path) -> None:
    found, told = imported_by("info", str(tiny_shards), heavy="torch, ray")
    assert not found
    assert "10 tracks, 40.0 s, 8000 Hz" in told
