"""The `cyclesep` command: `cyclesep JOB [FILE.yaml ...] [name=value ...]`, the same as `python jobs/JOB.py ...`."""

import argparse
import difflib
import functools
import json
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

from typing_extensions import override

from cyclesep import __version__
from cyclesep.cli.help import job_help
from cyclesep.cli.jobs import JOBS, TOOLS, Job, import_object
from cyclesep.cli.reference import job_reference
from cyclesep.config import settings
from cyclesep.errors import ConfigError, CyclesepError
from cyclesep.storage.atomic_io import exists

__all__ = [
    "JOBS",
    "TOOLS",
    "Job",
    "Parser",
    "classify_args",
    "fail",
    "import_object",
    "is_setting",
    "main",
    "run_job",
    "run_with_error_handling",
    "run_words",
]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the `cyclesep` command and exit with its status."""
    with _unread_output_allowed():
        _main(list(sys.argv[1:] if arguments is None else arguments))


def _main(words: Sequence[str]) -> None:
    if not words or words[0] in ("-h", "--help", "help"):
        print(_overview())
        sys.exit(0)
    if words[0] in ("-V", "--version"):
        print(f"cyclesep {__version__}")
        sys.exit(0)
    if words[0] in TOOLS:
        import_object(TOOLS[words[0]].function)(words[1:])
    if words[0] not in JOBS:
        near = difflib.get_close_matches(words[0], [*JOBS, *TOOLS], n=1)
        fail(
            "cyclesep",
            f"there is no job {words[0]!r}; {f'did you mean {near[0]}?' if near else 'known: ' + ', '.join(JOBS)}",
        )
    run_job(words[0], words[1:])


@contextmanager
def _unread_output_allowed() -> Iterator[None]:
    """End quietly if nobody reads what is printed (`| head`)."""
    try:
        try:
            yield
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        sys.exit(_unread())


def _unread() -> int:
    """Print nothing from now on, as Python would when it ends; gives the exit status."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 1


def run_job(name: str, words: Sequence[str] | None = None) -> None:
    """Run one job on its command-line words (default: this process's) and exit with its status."""
    run_words(name, JOBS[name], sys.argv[1:] if words is None else words)


def run_words(name: str, job: Job, words: Sequence[str]) -> NoReturn:
    """Run a job, which errors and help call `name`, on its words and exit with its status."""
    parser = Parser(prog=f"cyclesep {name}", add_help=False, allow_abbrev=False)
    # Apart, because argparse takes `--` only behind a word of another kind.
    end = words.index("--") if "--" in words else len(words)
    parser.as_json = job.prints_json and any(word in ("--json", "json=true") for word in words[:end])
    parser.add_argument("-h", "--help", action="store_true")
    parser.add_argument("--debug", action="store_true")
    parser.add_argument("--print-config", action="store_true")
    if job.gives_tables:
        parser.add_argument("--json", type=Path)
    for flag in job.flags:
        parser.add_argument(flag.name, dest=flag.name, action="store" if flag.value else "store_true")
    parser.add_argument("words", nargs="*")
    chosen = parser.parse_intermixed_args(words[:end])
    chosen.words += words[end + 1 :]
    sys.exit(run_with_error_handling(name, lambda: _run(name, job, chosen), debug=chosen.debug, as_json=parser.as_json))


class Parser(argparse.ArgumentParser):
    """A parser of words whose errors are one line, and with `as_json` a document on stdout as well."""

    as_json = False

    @override
    def error(self, message: str) -> NoReturn:
        """Exit with one line, where argparse prints its usage as well."""
        options = [option for option in self._option_string_actions if option.startswith("--")]
        _, unknown, word = message.partition("unrecognized arguments: ")
        near = difflib.get_close_matches(word.split()[0].partition("=")[0], options, n=1) if unknown else []
        remedy = f"did you mean {near[0]}?" if near else f"`{self.prog} --help` lists options and settings"
        fail(self.prog, f"{message}; {remedy}", as_json=self.as_json)


def _run(name: str, job: Job, chosen: argparse.Namespace) -> int:
    if chosen.help:
        print(_help(name, job))
        return 0
    config = settings.load(import_object(job.config), *classify_args(job, [*chosen.words, *_flag_words(job, chosen)]))
    if chosen.print_config:
        print(settings.to_yaml(config), end="")
        return 0
    outcome = import_object(job.function)(config)
    if job.gives_tables:
        import_object("benchmarks.table:publish")(outcome, chosen.json)
        return 0
    status: int = outcome
    return status


