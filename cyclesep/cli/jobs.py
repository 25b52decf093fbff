"""Which sub-commands `cyclesep` has: what each is told, shows as examples, and runs (import_object when it is chosen)."""

import importlib
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Flag:
    """An option of a job that stands for settings: one truth, in a shorter word."""

    name: str
    sentence: str
    settings: tuple[str, ...]  # name=value words; a `{}` in them takes the option's value
    value: str | None = None  # what the help calls the value, of an option that has one


@dataclass(frozen=True, kw_only=True)
class Job:
    """One sub-command: what it does and where its config and its function live (import_object when it is chosen)."""

    sentence: str
    config: str
    function: str
    examples: tuple[str, ...]
    words_fill: str | None = None  # the list setting that takes words which are neither YAML files nor name=value
    takes_one_word: bool = False  # what `words_fill` names is one value and no list
    checkpoint_fills: str | None = None  # the setting that takes a checkpoint folder, whose config.yaml is then read
    flags: tuple[Flag, ...] = ()
    gives_tables: bool = False  # a benchmark: its function gives tables, to be printed and perhaps written as JSON

    @property
    def prints_json(self) -> bool:
        """Whether it has `--json`, for scripts: then one document is all that stdout gets, errors included."""
        return any(flag.name == "--json" for flag in self.flags)


