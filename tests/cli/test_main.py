"""The command line: jobs, words, help, errors of one line, exit statuses."""

import importlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from cyclesep import __version__
from cyclesep.cli.main import JOBS, Job, main, run_job
from cyclesep.errors import AudioError
from tests.support.paths import CHECKOUT


@dataclass(frozen=True, kw_only=True)
class ToyConfig:
    inputs: tuple[str, ...] = ()
    """Files to work on."""
    times: int = 1
    """How often."""
    init_from: str | None = None
    """Checkpoint to begin with."""


seen: list[ToyConfig] = []


def work(config: ToyConfig) -> int:
    seen.append(config)
    if config.times == 13:
        raise AudioError("song.wav: holds no samples; export it again")
    if config.times == 14:
        raise ZeroDivisionError("a bug")
    if config.times == 15:
        raise KeyboardInterrupt
    return config.times - 1


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Run a job of this file with words; gives its exit status."""
    seen.clear()

    def run(*words: str, words_fill: str | None = "inputs", checkpoint_fills: str | None = None) -> int:
        job = Job(
            sentence="A toy.", config="test_commandline:ToyConfig", function="test_commandline:work",
            examples=("song.wav",), words_fill=words_fill, checkpoint_fills=checkpoint_fills,
        )  # fmt: skip
        monkeypatch.setitem(JOBS, "toy", job)
        monkeypatch.syspath_prepend(str(Path(__file__).parent))
        with pytest.raises(SystemExit) as ended:
            run_job("toy", words)
        return int(ended.value.code or 0)

    return run


def last() -> ToyConfig:
    from tests.cli import test_main

    return test_main.seen[-1]


@pytest.fixture(autouse=True)
def _one_module(monkeypatch: pytest.MonkeyPatch) -> None:
    """The job is import_object by name: let that be this very module."""
    import sys

    monkeypatch.setitem(sys.modules, "test_commandline", sys.modules[__name__])


def test_words_become_a_config_and_the_result_the_status(toy: Callable[..., int]) -> None:
    assert toy("times=1") == 0
    assert toy("times=3") == 2
    assert last().times == 3


def test_files_with_spaces_quotes_and_brackets_are_inputs(toy: Callable[..., int]) -> None:
    names = ("my song.wav", "it's [live], {x}.mp3", "#1.flac", "http=weird name.wav")
    assert toy(*names[:3], "times=1") == 0
    assert last().inputs == names[:3]


def test_an_existing_file_whose_name_holds_an_equals_sign_is_an_input(
    toy: Callable[..., int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "times=2").touch()
    assert toy("times=2") == 0
    assert last() == ToyConfig(inputs=("times=2",))


def test_a_yaml_file_and_words_over_it(toy: Callable[..., int], tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text("times: 5\n")
    assert toy(str(tmp_path / "run.yaml")) == 4
    assert toy("times=2", str(tmp_path / "run.yaml")) == 1


def test_a_setting_may_name_a_yaml_file(toy: Callable[..., int]) -> None:
    assert toy("init_from=s3://bucket/best.yaml", "times=1") == 0
    assert last().init_from == "s3://bucket/best.yaml"


def test_a_checkpoint_folder_brings_its_config(toy: Callable[..., int], tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("times: 4\n")
    assert toy(str(tmp_path), "times=1", words_fill=None, checkpoint_fills="init_from") == 0
    assert last() == ToyConfig(times=1, init_from=str(tmp_path))


@pytest.mark.parametrize(
    ("word", "told"),
    [("times=often", "times: 'often' is refused"), ("tims=2", "did you mean times"), ("stray", "neither")],
)
def test_a_bad_word_is_one_line_on_stderr(
    toy: Callable[..., int], capsys: pytest.CaptureFixture[str], word: str, told: str
) -> None:
    assert toy(word, words_fill=None) == 1
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.count("\n") == 1
    assert output.err.startswith("cyclesep toy: error: ")
    assert told in output.err
    assert not seen


@pytest.mark.parametrize(
    ("times", "status", "told"), [(13, 1, "song.wav"), (14, 70, "ZeroDivisionError"), (15, 130, "interrupted")]
)
def test_errors_have_their_status_and_one_line(
    toy: Callable[..., int], capsys: pytest.CaptureFixture[str], times: int, status: int, told: str
) -> None:
    assert toy(f"times={times}") == status
    error = capsys.readouterr().err
    assert told in error
    assert error.count("\n") == 1


def test_debug_shows_the_traceback(toy: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    assert toy("times=13", "--debug") == 1
    assert "Traceback" in capsys.readouterr().err


def test_print_config_prints_and_does_not_run(toy: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    assert toy("a.wav", "--print-config") == 0
    assert capsys.readouterr().out == "inputs:\n- a.wav\ntimes: 1\nstart_from: null\n"
    assert not seen


def test_help_lists_every_setting(toy: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    assert toy("--help") == 0
    told = capsys.readouterr().out
    assert "usage: cyclesep toy [INPUTS ...]" in told
    assert "times  (int; default 1)\n      How often." in told


@pytest.mark.parametrize(
    ("words", "status", "told"),
    [
        ([], 0, "ingest"),
        (["--help"], 0, "make quickstart"),
        (["--version"], 0, __version__),
        (["trian"], 2, "did you mean train"),
    ],
)
def test_the_command_itself(capsys: pytest.CaptureFixture[str], words: list[str], status: int, told: str) -> None:
    with pytest.raises(SystemExit) as ended:
        main(words)
    output = capsys.readouterr()
    assert ended.value.code == status
    assert told in output.out + output.err


@pytest.mark.parametrize("name", JOBS)
def test_each_job_has_a_script(name: str) -> None:
    script = CHECKOUT / "jobs" / f"{name}.py"
    assert f'run_job("{name}")' in script.read_text()


@pytest.mark.parametrize(
    ("words", "status", "told"),
    [
        (["separate", "--json"], 1, "checkpoint: has no value"),
        (["separate", "song.wav", "checkpoint=nowhere", "json=true"], 1, "nowhere"),
        (["separate", "song.wav", "--json", "--two-stem", "vocals"], 2, "did you mean --two-stems?"),
        (["info", "nowhere", "--json"], 1, "nowhere"),
        (["info", "nowhere", "--json", "silence_threshold_db=loud"], 1, "silence_threshold_db: 'loud' is refused"),
    ],
)
def test_with_json_an_error_is_the_one_document_on_stdout_as_well(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    words: list[str], status: int, told: str,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        main(words)
    output = capsys.readouterr()
    error = json.loads(output.out)["error"]
    assert ended.value.code == error["status"] == status
    assert told in error["reason"]
    assert output.err == f"cyclesep {words[0]}: error: {error['reason']}\n"


def test_with_json_an_unexpected_error_is_a_document_too(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(place: str, config: object) -> None:
        raise ZeroDivisionError(f"a bug {place} {config is None}")

    monkeypatch.setattr(importlib.import_module("cyclesep.cli.info.describe"), "describe", broken)
    with pytest.raises(SystemExit):
        main(["info", "somewhere", "--json"])
    error = json.loads(capsys.readouterr().out)["error"]
    assert (error["status"], error["reason"]) == (
        70, "unexpected ZeroDivisionError: a bug somewhere False (add --debug to see where)",
    )  # fmt: skip