def _flag_words(job: Job, chosen: argparse.Namespace) -> list[str]:
    """The settings that the options of a job stand for."""
    given = {flag: getattr(chosen, flag.name) for flag in job.flags if getattr(chosen, flag.name) not in (None, False)}
    return [word.replace("{}", _quoted(str(value))) for flag, value in given.items() for word in flag.settings]


def classify_args(job: Job, words: Sequence[str]) -> tuple[list[str], list[str]]:
    """YAML files, and `name=value` words; what other words mean the job says, or they are refused."""
    files, values, others = [], [], []
    for word in words:
        if is_setting(word):
            values.append(word)
        elif Path(word).suffix in (".yaml", ".yml"):
            files.append(word)
        elif job.checkpoint_fills and exists(Path(word) / "config.yaml"):
            files.append(str(Path(word) / "config.yaml"))
            values.insert(0, f"{job.checkpoint_fills}={_quoted(word)}")
        elif job.words_fill:
            others.append(word)
        elif job.checkpoint_fills and exists(Path(word)) and Path(word).is_dir():
            raise ConfigError(f"{word}: holds no config.yaml; give a checkpoint folder, or settings as name=value")
        else:
            known = "a YAML file, a checkpoint folder" if job.checkpoint_fills else "a YAML file"
            raise ConfigError(f"{word!r} is neither {known} nor a setting; write settings as name=value")
    if len(others) > 1 and job.takes_one_word:
        raise ConfigError(f"{' '.join(others)}: one {job.words_fill} at a time; give the first alone")
    if others and job.takes_one_word:
        values.insert(0, f"{job.words_fill}={_quoted(others[0])}")
    elif others:
        values.insert(0, f"{job.words_fill}=[{', '.join(_quoted(word) for word in others)}]")
    return files, values


def is_setting(word: str) -> bool:
    """Whether a word reads as dotted.name=value; an existing file whose name does is a file."""
    name, equals, _ = word.partition("=")
    return bool(equals) and all(part.isidentifier() for part in name.split(".")) and not exists(Path(word))


def _quoted(word: str) -> str:
    return "'" + word.replace("'", "''") + "'"


def run_with_error_handling(name: str, action: Callable[[], int], *, debug: bool = False, as_json: bool = False) -> int:
    """Run a job; gives its exit status, or prints its error as one line and gives that error's status.

    With `as_json` stdout gets the error as its one document: `{"error": {"status": ..., "reason": ...}}`.
    """
    tell = functools.partial(_told, f"cyclesep {name}", as_json=as_json)
    try:
        return action()
    except CyclesepError as problem:
        if debug:
            traceback.print_exc()
        return tell(str(problem), status=problem.status)
    except KeyboardInterrupt:
        return tell("interrupted; what was finished is kept, run the same command again to go on", status=130)
    except BrokenPipeError:
        return _unread()
    except Exception as problem:
        if debug:
            traceback.print_exc()
        told = " ".join(str(problem).split())[:400]
        return tell(f"unexpected {type(problem).__name__}: {told} (add --debug to see where)", status=70)


def _told(command: str, message: str, status: int = 1, *, as_json: bool = False) -> int:
    print(f"{command}: error: {message}", file=sys.stderr)
    if as_json:
        print(json.dumps({"error": {"status": status, "reason": message}}, indent=2, ensure_ascii=False))
    return status


def fail(command: str, message: str, *, as_json: bool = False) -> NoReturn:
    """Exit with status 2 and one line about words that name nothing."""
    sys.exit(_told(command, message, status=2, as_json=as_json))


def _overview() -> str:
    sentences = {name: chosen.sentence for table in (JOBS, TOOLS) for name, chosen in table.items()}
    rows = [f"  {name:<11} {sentence}" for name, sentence in sentences.items()]
    lines = [
        "cyclesep: train, run and score music source separators on Ray",
        "",
        "usage: cyclesep JOB [FILE.yaml ...] [name=value ...]",
    ]
    return "\n".join(
        [*lines, "", *rows, "", "`cyclesep JOB --help` lists a job's settings. First time here? `make quickstart`"]
    )


def _help(name: str, job: Job) -> str:
    many = "" if job.takes_one_word else " ..."
    fill = f" [{job.words_fill.upper()}{many}]" if job.words_fill else " [CHECKPOINT]" if job.checkpoint_fills else ""
    options = {f"{flag.name} {flag.value or ''}".strip(): flag.sentence for flag in job.flags}
    options |= {"--json FILE": "write the rows of all tables as JSON"} if job.gives_tables else {}
    options |= {
        "--print-config": "print the resolved settings as YAML and stop",
        "--debug": "show the traceback of an error",
    }
    return job_help(f"{name}{fill}", job.sentence, job.examples, options, job_reference(name, job).groups)
