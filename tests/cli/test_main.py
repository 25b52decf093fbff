"""The command line: jobs, arguments, help, errors in one line, exit statuses."""

import importlib
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from cyclesep import __version__
from cyclesep.cli.job import Job
from cyclesep.cli.main import main, run_job
from cyclesep.cli.registry import JOBS
from cyclesep.errors import AudioError
from tests.support.paths import CHECKOUT


@dataclass(frozen=True, kw_only=True)
class ToyConfig:
    inputs: tuple[str, ...] = ()
    """Files to work on."""
    times: int = 1
    """How often."""
    init_from: str | None = None
    """Checkpoint to start from."""


@dataclass(frozen=True, kw_only=True)
class Toy:
    """A job for tests, and the configs that it ran with."""

    run: Callable[..., int]
    """Runs the job on arguments and returns its exit status."""
    configs: list[ToyConfig]


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> Toy:
    configs: list[ToyConfig] = []

    def work(config: ToyConfig) -> int:
        configs.append(config)
        if config.times == 13:
            raise AudioError("song.wav: holds no samples; export it again")
        if config.times == 14:
            raise ZeroDivisionError("a bug")
        if config.times == 15:
            raise KeyboardInterrupt
        return config.times - 1

    def run(*arguments: str, positional: str | None = "inputs", checkpoint_setting: str | None = None) -> int:
        job = Job(
            name="toy", description="A toy.", config=ToyConfig, run=work, examples=("song.wav",),
            positional=positional, checkpoint_setting=checkpoint_setting,
        )  # fmt: skip
        monkeypatch.setitem(JOBS, "toy", job)
        with pytest.raises(SystemExit) as ended:
            run_job("toy", arguments)
        return int(ended.value.code or 0)

    return Toy(run=run, configs=configs)


def test_overrides_become_a_config_and_the_result_the_status(toy: Toy) -> None:
    assert toy.run("times=1") == 0
    assert toy.run("times=3") == 2
    assert toy.configs[-1].times == 3


def test_file_names_with_spaces_quotes_and_brackets_are_inputs(toy: Toy) -> None:
    names = ("my song.wav", "it's [live], {x}.mp3", "#1.flac", "http=weird name.wav")
    assert toy.run(*names[:3], "times=1") == 0
    assert toy.configs[-1].inputs == names[:3]


def test_existing_file_with_an_equals_sign_in_its_name_is_an_input(
    toy: Toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "times=2").touch()
    assert toy.run("times=2") == 0
    assert toy.configs[-1] == ToyConfig(inputs=("times=2",))


def test_overrides_take_precedence_over_a_yaml_file(toy: Toy, tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text("times: 5\n")
    assert toy.run(str(tmp_path / "run.yaml")) == 4
    assert toy.run("times=2", str(tmp_path / "run.yaml")) == 1


def test_arguments_after_two_dashes_are_inputs(toy: Toy) -> None:
    assert toy.run("times=1", "--", "--song.wav") == 0
    assert toy.configs[-1].inputs == ("--song.wav",)


def test_value_of_a_setting_can_be_a_yaml_file(toy: Toy) -> None:
    assert toy.run("init_from=s3://bucket/best.yaml", "times=1") == 0
    assert toy.configs[-1].init_from == "s3://bucket/best.yaml"


def test_checkpoint_folder_provides_its_config(toy: Toy, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("times: 4\n")
    assert toy.run(str(tmp_path), "times=1", positional=None, checkpoint_setting="init_from") == 0
    assert toy.configs[-1] == ToyConfig(times=1, init_from=str(tmp_path))


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("times=often", "times: invalid value 'often'"),
        ("tims=2", "did you mean times"),
        ("stray", "invalid argument 'stray'; expected a YAML file or a setting"),
    ],
)
def test_invalid_argument_is_one_line_on_stderr(
    toy: Toy, capsys: pytest.CaptureFixture[str], argument: str, message: str
) -> None:
    assert toy.run(argument, positional=None) == 1
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.count("\n") == 1
    assert output.err.startswith("cyclesep toy: error: ")
    assert message in output.err
    assert not toy.configs


