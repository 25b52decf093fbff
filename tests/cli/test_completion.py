"""Completion scripts, `cyclesep config` and help, all generated from the jobs' config dataclasses."""

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
from cyclesep.cli.main import main
from cyclesep.cli.print_config import commented_yaml, markdown_table
from cyclesep.cli.registry import JOBS, TOOLS, descriptions
from cyclesep.config.nesting import flatten
from cyclesep.config.schema import list_settings


@pytest.fixture(scope="module")
def scripts() -> dict[str, str]:
    candidates = completion.list_candidates()
    return {shell: script(descriptions(), candidates) for shell, script in completion.SHELLS.items()}


@pytest.fixture
def cyclesep(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Runs the command; returns its status, stdout and stderr."""

    def run(*arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        output = capsys.readouterr()
        return int(ended.value.code or 0), output.out, output.err

    return run


def test_candidates_contain_no_space_and_no_type() -> None:
    texts = [text for group in completion.list_candidates().values() for each in group for text in each.expanded]
    assert [text for text in texts if any(bad in text for bad in (" ", "=str", "=int", "=list", "Config"))] == []


def completed_by_bash(script: str, line: str) -> list[str]:
    ask = f"{script}\nCOMP_LINE='{line}'; COMP_POINT=${{#COMP_LINE}}; _cyclesep; printf '%s\\n' \"${{COMPREPLY[@]}}\""
    done = subprocess.run(["bash", "--norc", "-c", ask], capture_output=True, text=True, check=True)
    return done.stdout.split()


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("cyclesep tra", ["train"]),
        ("cyclesep separate form", ["format=wav", "format=flac", "format=mp3"]),
        ("cyclesep separate format=f", ["flac"]),
        ("cyclesep separate song.wav --tw", ["--two-stems"]),
        ("cyclesep train step", ["steps="]),
        ("cyclesep train targ", ["targets="]),
        ("cyclesep train out", ["output_dir="]),
        ("cyclesep train zz", []),
        ("cyclesep separate sample_format=p", ["pcm24", "pcm16"]),
        ("cyclesep separate --dev", ["--device=auto", "--device=cpu", "--device=cuda"]),
        ("cyclesep separate --device=c", ["cpu", "cuda"]),
        ("cyclesep evaluate oracles=", ["[IRM1]", "[IRM2]", "[IBM]", "[MWF]"]),
        ("cyclesep evaluate oracles=[IR", ["[IRM1]", "[IRM2]"]),
        (
            "cyclesep train method.separator.na",
            [f"method.separator.name={name}" for name in ("wavegan", "waveunet", "tfsep")],
        ),
        ("cyclesep config separ", ["separate"]),
        ("cyclesep completion f", ["fish"]),
        ("cyclesep benchmark", []),
        ("cyclesep separate nothing-like-it", []),
    ],
)
def test_bash_completes_jobs_settings_and_choices(scripts: dict[str, str], line: str, expected: list[str]) -> None:
    assert completed_by_bash(scripts["bash"], line) == expected


def test_bash_completes_all_jobs_without_a_prefix(scripts: dict[str, str]) -> None:
    assert completed_by_bash(scripts["bash"], "cyclesep ") == [*JOBS, *TOOLS, "--help", "--version"]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_scripts_contain_every_setting_and_parse(scripts: dict[str, str], shell: str, tmp_path: Path) -> None:
    for job in JOBS.values():
        for setting in list_settings(job.config):
            assert setting.name in scripts[shell]
    if shutil.which(shell):
        (tmp_path / "script").write_text(scripts[shell])
        subprocess.run([shell, "-n", str(tmp_path / "script")], check=True)


def test_completion_command(cyclesep: Callable[..., tuple[int, str, str]]) -> None:
    assert cyclesep("completion", "bash")[1].startswith("# bash completion of cyclesep")
    assert cyclesep("completion", "bassh")[::2] == (
        2, "cyclesep completion: error: no completion for 'bassh'; did you mean bash?\n",
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Inner:
    """The inner group. More of it."""

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


def test_yaml_has_descriptions_and_comments_for_required_settings() -> None:
    assert commented_yaml(Outer, {"inner": {"kind": "two"}}) == (
        "# Where from. (str)\n# source:   # required\n"
        "inner:\n  # Which | of both. (one | two)\n  kind: two\n"
        "# Some names. (list of str)\nnames: ['a: b', c]\n"
    )


def test_markdown_table_has_a_row_per_setting_with_escaped_bars() -> None:
    table = markdown_table(Outer)
    assert "| `source` | str | required | Where from. |" in table
    assert "### `inner`\n\nThe inner group. More of it.\n" in table
    assert r"| `inner.kind` | one \| two | `one` | Which \| of both. |" in table


@pytest.mark.parametrize("name", JOBS)
def test_yaml_of_every_job_has_its_defaults(name: str) -> None:
    config_class = JOBS[name].config
    printed = dict(flatten(yaml.safe_load(commented_yaml(config_class)) or {}))
    defaults = {setting.name: setting.default for setting in list_settings(config_class)}
    for setting, value in printed.items():
        if setting in defaults and isinstance(defaults[setting], str | int | float | bool):
            assert value == defaults[setting]
    assert all(setting.description for setting in list_settings(config_class)), "each setting has a description"


def test_config_merges_and_validates_overrides(cyclesep: Callable[..., tuple[int, str, str]]) -> None:
    status, output, _ = cyclesep("config", "train", "steps=7", "method.recipe=paired")
    assert status == 0
    values = yaml.safe_load(output)
    assert (values["steps"], values["method"]["recipe"]) == (7, "paired")
    status, output, error = cyclesep("config", "train", "method.recipe=pared")
    assert (status, output) == (1, "")
    assert "did you mean paired? choices: remix, cyclegan, paired, supervised" in error
    assert "no job named 'trainn'; did you mean train?" in cyclesep("config", "trainn")[2]
    assert cyclesep("config", "separate", "--markdown")[1].count("| `separation.") == 5


def test_help_shows_examples_options_and_groups(cyclesep: Callable[..., tuple[int, str, str]]) -> None:
    for name, job in JOBS.items():
        status, text, _ = cyclesep(name, "--help")
        assert status == 0
        assert all(f"  cyclesep {name} {example}" in text for example in job.examples)
    assert "settings of separation: " in cyclesep("separate", "--help")[1]
    assert "list of str; required" in cyclesep("separate", "--help")[1]


def test_mistyped_tool_is_suggested(cyclesep: Callable[..., tuple[int, str, str]]) -> None:
    status, _, error = cyclesep("completoin")
    assert status == 2
    assert error == "cyclesep: error: no job named 'completoin'; did you mean completion?\n"


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["completion", "bash"], ["config", "train"]])
def test_closed_stdout_prints_no_error(arguments: list[str]) -> None:
    reads, writes = os.pipe()
    os.close(reads)
    command = [sys.executable, "-c", "from cyclesep.cli.main import main; main()", *arguments]
    done = subprocess.run(command, stdout=writes, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writes)
    assert (done.returncode, done.stderr) == (1, "")