JOBS = {
    "ingest": Job(
        sentence="Turn music into shards that training streams from.",
        config="cyclesep.data.ingest:IngestConfig",
        function="cyclesep.cli.commands:ingest",
        examples=(
            "corpus.kind=musdb18 corpus.path=MUSDB18 output=data/musdb18",
            "corpus.kind=stems corpus.path=my-songs output=data/mine sample_rate=16000 channels=1",
            "jobs/configs/quickstart/ingest.yaml output=data/songs corpus.synthetic.num_train=80",
        ),
    ),
    "verify": Job(
        sentence="Check every byte of shards, and name each damaged file, track and segment.",
        config="cyclesep.data.shards.verification:VerifyConfig",
        function="cyclesep.data.shards.verification:run",
        examples=("data/musdb18", "data/musdb18 data/mine num_threads=4"),
        words_fill="shards",
    ),
    "train": Job(
        sentence="Train a separator on shards, with Ray Train, on one machine or many.",
        config="cyclesep.training.config:TrainConfig",
        function="cyclesep.cli.commands:train",
        examples=(
            "jobs/configs/quickstart/train.yaml",
            "shards=data/musdb18 name=vocals targets=[vocals] num_workers=4 use_gpu=true",
            "jobs/configs/quickstart/train.yaml method.recipe=supervised name=supervised-baseline",
            "runs/quickstart/step-00000700 name=longer steps=1400",
        ),
        checkpoint_fills="init_from",
    ),
    "tune": Job(
        sentence="Search for settings of a training run, such as loss weights and learning rates, with Ray Tune.",
        config="cyclesep.tuning.config:TuneConfig",
        function="cyclesep.tuning.command:tune",
        examples=(
            "jobs/configs/tune-demo/tune.yaml",
            "jobs/configs/tune-vocals-16k.yaml name=weights search=random scheduler=pbt num_trials=8",
            "jobs/configs/tune-vocals-16k.yaml name=small search=optuna scheduler=none objectives=[sdr,parameters]",
        ),
    ),
    "separate": Job(
        sentence="Separate audio files with a trained checkpoint.",
        config="cyclesep.inference.config:SeparateConfig",
        function="cyclesep.cli.commands:separate",
        examples=(
            "song.mp3 checkpoint=runs/quickstart",
            "folder-of-songs 'more/*.m4a' checkpoint=quickstart output=stems format=flac",
            "song.mp3 checkpoint=quickstart --two-stems vocals filename_template='{track} ({stem}).{ext}' format=mp3",
        ),
        words_fill="inputs",
        flags=(
            Flag(
                name="--two-stems",
                sentence="write this target, and everything else as one file",
                settings=("stems=[{}]", "residual=true"),
                value="TARGET",
            ),
            Flag(
                name="--device",
                sentence="cpu, cuda, or auto (a GPU if there is one)",
                settings=("separation.device={}",),
                value="DEVICE",
            ),
            Flag(
                name="--json",
                sentence="print one JSON document on stdout, everything else on stderr",
                settings=("json=true",),
            ),
        ),
    ),
    "evaluate": Job(
        sentence="Separate and score a whole test split in parallel, beside the mixture, an oracle and a heuristic.",
        config="cyclesep.evaluation.config:EvaluateConfig",
        function="cyclesep.cli.commands:evaluate",
        examples=("checkpoint=runs/quickstart shards=data/quickstart output=runs/quickstart/test",),
    ),
    "report": Job(
        sentence="Write the page of a run or an evaluation anew: report.html, which opens from disk.",
        config="cyclesep.reports.report:ReportConfig",
        function="cyclesep.reports.report:run",
        examples=("runs/quickstart runs/quickstart/test-songs",),
        words_fill="folders",
    ),
    "compare": Job(
        sentence="Put evaluations side by side, and say which differences are more than noise.",
        config="cyclesep.evaluation.compare:CompareConfig",
        function="cyclesep.cli.commands:compare",
        examples=(
            "runs/quickstart/test-songs runs/supervised-baseline/test-songs",
            "runs/quickstart/test-songs systems=[heuristic,separator] metrics=[SDR,SI-SDR] output=comparison.json",
        ),
        words_fill="runs",
    ),
    "aggregate": Job(
        sentence="Make the table of museval's JSON files: of a system, of a folder of systems, of SiSEC 2018.",
        config="cyclesep.evaluation.aggregate:AggregateConfig",
        function="cyclesep.cli.commands:aggregate",
        examples=("runs/quickstart/test-songs", "sisec18 targets=[vocals,accompaniment] output=table.json"),
        words_fill="folders",
    ),
    "info": Job(
        sentence="What a run, a checkpoint or shards are: card, scores, corpus, loudness, silence, disk.",
        config="cyclesep.cli.info.config:InfoConfig",
        function="cyclesep.cli.info.describe:run",
        examples=(
            "quickstart",
            "runs/quickstart/step-00001000",
            "data/quickstart --audio",
            "s3://music/musdb18 --json",
        ),
        words_fill="paths",
        flags=(
            Flag(
                name="--audio", sentence="read the audio of shards and tell its LUFS (slower)", settings=("audio=true",)
            ),
            Flag(name="--json", sentence="print one JSON document on stdout", settings=("json=true",)),
        ),
    ),
    "export": Job(
        sentence="Turn a separator into one file for applications: ONNX, or a program of torch.export.",
        config="cyclesep.inference.export:ExportConfig",
        function="cyclesep.inference.export:run",
        examples=("quickstart output=vocals.pt2", "runs/vocals output=vocals.onnx window_seconds=4"),
        words_fill="checkpoint",
        takes_one_word=True,
    ),
}


@dataclass(frozen=True, kw_only=True)
class Tool:
    """A sub-command with words of its own: a function of these words, which exits."""

    sentence: str
    function: str


TOOLS = {
    "benchmark": Tool(
        sentence="Measure how fast it is, beside others: `cyclesep benchmark` lists the benchmarks.",
        function="benchmarks.command:run_benchmark",
    ),
    "submit": Tool(
        sentence="Send a job to a Ray cluster and follow it; list, logs and stop: `cyclesep submit --help`.",
        function="cyclesep.cli.submission.command:run_submit",
    ),
    "config": Tool(
        sentence="Print all settings of a job, each with its sentence, as YAML or as a Markdown table.",
        function="cyclesep.cli.print_config:run_config",
    ),
    "completion": Tool(
        sentence="Print completion for bash, zsh or fish: jobs, settings and choices by the tab key.",
        function="cyclesep.cli.completion:run_completion",
    ),
}


def import_object(place: str) -> Any:
    """What `module:name` means."""
    module, _, name = place.partition(":")
    return getattr(importlib.import_module(module), name)
