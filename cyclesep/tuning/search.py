"""The whole search: trials, finals, a winner with its config, a table, a page."""

import json
import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cyclesep import __version__, checkpoints, evaluation, files, provenance, settings, storage
from cyclesep.errors import ConfigError, TrainingError
from cyclesep.evaluation import EvaluateConfig
from cyclesep.training import TrainConfig
from cyclesep.tuning import page
from cyclesep.tuning.capacity import nodes_now, num_concurrent
from cyclesep.tuning.config import SMALL, TuneConfig
from cyclesep.tuning.finalists import DEFAULT, Contender, Standing, Verdict, standings, verdicts
from cyclesep.tuning.phase import final_phase, search_phase
from cyclesep.tuning.rows import TrialRow, pareto_front, rank, read_rows, write_rows
from cyclesep.tuning.space import Space, grid_size, read_space
from cyclesep.tuning.trial import Plan, delete_checkpoints
from cyclesep.tuning.yardstick import Yardstick, read_yardstick

# Files and a folder of a search.
CONFIG, BEST, TRIALS, SUMMARY, PAGE = "search.yaml", "best.yaml", "trials.parquet", "summary.json", "report.html"
CHECKPOINT = "best"

# What a search may be continued with differently.
_MAY_CHANGE = ("storage", "max_concurrent", "evaluate")


@dataclass(frozen=True, kw_only=True)
class SearchReport:
    """What a search has found."""

    folder: Path
    space: Space
    yardstick: Yardstick
    config: TuneConfig
    rows: tuple[TrialRow, ...]
    """The trials of the search, in the order in which they began."""
    finals: tuple[TrialRow, ...]
    standings: tuple[Standing, ...]
    """The finals, best first; without finals the best trial alone."""
    verdicts: tuple[Verdict, ...]
    front: tuple[TrialRow, ...]
    """With several objectives: trials that no other one beats in all of them."""
    best: TrainConfig
    winner_run: Path
    """The run folder of the winner's best training."""
    scores: evaluation.EvaluationReport | None = None

    @property
    def winner(self) -> Standing:
        """Who won."""
        return self.standings[0]


def search(config: TuneConfig) -> SearchReport:
    """Search on the Ray cluster that this process is connected to, or go on with the search of that name.

    Raises ConfigError for a space or settings that cannot be, before anything starts; TrainingError if no trial could
    be ranked; KeyboardInterrupt when interrupted.
    """
    folder = _folder(config)
    space = read_space(config.space, config.train)
    yardstick = read_yardstick(config.train, space)
    total = grid_size(space) if config.search == "grid" else config.trials
    at_a_time = num_concurrent(config, nodes_now())
    _claim(folder, config)
    plan = _plan(config, space, yardstick, folder)
    rows = _known_or(
        folder / "search.parquet",
        space,
        lambda: search_phase(config, folder, plan, space, total=total, at_a_time=at_a_time).run(),
    )
    ranked = rank(rows, config.objectives[0])
    if not ranked:
        raise TrainingError(f"{folder}: none of {len(rows)} trials can be ranked; {_first_reason(rows)}")
    contenders = _contenders(config, space, ranked)
    finals: list[TrialRow] = []
    if config.finalists:
        final_plan = replace(
            plan,
            folder=str(folder / "finals"),
            checkpoint_every=None,
            # To the end, however bad: a mean needs all seeds.
            mixture_sdr=-math.inf,
            contenders=tuple(contender.values for contender in contenders),
        )
        finals = _known_or(
            folder / "finals.parquet",
            space,
            lambda: final_phase(config, folder, final_plan, at_a_time=at_a_time).run(),
        )
    return _finished(config, folder, space, yardstick, rows, contenders, finals)


def _finished(
    config: TuneConfig,
    folder: Path,
    space: Space,
    yardstick: Yardstick,
    rows: Sequence[TrialRow],
    contenders: Sequence[Contender],
    finals: Sequence[TrialRow],
) -> SearchReport:
    ranked = tuple(standings(contenders, finals)) if finals else (_unopposed(contenders[-1], rank(rows)[0]),)
    if not ranked[0].rows:
        raise TrainingError(f"{folder}: no finalist could be trained; {_first_reason(finals)}")
    if ranked[0].rows[0].outcome != "completed":
        raise TrainingError(
            f"{folder}: no trial came to its end; train the best again with finalists=1, under another name"
        )
    winner = ranked[0]
    run = folder / ("finals" if finals else "trials") / winner.rows[0].run
    for row in finals:
        if row.run and row.run != winner.rows[0].run:
            delete_checkpoints(folder / "finals" / row.run)
    signs: dict[str, int] = {name: -1 if name in SMALL else 1 for name in config.objectives}
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
    _write(report)
    if not config.evaluate:
        return report
    report = replace(report, scores=_evaluated(report))
    _write(report)
    return report


def _folder(config: TuneConfig) -> Path:
    if storage.is_remote(config.storage):
        raise ConfigError(
            f"storage={config.storage}: trials write their runs to a folder that all machines share; name one "
            "(shards may lie in S3)"
        )
    return (Path(config.storage) / config.name).resolve()


def _claim(folder: Path, config: TuneConfig) -> None:
    """Write the config into a new folder, or see that an old search was made with the same settings."""
    file = folder / CONFIG
    if file.exists():
        before = settings.load(TuneConfig, [file])
        now = replace(config, **{name: getattr(before, name) for name in _MAY_CHANGE})
        if now != before:
            old, new = settings.to_dict(before), settings.to_dict(now)
            differing = [name for name in new if new[name] != old[name]]
            raise ConfigError(
                f"name: the search {folder} was started with other settings ({', '.join(differing)}); "
                f"give this one another name=, or take those of {file}"
            )
    files.write_text(file, settings.to_yaml(config))


