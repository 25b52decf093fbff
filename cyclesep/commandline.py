"""The `cyclesep` command: `cyclesep JOB [FILE.yaml ...] [name=value ...]`, the same as `python jobs/JOB.py ...`."""

import argparse
import difflib
import importlib
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import MISSING, dataclass
from pathlib import Path
from typing import Any, NoReturn

from typing_extensions import override

from cyclesep import __version__, settings
from cyclesep.errors import ConfigError, CyclesepError


@dataclass(frozen=True, kw_only=True)
class Job:
    """One sub-command: what it does and where its config and its function live (imported when it is chosen)."""

    sentence: str
    config: str
    function: str
    examples: tuple[str, ...]
    words_fill: str | None = None  # the list setting that takes words which are neither YAML files nor name=value
    checkpoint_fills: str | None = None  # the setting that takes a checkpoint folder, whose config.yaml is then read
    gives_tables: bool = False  # a benchmark: its function gives tables, to be printed and perhaps written as JSON


JOBS = {
    "ingest": Job(
        sentence="Turn music into shards that training streams from.",
        config="cyclesep.ingestion:IngestConfig",
        function="cyclesep.commands:ingest",
        examples=(
            "corpus.kind=musdb18 corpus.path=MUSDB18 output=data/musdb18",
            "corpus.kind=stems corpus.path=my-songs output=data/mine sample_rate=16000 channels=1",
            "jobs/configs/quickstart/ingest.yaml output=data/songs corpus.synthetic.num_train=80",
        ),
    ),
    "verify": Job(
        sentence="Check every byte of shards, and name each damaged file, track and segment.",
        config="cyclesep.shards.verification:VerifyConfig",
        function="cyclesep.shards.verification:run",
        examples=("data/musdb18", "data/musdb18 data/mine num_threads=4"),
        words_fill="shards",
    ),
    "train": Job(
        sentence="Train a separator on shards, with Ray Train, on one machine or many.",
        config="cyclesep.training:TrainConfig",
        function="cyclesep.commands:train",
        examples=(
            "jobs/configs/quickstart/train.yaml",
            "shards=data/musdb18 name=vocals targets=[vocals] num_workers=4 use_gpu=true",
            "jobs/configs/quickstart/train.yaml cyclegan.recipe=supervised name=twin",
            "runs/quickstart/step-00000700 name=longer steps=1400",
        ),
        checkpoint_fills="start_from",
    ),
    "separate": Job(
        sentence="Separate audio files with a trained checkpoint.",
        config="cyclesep.separation:SeparateConfig",
        function="cyclesep.commands:separate",
        examples=(
            "song.mp3 checkpoint=runs/quickstart",
            "folder-of-songs checkpoint=runs/quickstart output=stems",
        ),
        words_fill="inputs",
    ),
    "evaluate": Job(
        sentence="Separate and score a whole test split in parallel, beside the mixture, an oracle and a heuristic.",
        config="cyclesep.evaluation:EvaluateConfig",
        function="cyclesep.commands:evaluate",
        examples=("checkpoint=runs/quickstart shards=data/quickstart output=runs/quickstart/test",),
    ),
    "compare": Job(
        sentence="Put evaluations side by side, and say which differences are more than noise.",
        config="cyclesep.comparison:CompareConfig",
        function="cyclesep.commands:compare",
        examples=(
            "runs/quickstart/test-songs runs/twin/test-songs",
            "runs/quickstart/test-songs systems=[heuristic,separator] metrics=[SDR,SI-SDR] output=comparison.json",
        ),
        words_fill="runs",
    ),
    "aggregate": Job(
        sentence="Make the table of museval's JSON files: of a system, of a folder of systems, of SiSEC 2018.",
        config="cyclesep.aggregation:AggregateConfig",
        function="cyclesep.commands:aggregate",
        examples=("runs/quickstart/test-songs", "sisec18 targets=[vocals,accompaniment] output=table.json"),
        words_fill="folders",
    ),
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the `cyclesep` command and exit with its status."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words or words[0] in ("-h", "--help", "help"):
        print(_overview())
        sys.exit(0)
    if words[0] in ("-V", "--version"):
        print(f"cyclesep {__version__}")
        sys.exit(0)
    if words[0] == "benchmark":
        _imported("cyclesep.benchmarks.command:run_benchmark")(words[1:])
    if words[0] not in JOBS:
        near = difflib.get_close_matches(words[0], JOBS, n=1)
        fail(
            "cyclesep",
            f"there is no job {words[0]!r}; {f'did you mean {near[0]}?' if near else 'known: ' + ', '.join(JOBS)}",
        )
    run_job(words[0], words[1:])


def run_job(name: str, words: Sequence[str] | None = None) -> None:
    """Run one job on its command-line words (default: this process's) and exit with its status."""
    run_words(name, JOBS[name], sys.argv[1:] if words is None else words)


def run_words(name: str, job: Job, words: Sequence[str]) -> NoReturn:
    """Run a job, which errors and help call `name`, on its words and exit with its status."""
    parser = _Parser(prog=f"cyclesep {name}", add_help=False, allow_abbrev=False)
    parser.add_argument("-h", "--help", action="store_true")
    parser.add_argument("--debug", action="store_true")
    parser.add_argument("--print-config", action="store_true")
    if job.gives_tables:
        parser.add_argument("--json", type=Path)
    parser.add_argument("words", nargs="*")
    chosen = parser.parse_intermixed_args(list(words))
    sys.exit(guarded(name, lambda: _run(name, job, chosen), debug=chosen.debug))


class _Parser(argparse.ArgumentParser):
    @override
    def error(self, message: str) -> NoReturn:
        """Exit with one line, where argparse prints its usage as well."""
        fail(self.prog, f"{message}; `{self.prog} --help` lists options and settings")


def _run(name: str, job: Job, chosen: argparse.Namespace) -> int:
    if chosen.help:
        print(_help(name, job))
        return 0
    config = settings.load(_imported(job.config), *_sorted_words(job, chosen.words))
    if chosen.print_config:
        print(settings.to_yaml(config), end="")
        return 0
    outcome = _imported(job.function)(config)
    if job.gives_tables:
        _imported("cyclesep.benchmarks.table:publish")(outcome, chosen.json)
        return 0
    status: int = outcome
    return status


def _sorted_words(job: Job, words: Sequence[str]) -> tuple[list[str], list[str]]:
    """YAML files, and `name=value` words; what other words mean the job says, or they are refused."""
    files, values, others = [], [], []
    for word in words:
        if Path(word).suffix in (".yaml", ".yml"):
            files.append(word)
        elif _is_setting(word):
            values.append(word)
        elif job.checkpoint_fills and (Path(word) / "config.yaml").is_file():
            files.append(str(Path(word) / "config.yaml"))
            values.insert(0, f"{job.checkpoint_fills}={_quoted(word)}")
        elif job.words_fill:
            others.append(word)
        elif job.checkpoint_fills and Path(word).is_dir():
            raise ConfigError(f"{word}: holds no config.yaml; give a checkpoint folder, or settings as name=value")
        else:
            known = "a YAML file, a checkpoint folder" if job.checkpoint_fills else "a YAML file"
            raise ConfigError(f"{word!r} is neither {known} nor a setting; write settings as name=value")
    if others:
        values.insert(0, f"{job.words_fill}=[{', '.join(_quoted(word) for word in others)}]")
    return files, values


def _is_setting(word: str) -> bool:
    """Whether a word reads as dotted.name=value; an existing file whose name does is a file."""
    name, equals, _ = word.partition("=")
    return bool(equals) and all(part.isidentifier() for part in name.split(".")) and not Path(word).exists()


def _quoted(word: str) -> str:
    return "'" + word.replace("'", "''") + "'"


def guarded(name: str, action: Callable[[], int], *, debug: bool = False) -> int:
    """Run a job; gives its exit status, or prints its error as one line and gives that error's status."""
    try:
        return action()
    except CyclesepError as problem:
        if debug:
            traceback.print_exc()
        return _told(name, str(problem))
    except KeyboardInterrupt:
        return _told(name, "interrupted; what was finished is kept, run the same command again to go on", status=130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as problem:
        if debug:
            traceback.print_exc()
        told = " ".join(str(problem).split())[:400]
        return _told(name, f"unexpected {type(problem).__name__}: {told} (add --debug to see where)", status=70)


def _told(name: str, message: str, status: int = 1) -> int:
    print(f"cyclesep {name}: error: {message}", file=sys.stderr)
    return status


def fail(name: str, message: str) -> NoReturn:
    """Exit with status 2 and one line about words that name nothing."""
    print(f"{name}: error: {message}", file=sys.stderr)
    sys.exit(2)


def _imported(place: str) -> Any:
    module, _, name = place.partition(":")
    return getattr(importlib.import_module(module), name)


def _overview() -> str:
    rows = [f"  {name:<10} {job.sentence}" for name, job in JOBS.items()]
    rows += ["  benchmark  Measure how fast it is, beside others: `cyclesep benchmark` lists the benchmarks."]
    lines = [
        "cyclesep: train, run and score music source separators on Ray",
        "",
        "usage: cyclesep JOB [FILE.yaml ...] [name=value ...]",
    ]
    return "\n".join(
        [*lines, "", *rows, "", "`cyclesep JOB --help` lists a job's settings. First time here? `make quickstart`"]
    )


def _help(name: str, job: Job) -> str:
    fill = f" [{job.words_fill.upper()} ...]" if job.words_fill else " [CHECKPOINT]" if job.checkpoint_fills else ""
    lines = [f"usage: cyclesep {name}{fill} [FILE.yaml ...] [name=value ...]", "", job.sentence, "", "examples:"]
    lines += [f"  cyclesep {name} {example}" for example in job.examples]
    lines += ["", "options:"]
    lines += ["  --json FILE     write the rows of all tables as JSON"] if job.gives_tables else []
    lines += ["  --print-config  print the resolved settings as YAML and stop"]
    lines += ["  --debug         show the traceback of an error", "", "settings:"]
    for setting in settings.reference(_imported(job.config)):
        default = "required" if setting.default is MISSING else f"default {_shown(setting.default)}"
        lines += [f"  {setting.name}  ({setting.type}; {default})", f"      {setting.sentence}"]
    return "\n".join(lines)


def _shown(value: Any) -> str:
    if value is None:
        return "none"
    return str(list(value)) if isinstance(value, tuple) else str(value)
