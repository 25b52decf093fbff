"""A job as it is sent: what runs, under which name, with what around it."""

import re
import secrets
import shlex
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cyclesep.cli.main import is_setting
from cyclesep.cli.submission.client import Client, explained, once_started
from cyclesep.cli.submission.environment import refuse_secrets
from cyclesep.cli.submission.package import collect
from cyclesep.errors import ConfigError

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
# Below this folder of the working directory lie YAML files that come from outside the checkout.
_CONFIGS = "submitted"
# What a job has between SIGTERM and SIGKILL when it is stopped: a training run saves a checkpoint first.
_STOP_SECONDS = "120"


@dataclass(frozen=True, kw_only=True)
class Submission:
    """One job to be run on a cluster."""

    job: str
    """Name of a script in jobs/."""
    words: tuple[str, ...] = ()
    """Its YAML files, of this machine, and its settings, whose paths are the cluster's."""
    name: str = ""
    """Name of the run; empty: the `name` among the settings, or the job's."""
    commit: str = ""
    """Git commit of what travels, with a plus sign if the tree has changes."""
    variables: dict[str, str] = field(default_factory=dict)
    """Environment of the job on every machine; seen by all who see the dashboard."""
    pip: Path | None = None
    """Requirements that the cluster installs before the job; None: its machines have them."""
    num_cpus: float = 0.0
    """CPUs that Ray reserves for the job's own process, beside its workers."""
    num_gpus: float = 0.0
    """GPUs likewise."""


@dataclass(frozen=True, kw_only=True)
class Sent:
    """What a cluster has taken."""

    job_id: str
    num_files: int
    num_bytes: int


def send(submission: Submission, client: Client, *, root: Path) -> Sent:
    """Upload the checkout `root` and start the job; returns when the cluster has taken it.

    Raises ConfigError for what cannot travel, ClusterError if the cluster refuses.
    """
    refuse_secrets(submission.words)
    name = _run_name(submission)
    configs, words = _travelling(submission.words, root)
    package = collect(root, configs)
    job_id = f"{submission.job}-{name}-{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}"
    with tempfile.TemporaryDirectory(prefix="cyclesep-submit-") as scratch, explained(client.url):
        archive = Path(scratch) / "checkout.zip"
        package.write(archive)
        once_started(
            lambda: client.submit_job(
                entrypoint=shlex.join(["python", f"jobs/{submission.job}.py", *words]),
                submission_id=job_id,
                runtime_env=_runtime_environment(submission, archive),
                metadata={
                    "job": submission.job,
                    "run": name,
                    "commit": submission.commit.rstrip("+"),
                    "dirty": str(submission.commit.endswith("+")).lower(),
                },
                entrypoint_num_cpus=submission.num_cpus or None,
                entrypoint_num_gpus=submission.num_gpus or None,
            )
        )
    return Sent(job_id=job_id, num_files=len(package.files), num_bytes=package.num_bytes)


def _runtime_environment(submission: Submission, archive: Path) -> dict[str, object]:
    own = {"CYCLESEP_COMMIT": submission.commit, "PYTHONUNBUFFERED": "1", "RAY_JOB_STOP_WAIT_TIME_S": _STOP_SECONDS}
    pip = {"pip": str(submission.pip)} if submission.pip else {}
    return {"working_dir": str(archive), "env_vars": own | submission.variables, **pip}


def _run_name(submission: Submission) -> str:
    told = [word.partition("=")[2] for word in submission.words if word.startswith("name=")]
    name = submission.name or (told[-1] if told else "")
    if name and not _NAME.fullmatch(name):
        if submission.name:
            raise ConfigError(f"--name {name}: is no name; take letters, digits, dots, dashes and underscores")
        # A setting called `name` may be something else than a run's name, as the template of `separate` is.
        name = ""
    return name or "run"


def _travelling(words: Sequence[str], root: Path) -> tuple[dict[str, Path], list[str]]:
    """YAML files by the names under which they travel, and the job's words with those names in place of the paths."""
    configs: dict[str, Path] = {}
    renamed = []
    for word in words:
        if is_setting(word) or Path(word).suffix not in (".yaml", ".yml"):
            renamed.append(word)
            continue
        path = Path(word).resolve()
        if not path.is_file():
            raise ConfigError(f"{word}: there is no such file here; YAML files travel with the job, correct the path")
        inside = path.is_relative_to(root.resolve())
        name = path.relative_to(root.resolve()).as_posix() if inside else f"{_CONFIGS}/{len(configs)}-{path.name}"
        configs[name] = path
        renamed.append(name)
    return configs, renamed
