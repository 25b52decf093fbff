"""The whole search: trials, finals, a winner with its config, a table, a page."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

from cyclesep import checkpoints
from cyclesep.config import settings
from cyclesep.errors import ConfigError, TrainingError
from cyclesep.evaluation.config import EvaluateConfig
from cyclesep.evaluation.evaluate import EvaluationReport, evaluate
from cyclesep.storage.path import StoragePath
from cyclesep.storage.uri import absolute_uri
from cyclesep.tuning import search_artifacts
from cyclesep.tuning.config import MINIMIZED_OBJECTIVES, TuneConfig
from cyclesep.tuning.finalists import DEFAULT, Contender, FinalistResult, standings, verdicts
from cyclesep.tuning.search_result import SearchReport
from cyclesep.tuning.space import Space, grid_size, read_space
from cyclesep.tuning.trial import Plan, delete_checkpoints
from cyclesep.tuning.trial_resources import nodes_now, num_concurrent
from cyclesep.tuning.trial_table import TrialRow, pareto_front, rank, read_rows, write_rows
from cyclesep.tuning.tune_experiment import final_phase, search_phase
from cyclesep.tuning.validation_set import ValidationBaseline, read_yardstick

CONFIG = "search.yaml"
# In the folder of a search in S3 while somebody searches there.
LOCK = ".tune.lock"

# What a search may be continued with differently.
_MAY_CHANGE = ("output_dir", "max_concurrent", "evaluate")


def search(config: TuneConfig) -> SearchReport:
    """Search on the Ray cluster that this process is connected to, or go on with the search of that name.

    Raises ConfigError for a space or settings that cannot be, before anything starts; TrainingError if no trial could
    be ranked; StorageError if the storage cannot be used, or another process is at the same search there;
    KeyboardInterrupt when interrupted.
    """
    folder = StoragePath.of(config.output_dir).child(config.name)
    space = read_space(config.space, config.train)
    yardstick = read_yardstick(config.train, space)
    at_a_time = num_concurrent(config, nodes_now())
    with folder.lock(LOCK):
        _claim(folder, config)
        return _searched(config, folder, space, yardstick, at_a_time)


def _searched(
    config: TuneConfig, folder: StoragePath, space: Space, yardstick: ValidationBaseline, at_a_time: int
) -> SearchReport:
    total = grid_size(space) if config.search == "grid" else config.num_trials
    plan = _plan(config, space, yardstick, folder)
    rows = _known_or(
        folder,
        "search.parquet",
        space,
        lambda: search_phase(config, folder, plan, space, total=total, at_a_time=at_a_time).run(),
    )
    ranked = rank(rows, config.objectives[0])
    if not ranked:
        raise TrainingError(f"{folder.uri}: none of {len(rows)} trials can be ranked; {_first_reason(rows)}")
    contenders = _contenders(config, space, ranked)
    finals: list[TrialRow] = []
    if config.num_finalists:
        final_plan = replace(
            plan,
            folder=folder.child("finals").uri,
            checkpoint_every=None,
            # To the end, however bad: a mean needs all seeds.
            mixture_sdr=-math.inf,
            contenders=tuple(contender.values for contender in contenders),
        )
        finals = _known_or(
            folder,
            "finals.parquet",
            space,
            lambda: final_phase(config, folder, final_plan, at_a_time=at_a_time).run(),
        )
    return _finished(config, folder, space, yardstick, rows, contenders, finals)


def _finished(
    config: TuneConfig,
    folder: StoragePath,
    space: Space,
    yardstick: ValidationBaseline,
    rows: Sequence[TrialRow],
    contenders: Sequence[Contender],
    finals: Sequence[TrialRow],
) -> SearchReport:
    ranked = (
        tuple(standings(contenders, finals))
        if finals
        else (_unopposed(contenders[-1], rank(rows, config.objectives[0])[0]),)
    )
    if not ranked[0].rows:
        raise TrainingError(f"{folder.uri}: no finalist could be trained; {_first_reason(finals)}")
    if ranked[0].rows[0].outcome != "completed":
        raise TrainingError(
            f"{folder.uri}: no trial came to its end; train the best again with finalists=1, under another name"
        )
    winner = ranked[0]
    run = folder.child("finals" if finals else "trials", winner.rows[0].run)
    for row in finals:
        if row.run and row.run != winner.rows[0].run:
            delete_checkpoints(folder.child("finals", row.run))
    signs: dict[str, int] = {name: -1 if name in MINIMIZED_OBJECTIVES else 1 for name in config.objectives}
    report = SearchReport(
        folder=folder,
        space=space,
        yardstick=yardstick,
        config=config,
        rows=tuple(rows),
        finals=tuple(finals),
        standings=ranked,
        verdicts=tuple(verdicts(ranked)),
        front=tuple(pareto_front(rows, signs)) if len(signs) > 1 else (),
        best=settings.replace(config.train, {**winner.contender.values, "name": f"{config.name}-best"}),
        winner_run=run,
    )
    search_artifacts.write(report)
    if not config.evaluate:
        return report
    report = replace(report, scores=_evaluated(report))
    search_artifacts.write(report)
    return report


def _claim(folder: StoragePath, config: TuneConfig) -> None:
    """Write the config into a new folder, or see that an old search was made with the same settings."""
    if folder.has_file(CONFIG):
        with folder.reading(CONFIG) as file:
            before = settings.load(TuneConfig, [file])
        now = replace(config, **{name: getattr(before, name) for name in _MAY_CHANGE})
        if now != before:
            old, new = settings.to_dict(before), settings.to_dict(now)
            differing = [name for name in new if new[name] != old[name]]
            raise ConfigError(
                f"name: the search {folder.uri} was started with other settings ({', '.join(differing)}); "
                f"give this one another name=, or take those of {folder.file_uri(CONFIG)}"
            )
    folder.write_text(CONFIG, settings.to_yaml(config))


def _plan(config: TuneConfig, space: Space, yardstick: ValidationBaseline, folder: StoragePath) -> Plan:
    init_from = config.train.init_from
    train = settings.replace(
        config.train,
        {
            "output_dir": folder.child("trials").uri,
            "shards": absolute_uri(config.train.shards),
            "init_from": init_from and absolute_uri(checkpoints.run_folder(init_from).uri),
        },
    )
    return Plan(
        train=settings.to_dict(train),
        space=space,
        folder=folder.child("trials").uri,
        gpus_per_trial=config.gpus_per_trial,
        grace_period=config.grace,
        mixture_sdr=yardstick.mixture_sdr,
        wants_sir="sir" in config.objectives,
        checkpoint_every=config.perturbation if config.scheduler == "pbt" else None,
    )


def _known_or(folder: StoragePath, name: str, space: Space, run: Callable[[], list[TrialRow]]) -> list[TrialRow]:
    """Rows of a phase that an earlier go has finished, or of one that is run now."""
    if folder.has_file(name):
        with folder.reading(name) as file:
            return read_rows(file, space)
    rows = run()
    with folder.replacing(name) as file:
        write_rows(rows, space, file)
    return rows


def _contenders(config: TuneConfig, space: Space, ranked: Sequence[TrialRow]) -> list[Contender]:
    """The default, and the best trials."""
    best = [
        Contender(label=row.label, values=space.changes(row.values)) for row in ranked[: max(1, config.num_finalists)]
    ]
    return [Contender(label=DEFAULT, values={}), *best]


def _unopposed(contender: Contender, row: TrialRow) -> FinalistResult:
    return FinalistResult(contender=contender, rows=(row,), mean=row.sdr, spread=math.nan)


def _first_reason(rows: Sequence[TrialRow]) -> str:
    reasons = [f"{row.label}: {row.reason}" for row in rows if row.reason]
    return reasons[0] if reasons else "no reason was given"


def _evaluated(report: SearchReport) -> EvaluationReport:
    return evaluate(
        EvaluateConfig(
            checkpoint=report.winner_run.uri,
            name=report.winner.label,
            shards=report.config.train.shards,
            output=report.folder.child("test").uri,
        )
    )