@pytest.mark.parametrize(
    ("times", "status", "message"), [(13, 1, "song.wav"), (14, 70, "ZeroDivisionError"), (15, 130, "interrupted")]
)
def test_errors_have_their_status_and_one_line(
    toy: Toy, capsys: pytest.CaptureFixture[str], times: int, status: int, message: str
) -> None:
    assert toy.run(f"times={times}") == status
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_debug_prints_the_traceback(toy: Toy, capsys: pytest.CaptureFixture[str]) -> None:
    assert toy.run("times=13", "--debug") == 1
    assert "Traceback" in capsys.readouterr().err


def test_print_config_does_not_run_the_job(toy: Toy, capsys: pytest.CaptureFixture[str]) -> None:
    assert toy.run("a.wav", "--print-config") == 0
    assert capsys.readouterr().out == "inputs:\n- a.wav\ntimes: 1\ninit_from: null\n"
    assert not toy.configs


def test_help_lists_every_setting(toy: Toy, capsys: pytest.CaptureFixture[str]) -> None:
    assert toy.run("--help") == 0
    text = capsys.readouterr().out
    assert "usage: cyclesep toy [INPUTS ...]" in text
    assert "times  (int; default: 1)\n      How often." in text
    assert "init_from  (str | none; default: none)" in text


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        ([], 0, "ingest"),
        (["--help"], 0, "make quickstart"),
        (["--version"], 0, __version__),
        (["trian"], 2, "no job named 'trian'; did you mean train?"),
    ],
)
def test_command_without_a_job(
    capsys: pytest.CaptureFixture[str], arguments: list[str], status: int, message: str
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    output = capsys.readouterr()
    assert ended.value.code == status
    assert message in output.out + output.err


def test_module_is_the_same_as_the_command() -> None:
    command = [sys.executable, "-m", "cyclesep", "--version"]
    done = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, check=True)
    assert done.stdout == f"cyclesep {__version__}\n"


@pytest.mark.parametrize("name", JOBS)
def test_every_job_has_a_module_and_a_script(name: str) -> None:
    assert importlib.import_module(f"cyclesep.cli.jobs.{name}").JOB is JOBS[name]
    script = CHECKOUT / "jobs" / f"{name}.py"
    assert f'run_job("{name}")' in script.read_text()


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["separate", "--json"], 1, "missing required argument: checkpoint"),
        (["separate", "song.wav", "checkpoint=nowhere", "json=true"], 1, "nowhere"),
        (["separate", "song.wav", "--json", "--two-stem", "vocals"], 2, "did you mean --two-stems?"),
        (["info", "nowhere", "--json"], 1, "nowhere"),
        (["info", "nowhere", "--json", "silence_threshold_db=loud"], 1, "silence_threshold_db: invalid value 'loud'"),
    ],
)
def test_json_option_prints_an_error_as_json_on_stdout(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    arguments: list[str], status: int, message: str,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    output = capsys.readouterr()
    error = json.loads(output.out)["error"]
    assert ended.value.code == error["status"] == status
    assert message in error["reason"]
    assert output.err == f"cyclesep {arguments[0]}: error: {error['reason']}\n"


def test_json_option_prints_an_unexpected_error_as_json(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(path: str, config: object) -> None:
        raise ZeroDivisionError(f"a bug {path} {config is None}")

    monkeypatch.setattr(importlib.import_module("cyclesep.cli.info.describe"), "describe", broken)
    with pytest.raises(SystemExit):
        main(["info", "somewhere", "--json"])
    error = json.loads(capsys.readouterr().out)["error"]
    assert (error["status"], error["reason"]) == (
        70, "unexpected ZeroDivisionError: a bug somewhere False (add --debug for the traceback)",
    )  # fmt: skip
