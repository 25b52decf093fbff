"""A hyperparameter search: trials, finals of the best ones, and the winner's config."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

from cyclesep.checkpoints.run_folder import resolve_folder
from cyclesep.config import settings
from cyclesep.errors import ConfigError, TrainingError
from cyclesep.evaluation.config import EvaluateConfig
from cyclesep.evaluation.evaluate import EvaluationReport, evaluate
from cyclesep.storage.path import StoragePath
from cyclesep.storage.uri import absolute_uri
from cyclesep.tuning.config import MINIMIZED_OBJECTIVES, TuneConfig
from cyclesep.tuning.finals import DEFAULT, Finalist, FinalistResult, compare_with_winner, rank_finalists
from cyclesep.tuning.search_result import SearchResult, write_result
from cyclesep.tuning.space import Space, grid_size, read_space
from cyclesep.tuning.trial import TrialConfig, delete_checkpoints
from cyclesep.tuning.trial_resources import cluster_nodes, num_concurrent
from cyclesep.tuning.trial_table import TrialRow, pareto_front, rank_trials, read_rows, write_rows
from cyclesep.tuning.tune_experiment import finals_experiment, search_experiment
from cyclesep.tuning.validation_set import ValidationBaseline, read_validation_baseline

CONFIG = "search.yaml"
# Lock file of a search in S3.
LOCK = ".tune.lock"

# Settings that can differ when a search is resumed.
_RESUMABLE = ("output_dir", "max_concurrent", "evaluate")


def search(config: TuneConfig) -> SearchResult:
    """Run a search on the connected Ray cluster, or resume the search of that name.

    Raises ConfigError for an invalid space or invalid settings before anything starts; TrainingError if no trial can be
    ranked; StorageError if the storage cannot be used, or another process runs the same search; KeyboardInterrupt if
    interrupted.
    """
    folder = StoragePath.of(config.output_dir).child(config.name)
    space = read_space(config.space, config.train)
    baseline = read_validation_baseline(config.train, space)
    max_concurrent = num_concurrent(config, cluster_nodes())
    with folder.lock(LOCK):
        _create_or_resume(folder, config)
        trial_config = _trial_config(config, space, baseline, folder)
        trials = _run_search(config, folder, trial_config, max_concurrent)
        finalists = _finalists(config, space, rank_trials(trials, config.objectives[0]))
        finals = _run_finals(config, folder, trial_config, finalists, max_concurrent) if config.num_finalists else []
        result = _make_result(config, folder, space, baseline, trials, finalists, finals)
        for row in finals:
            if row.run and row.run != result.winner.rows[0].run:
                delete_checkpoints(folder.child("finals", row.run))
        write_result(result)
        return result


def evaluate_winner(result: SearchResult) -> EvaluationReport:
    """Score the winner on the test split of its shards."""
    return evaluate(
        EvaluateConfig(
            checkpoint=result.winner_run.uri,
            name=result.winner.label,
            shards=result.config.train.shards,
            output=result.folder.child("test").uri,
        )
    )


def _create_or_resume(folder: StoragePath, config: TuneConfig) -> None:
    """Write the config of a search; raises ConfigError if the folder has a search with other settings."""
    if folder.has_file(CONFIG):
        with folder.reading(CONFIG) as file:
            before = settings.load(TuneConfig, [file])
        differing = [name for name in settings.differences(before, config) if name not in _RESUMABLE]
        if differing:
            raise ConfigError(
                f"name: the search {folder.uri} was started with other settings ({', '.join(differing)}); "
                f"choose another name=, or use the settings of {folder.file_uri(CONFIG)}"
            )
    folder.write_text(CONFIG, settings.to_yaml(config))


def _trial_config(config: TuneConfig, space: Space, baseline: ValidationBaseline, folder: StoragePath) -> TrialConfig:
    init_from = config.train.init_from
    train = settings.replace(
        config.train,
        {
            "output_dir": folder.child("trials").uri,
            "shards": absolute_uri(config.train.shards),
            "init_from": init_from and absolute_uri(resolve_folder(init_from).uri),
        },
    )
    return TrialConfig(
        train=settings.to_dict(train),
        space=space,
        folder=folder.child("trials").uri,
        gpus_per_trial=config.gpus_per_trial,
        grace_period=config.grace,
        mixture_sdr=baseline.mixture_sdr,
        with_sir="sir" in config.objectives,
        checkpoint_every=config.perturbation if config.scheduler == "pbt" else None,
    )


def _run_search(
    config: TuneConfig, folder: StoragePath, trial_config: TrialConfig, max_concurrent: int
) -> list[TrialRow]:
    """Run the trials; raises TrainingError if none of them can be ranked."""
    space = trial_config.space
    num_trials = grid_size(space) if config.search == "grid" else config.num_trials

    def run() -> list[TrialRow]:
        experiment = search_experiment(
            config, folder, trial_config, space, num_trials=num_trials, max_concurrent=max_concurrent
        )
        return experiment.run()

    rows = _load_or_run(folder, "search.parquet", space, run)
    if not rank_trials(rows):
        raise TrainingError(f"{folder.uri}: none of {len(rows)} trials can be ranked; {_first_reason(rows)}")
    return rows


def _finalists(config: TuneConfig, space: Space, ranked: Sequence[TrialRow]) -> list[Finalist]:
    """Return the default settings and those of the best trials."""
    best = [
        Finalist(label=row.label, values=space.changes(row.values)) for row in ranked[: max(1, config.num_finalists)]
    ]
    return [Finalist(label=DEFAULT, values={}), *best]


def _run_finals(
    config: TuneConfig,
    folder: StoragePath,
    trial_config: TrialConfig,
    finalists: Sequence[Finalist],
    max_concurrent: int,
) -> list[TrialRow]:
    finals_config = replace(
        trial_config,
        folder=folder.child("finals").uri,
        checkpoint_every=None,
        # No run is stopped as diverged: a mean needs all seeds.
        mixture_sdr=-math.inf,
        finalists=tuple(finalist.values for finalist in finalists),
    )
    return _load_or_run(
        folder,
        "finals.parquet",
        trial_config.space,
        lambda: finals_experiment(config, folder, finals_config, max_concurrent=max_concurrent).run(),
    )


def _load_or_run(folder: StoragePath, name: str, space: Space, run: Callable[[], list[TrialRow]]) -> list[TrialRow]:
    """Return the rows of an experiment that has finished before, or run it and save its rows."""
    if folder.has_file(name):
        with folder.reading(name) as file:
            return read_rows(file, space)
    rows = run()
    with folder.replacing(name) as file:
        write_rows(rows, space, file)
    return rows


def _make_result(
    config: TuneConfig,
    folder: StoragePath,
    space: Space,
    baseline: ValidationBaseline,
    trials: Sequence[TrialRow],
    finalists: Sequence[Finalist],
    finals: Sequence[TrialRow],
) -> SearchResult:
    """Determine the winner; raises TrainingError if it has no completed run."""
    if finals:
        ranking = tuple(rank_finalists(finalists, finals))
    else:
        best = rank_trials(trials, config.objectives[0])[0]
        ranking = (FinalistResult(finalist=finalists[-1], rows=(best,), mean=best.sdr, std=math.nan),)
    winner = ranking[0]
    if not winner.rows:
        raise TrainingError(f"{folder.uri}: no finalist could be trained; {_first_reason(finals)}")
    if winner.rows[0].outcome != "completed":
        raise TrainingError(
            f"{folder.uri}: no trial was completed; retrain the best one with num_finalists=1 and another name="
        )
    signs: dict[str, int] = {name: -1 if name in MINIMIZED_OBJECTIVES else 1 for name in config.objectives}
    return SearchResult(
        folder=folder,
        config=config,
        space=space,
        baseline=baseline,
        trials=tuple(trials),
        finals=tuple(finals),
        ranking=ranking,
        significance=tuple(compare_with_winner(ranking)),
        pareto_front=tuple(pareto_front(trials, signs)) if len(signs) > 1 else (),
        best=settings.replace(config.train, {**winner.finalist.values, "name": f"{config.name}-best"}),
        winner_run=folder.child("finals" if finals else "trials", winner.rows[0].run),
    )


def _first_reason(rows: Sequence[TrialRow]) -> str:
    reasons = [f"{row.label}: {row.reason}" for row in rows if row.reason]
    return reasons[0] if reasons else "no reason was reported"
