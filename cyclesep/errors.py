"""What can go wrong at a user's hands, as one small tree.

    CyclesepError
    |- ConfigError       a setting: unknown name, wrong type, impossible combination
    |- AudioError        one audio file or array: unreadable, empty, not finite
    |- CorpusError       a folder of music: missing, empty, wrong layout
    |- ShardError        an ingested corpus: missing, damaged, of another version
    |- TrainingError     a training run that could not go on
    |  `- TrainingStopped    one that was asked to stop, and can go on
    |- CheckpointError   a checkpoint folder: incomplete, damaged, of another network
    |- ScoringError      references and estimates that cannot be compared
    |- StorageError      a place to write to or read from: full, read-only, unreachable
    `- ClusterError      a Ray cluster: unreachable, refuses the token, knows no such job

Each message names the file, the field, the value and the remedy in one sentence. The command line prints it as
one line and exits with its status; a traceback appears only with `--debug`.
"""

from typing import ClassVar


class CyclesepError(Exception):
    """Anything that a user can put right; the message says how."""

    status: ClassVar[int] = 1
    """Exit status of a command that it ends."""


class ConfigError(CyclesepError):
    """A setting is unknown, of the wrong type, or impossible beside another."""


class AudioError(CyclesepError):
    """An audio file or array is unreadable, empty or holds values that are not finite."""


class CorpusError(CyclesepError):
    """A folder of music is missing, empty or laid out in a way that no corpus reader knows."""


class ShardError(CyclesepError):
    """An ingested corpus is missing, damaged or of another format version."""


class TrainingError(CyclesepError):
    """Training could not go on: workers were lost too often, or the cluster cannot hold them."""


class TrainingStopped(TrainingError):
    """Training was asked to stop (SIGTERM), has saved a checkpoint, and goes on from there under the same name."""

    # As a shell tells of a process that SIGTERM ended.
    status: ClassVar[int] = 143


class CheckpointError(CyclesepError):
    """A checkpoint folder is incomplete, damaged or belongs to another network."""


class ScoringError(CyclesepError):
    """References and estimates cannot be compared."""


class StorageError(CyclesepError):
    """A place cannot be written to or read from."""


class ClusterError(CyclesepError):
    """A Ray cluster cannot be reached, or refuses what it is asked."""
