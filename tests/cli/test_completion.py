"""Completion scripts, `cyclesep config`, help and did-you-mean: all made from the jobs' dataclasses."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest
import yaml

from cyclesep.cli import completion
from cyclesep.cli.main import JOBS, TOOLS, import_object, main
from cyclesep.cli.print_config import commented_yaml, markdown_table
from cyclesep.config import settings


@pytest.fixture(scope="module")
def scripts() -> dict[str, str]:
    words = completion.vocabulary()
    return {shell: write(completion.sentences(), words) for shell, write in completion.SHELLS.items()}


@pytest.fixture
def cyclesep(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """The command; gives its status, stdout and stderr."""

    def run(*words: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            main(words)
        output = capsys.readouterr()
        return int(ended.value.code or 0), output.out, output.err

    return run


def test_no_word_or_choice_holds_a_space_or_a_type() -> None:
    wholes = [whole for words in completion.vocabulary().values() for word in words for whole in word.whole]
    assert [whole for whole in wholes if any(bad in whole for bad in (" ", "=str", "=int", "=list", "Config"))] == []


def completed_by_bash(script: str, line: str) -> list[str]:
    ask = f"{script}\nCOMP_LINE='{line}'; COMP_POINT=${{#COMP_LINE}}; _cyclesep; printf '%s\\n' \"${{COMPREPLY[@]}}\""
    done = subprocess.run(["bash", "--norc", "-c", ask], capture_output=True, text=True, check=True)
    return done.stdout.split()


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("cyclesep tra", ["train"]),
        ("cyclesep separate file_", ["format=wav", "format=flac", "format=mp3"]),
        ("cyclesep separate format=f", ["flac"]),
        ("cyclesep separate song.wav --tw", ["--two-stems"]),
        ("cyclesep train step", ["steps="]),
        ("cyclesep train targ", ["targets="]),
        ("cyclesep train o", []),
        ("cyclesep separate sample_format=p", ["pcm24", "pcm16"]),
        ("cyclesep separate --dev", ["--device=auto", "--device=cpu", "--device=cuda"]),
        ("cyclesep separate --device=c", ["cpu", "cuda"]),
        ("cyclesep evaluate oracles=", ["[IRM1]", "[IRM2]", "[IBM]", "[MWF]"]),
        ("cyclesep evaluate oracles=[IR", ["[IRM1]", "[IRM2]"]),
        (
            "cyclesep train method.separator.na",
            [f"method.separator.name={n}" for n in ("seed", "waveunet", "tfsep")],
        ),
        ("cyclesep config separ", ["separate"]),
        ("cyclesep completion f", ["fish"]),
        ("cyclesep benchmark ing", ["ingest"]),
        ("cyclesep separate nothing-like-it", []),
    ],
)
def test_bash_completes_jobs_settings_and_choices(scripts: dict[str, str], line: str, expected: list[str]) -> None:
    assert completed_by_bash(scripts["bash"], line) == expected


def test_bash_completes_every_job_after_nothing(scripts: dict[str, str]) -> None:
    assert completed_by_bash(scripts["bash"], "cyclesep ") == [*JOBS, *TOOLS, "--help", "--version"]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_scripts_know_every_setting_and_parse(scripts: dict[str, str], shell: str, tmp_path: Path) -> None:
    for job in JOBS.values():
        for setting in settings.reference(import_object(job.config)):
            assert setting.name in scripts[shell]
    if shutil.which(shell):
        (tmp_path / "script").write_text(scripts[shell])
        subprocess.run([shell, "-n", str(tmp_path / "script")], check=True)


def test_the_command_prints_the_script_and_knows_its_shells(cyclesep: Callable[..., tuple[int, str, str]]) -> None:
    assert cyclesep("completion", "bash")[1].startswith("# bash completion of cyclesep")
    assert cyclesep("completion", "bassh")[::2] == (
        2, "cyclesep completion: error: there is no completion for 'bassh'; did you mean bash?\n",
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Inner:
    """What lies within. More of it."""

    kind: Literal["one", "two"] = "one"
    """Which | of both."""


@dataclass(frozen=True, kw_only=True)
class Outer:
    """A config."""

    source: str
    """Where from."""
    inner: Inner = field(default_factory=Inner)
    names: tuple[str, ...] = ("a: b", "c")
    """Some names."""


def test_yaml_has_each_sentence_above_its_setting_and_required_ones_as_comments() -> None:
    assert commented_yaml(Outer, {"inner": {"kind": "two"}}) == (
        "# Where from. (str)\n# source:   # required\n"
        "inner:\n  # Which | of both. (one | two)\n  kind: two\n"
        "# Some names. (list of str)\nnames: ['a: b', c]\n"
    )


def test_the_table_has_a_row_for_each_setting_with_bars_escaped() -> None:
    table = markdown_table(Outer)
    assert "| `source` | str | required | Where from. |" in table
    assert "### `inner`\n\nWhat lies within. More of it.\n" in table
    assert r"| `inner.kind` | one \| two | `one` | Which \| of both. |" in table


@pytest.mark.parametrize("name", JOBS)
def test_the_yaml_of_every_job_is_its_defaults(name: str) -> None:
    config_class = import_object(JOBS[name].config)
    stated = dict(settings.flat(yaml.safe_load(commented_yaml(config_class)) or {}))
    plain = {setting.name: setting.default for setting in settings.reference(config_class)}
    for setting, value in stated.items():
        if setting in plain and isinstance(plain[setting], str | int | float | bool):
            assert value == plain[setting]
    assert all(setting.sentence for setting in settings.reference(config_class)), "each setting has its sentence"


def test_files_and_words_are_in_the_yaml_and_checked(cyclesep: Callable[..., tuple[int, str, str]]) -> None:
    status, told, _ = cyclesep("config", "train", "steps=7", "method.recipe=paired")
    assert status == 0
    values = yaml.safe_load(told)
    assert (values["steps"], values["method"]["recipe"]) == (7, "paired")
    status, told, error = cyclesep("config", "train", "method.recipe=pared")
    assert (status, told) == (1, "")
    assert "did you mean paired? choices: remix, cyclegan, paired, supervised" in error
    assert "did you mean train?" in cyclesep("config", "trainn")[2]
    assert cyclesep("config", "separate", "--markdown")[1].count("| `separation.") == 5


def test_help_shows_examples_options_and_groups(cyclesep: Callable[..., tuple[int, str, str]]) -> None:
    for name, job in JOBS.items():
        status, told, _ = cyclesep(name, "--help")
        assert status == 0
        assert all(f"  cyclesep {name} {example}" in told for example in job.examples)
    assert "settings of separation: How a track is cut" in cyclesep("separate", "--help")[1]
    assert "list of str; required" in cyclesep("separate", "--help")[1]


def test_a_mistyped_tool_is_recognised(cyclesep: Callable[..., tuple[int, str, str]]) -> None:
    status, _, error = cyclesep("completoin")
    assert status == 2
    assert error == "cyclesep: error: there is no job 'completoin'; did you mean completion?\n"


@pytest.mark.parametrize("words", [["--help"], ["--version"], ["completion", "bash"], ["config", "train"]])
def test_output_that_nobody_reads_is_no_error(words: list[str]) -> None:
    reads, writes = os.pipe()
    os.close(reads)
    command = [sys.executable, "-c", "from cyclesep.cli.main import main; main()", *words]
    done = subprocess.run(command, stdout=writes, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writes)
    assert (done.returncode, done.stderr) == (1, "")
