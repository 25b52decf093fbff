"""The folder of a training run, and how a path or the name of a run resolves to a checkpoint; imports no torch."""

import difflib
import json
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from cyclesep.checkpoints.metadata import CONFIG_FILE, METADATA_FILE, SEPARATOR_FILES, read_json
from cyclesep.errors import CheckpointError
from cyclesep.storage import atomic_io
from cyclesep.storage.path import StoragePath
from cyclesep.storage.uri import display_path, is_remote

# Default folder of runs, in which the name of a run is looked up.
RUNS = "runs"


@dataclass(frozen=True)
class RunFolder:
    """The folder of a training run, which need not exist.

    config.yaml           resolved config, written when the run starts
    run.json              names of the best and the last checkpoint, written when training ends
    step-*                checkpoints
    metrics.jsonl         losses and validation metrics at each validation
    logs/rank-N.jsonl     log of each worker
    tensorboard           event files
    mlflow-run            id of the MLflow run
    .train.lock           held by the process that trains
    """

    path: StoragePath

    CONFIG = CONFIG_FILE
    RESULT = "run.json"
    STEP_PREFIX = "step-"
    METRICS = "metrics.jsonl"
    LOGS = "logs"
    TENSORBOARD = "tensorboard"
    MLFLOW_RUN = "mlflow-run"
    WANDB_RUN = "wandb-run"
    LOCK = ".train.lock"

    @property
    def is_started(self) -> bool:
        return self.path.has_file(self.CONFIG)

    @property
    def is_finished(self) -> bool:
        """Whether training has ended, so that there is a best checkpoint."""
        return self.path.has_file(self.RESULT)

    @classmethod
    def checkpoint_name(cls, step: int) -> str:
        """Return the folder name of the checkpoint after `step`."""
        return f"{cls.STEP_PREFIX}{step:08d}"

    @classmethod
    def log_file(cls, rank: int) -> str:
        """Return the log file of a worker, relative to the run folder."""
        return f"{cls.LOGS}/rank-{rank}.jsonl"

    def checkpoints(self) -> list[StoragePath]:
        """Return the complete checkpoints, the earliest first."""
        folders = [self.path.child(name) for name in self.path.folders() if name.startswith(self.STEP_PREFIX)]
        return [folder for folder in folders if folder.has_file(METADATA_FILE)]

    def best_checkpoint(self) -> StoragePath:
        """Return the best checkpoint of a finished run; raise CheckpointError if run.json is missing or damaged."""
        best = read_json(self.path, self.RESULT).get("best")
        if not isinstance(best, str) or not atomic_io.is_name(best):
            file = display_path(self.path.file_uri(self.RESULT))
            raise CheckpointError(
                f"{file}: best={best!r} is not the name of a checkpoint in this folder; copy the run again"
            )
        return self.path.child(best)

    def write_result(self, *, best: str, last: str) -> None:
        """Write run.json with the names of the best and the last checkpoint."""
        self.path.write_text(self.RESULT, json.dumps({"best": best, "last": last}, indent=2) + "\n")

    def lock(self) -> AbstractContextManager[Callable[[], None]]:
        """Return a lock on the run; see StoragePath.lock."""
        return self.path.lock(self.LOCK)


def find_run(path: Path | str | StoragePath) -> RunFolder:
    """Return the run that a path or the name of a run below `runs` refers to; it need not exist."""
    return RunFolder(resolve_folder(path))


def find_checkpoint(path: Path | str | StoragePath) -> StoragePath:
    """Return a checkpoint folder: `path` itself, or the best checkpoint of the run at that path or of that name.

    Raises CheckpointError if there is none.
    """
    folder = resolve_folder(path)
    if folder.has_file(METADATA_FILE):
        return folder
    run = RunFolder(folder)
    if run.is_finished:
        return run.best_checkpoint()
    raise CheckpointError(f"{display_path(folder.uri)}: no checkpoint or finished run found; {_suggestion(folder)}")


def download_checkpoint(path: Path | str | StoragePath) -> Path:
    """Return a local folder with a checkpoint's files for inference, downloaded from S3 if needed; see find_checkpoint.

    The training state is not downloaded.
    """
    return find_checkpoint(path).local_path(*SEPARATOR_FILES)


def resolve_folder(path: Path | str | StoragePath) -> StoragePath:
    """Return the folder at `path`; a single name that does not exist here may be that of a run below `runs`."""
    if isinstance(path, StoragePath):
        return path
    if is_remote(path):
        return StoragePath.of(path)
    path = Path(path)
    named = Path(RUNS) / path
    return StoragePath.of(named if len(path.parts) == 1 and not path.exists() and named.is_dir() else path)


def _suggestion(folder: StoragePath) -> str:
    """Suggest runs below `runs`, if the folder is a name without a path."""
    runs = sorted(file.parent.name for file in Path(RUNS).glob(f"*/{RunFolder.RESULT}"))
    if Path(folder.uri).parent != Path.cwd() or Path(folder.uri).exists() or not runs:
        return f"give a folder that contains {METADATA_FILE} or {RunFolder.RESULT}"
    near = difflib.get_close_matches(folder.name, runs, n=1)
    return f"did you mean {near[0]}?" if near else f"runs here: {', '.join(runs)}"