def _plan(config: TuneConfig, space: Space, yardstick: Yardstick, folder: Path) -> Plan:
    train = settings.replace(
        config.train,
        {
            "storage": str(folder / "trials"),
            "shards": storage.absolute(config.train.shards),
            "start_from": config.train.start_from and str(Path(config.train.start_from).resolve()),
        },
    )
    return Plan(
        train=settings.to_dict(train),
        space=space,
        folder=str(folder / "trials"),
        gpu_share=config.gpu_share,
        grace_steps=config.grace,
        mixture_sdr=yardstick.mixture_sdr,
        wants_sir="sir" in config.objectives,
        checkpoint_every=config.perturbation if config.scheduler == "pbt" else None,
    )


def _known_or(file: Path, space: Space, run: Callable[[], list[TrialRow]]) -> list[TrialRow]:
    """Rows of a phase that an earlier go has finished, or of one that is run now."""
    if file.exists():
        return read_rows(file, space)
    rows = run()
    write_rows(rows, space, file)
    return rows


def _contenders(config: TuneConfig, space: Space, ranked: Sequence[TrialRow]) -> list[Contender]:
    """The default, and the best trials."""
    best = [Contender(label=row.label, values=space.changes(row.values)) for row in ranked[: max(1, config.finalists)]]
    return [Contender(label=DEFAULT, values={}), *best]


def _unopposed(contender: Contender, row: TrialRow) -> Standing:
    return Standing(contender=contender, rows=(row,), mean=row.sdr, spread=math.nan)


def _first_reason(rows: Sequence[TrialRow]) -> str:
    reasons = [f"{row.label}: {row.reason}" for row in rows if row.reason]
    return reasons[0] if reasons else "no reason was given"


def _evaluated(report: SearchReport) -> evaluation.EvaluationReport:
    return evaluation.evaluate(
        EvaluateConfig(
            checkpoint=str(report.winner_run),
            name=report.winner.label,
            shards=report.config.train.shards,
            output=str(report.folder / "test"),
        )
    )


def _write(report: SearchReport) -> None:
    """Everything that a search leaves, each file whole or not at all."""
    folder = report.folder
    about = {"search": report.config.name, "validation_digest": report.yardstick.digest}
    write_rows([*report.rows, *report.finals], report.space, folder / TRIALS, **about)
    files.write_text(folder / BEST, _best_yaml(report))
    _keep_checkpoint(report)
    files.write_text(folder / SUMMARY, json.dumps(summary(report), indent=2, allow_nan=False) + "\n")
    files.write_text(folder / PAGE, page.html(report))


def _keep_checkpoint(report: SearchReport) -> None:
    """Copy the winner's checkpoint to where the folder of the search stands for it, whole or not at all."""
    source, kept = checkpoints.find(report.winner_run), report.folder / CHECKPOINT
    if kept.is_dir() and checkpoints.read_progress(kept) == checkpoints.read_progress(source):
        return
    partial = kept.with_name(f".{kept.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    shutil.copytree(source, partial)
    shutil.rmtree(kept, ignore_errors=True)
    partial.rename(kept)
    checkpoints.write_run(report.folder, best=CHECKPOINT, last=CHECKPOINT)


def _best_yaml(report: SearchReport) -> str:
    told = f"{report.winner.mean:.2f} dB of validation SDR over {len(report.winner.rows)} trainings"
    lines = [
        f"# The winner of the search {report.config.name} ({report.winner.label}): {told}.",
        *(f"# {verdict}" for verdict in report.verdicts),
    ]
    return "\n".join(lines) + "\n" + settings.to_yaml(report.best)


def summary(report: SearchReport) -> dict[str, Any]:
    """What a program wants to know of a search, as plain values."""
    outcomes = [row.outcome for row in report.rows]
    return {
        "version": __version__,
        "commit": provenance.commit(),
        "search": settings.to_dict(report.config),
        "trials": len(report.rows),
        "outcomes": {outcome: outcomes.count(outcome) for outcome in dict.fromkeys(outcomes)},
        "training_seconds": round(sum(row.figures.get("seconds", 0.0) for row in (*report.rows, *report.finals)), 3),
        "mixture_sdr": report.yardstick.mixture_sdr,
        "validation_crops": report.yardstick.num_crops,
        "validation_digest": report.yardstick.digest,
        "winner": report.winner.label,
        "winner_settings": settings_of(report.winner),
        "winner_run": str(report.winner_run),
        "finals": [_standing(standing) for standing in report.standings],
        "verdicts": [
            {"other": v.other, "difference": _finite(v.difference), "p": _finite(v.p), "within_noise": v.is_noise}
            for v in report.verdicts
        ],
        "front": [row.trial for row in report.front],
    }


def settings_of(standing: Standing) -> dict[str, Any]:
    """What a contender changes, as plain values."""
    values = standing.contender.values.items()
    return {name: list(value) if isinstance(value, tuple) else value for name, value in values}


def _standing(standing: Standing) -> Mapping[str, Any]:
    return {
        "contender": standing.label,
        "settings": settings_of(standing),
        "sdr": [row.sdr for row in standing.rows],
        "seeds": [row.seed for row in standing.rows],
        "mean": _finite(standing.mean),
        "spread": _finite(standing.spread),
    }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
