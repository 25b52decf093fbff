"""Errors that a user can fix, as one small tree.

    CyclesepError
    |- ConfigError       a setting: unknown name, wrong type, invalid combination
    |- AudioError        an audio file or array: unreadable, empty, not finite
    |- CorpusError       a music folder: missing, empty, unknown layout
    |- ShardError        an ingested corpus: missing, damaged, unsupported version
    |- TrainingError     a training run that failed
    |  `- TrainingStopped    a run stopped by SIGTERM, which can be resumed
    |- CheckpointError   a checkpoint folder: incomplete, damaged, of another network
    |- ScoringError      references and estimates that cannot be compared
    |- StorageError      a file or folder: full disk, read-only, unreachable
    |  |- ObjectNotFound     a file or object that does not exist
    |  `- LockHeldError      a folder that another process has locked
    `- ClusterError      a Ray cluster: unreachable, token rejected

Each message names the file, the field, the value and the remedy in one sentence. The command line prints it as
one line and exits with its status; a traceback appears only with `--debug`.
"""

from typing import ClassVar


class CyclesepError(Exception):
    """An error that the user can fix; the message says how."""

    status: ClassVar[int] = 1
    """Exit status of the command that raised it."""


class ConfigError(CyclesepError):
    """A setting is unknown, has the wrong type, or conflicts with another one."""


class AudioError(CyclesepError):
    """An audio file or array is unreadable, empty or contains values that are not finite."""


class CorpusError(CyclesepError):
    """A music folder is missing, empty or has an unknown layout."""


class ShardError(CyclesepError):
    """An ingested corpus is missing, damaged or of another format version."""


class TrainingError(CyclesepError):
    """Training failed: for example, workers were lost too often, or the cluster is too small."""


class TrainingStopped(TrainingError):
    """Training was stopped by SIGTERM, has saved a checkpoint, and resumes from it under the same name."""

    # 128 + SIGTERM.
    status: ClassVar[int] = 143


class CheckpointError(CyclesepError):
    """A checkpoint folder is incomplete, damaged or belongs to another network."""


class ScoringError(CyclesepError):
    """References and estimates cannot be compared."""


class StorageError(CyclesepError):
    """A file or folder cannot be written or read."""


class ObjectNotFound(StorageError):
    """A file or S3 object does not exist; its folder or bucket may."""


class LockHeldError(StorageError):
    """Another process holds the lock."""

    def __init__(self, message: str, owner: str = "") -> None:
        super().__init__(message)
        self.owner = owner
        """The lock's owner, since when it holds the lock, and how to break it."""


class ClusterError(CyclesepError):
    """A Ray cluster cannot be reached or rejected a request."""
