"""`cyclesep submit`: send a job to a Ray cluster and follow it; list, logs and stop."""

import argparse
import difflib
import importlib
import math
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from ray.job_submission import JobDetails, JobStatus

from cyclesep.cli.main import JOBS, Parser, fail, is_setting, run_with_error_handling
from cyclesep.cli.submission.client import Client, connect, explained
from cyclesep.cli.submission.environment import variables
from cyclesep.cli.submission.following import follow
from cyclesep.cli.submission.jobs import Submission, send
from cyclesep.cluster import run_metadata
from cyclesep.config import settings
from cyclesep.errors import ConfigError

ROOT = Path(__file__).resolve().parents[3]

HELP = """usage: cyclesep submit [OPTIONS] JOB [FILE.yaml ...] [name=value ...]
       cyclesep submit list | logs ID | stop ID

Send a job to a Ray cluster, follow its log and end with its exit status.

The code of this checkout and the YAML files travel with the job; paths among its settings are the cluster's.
Ctrl-C ends the following, and asks whether to stop the job. Words after `--` go to the job as they are.

options:
  --address URL      the cluster's dashboard, http://HOST:8265 (default: RAY_ADDRESS)
  --no-wait          return when the cluster has taken the job
  --name NAME        name of the job in Ray's list (default: the setting `name`)
  --num-cpus N       CPUs for the job's own process, beside its workers (default 0)
  --num-gpus N       GPUs for it, as `separate` needs (default 0)
  --env NAME[=VALUE] a variable for the job on every machine, no secret; ${OTHER} is the cluster's own; repeat it
  --pip FILE         requirements that the cluster installs first (default: its machines have them)
  --debug            show the traceback of an error

examples:
  cyclesep submit --address http://gpu-head:8265 train jobs/configs/vocals-44k-8gpu.yaml shards=s3://music/musdb18
  cyclesep submit --no-wait --env AWS_ENDPOINT_URL ingest corpus.path=/music output=s3://music/mine
  cyclesep submit --num-gpus 1 separate /music/song.wav checkpoint=/shared/runs/vocals output=/shared/stems

The token of a protected cluster is read from RAY_AUTH_TOKEN, RAY_AUTH_TOKEN_PATH or ~/.ray/auth_token.
docs/cluster.md has the whole road."""

# As a shell tells of a process that SIGTERM ended.
_STOPPED = 143
_INTERRUPTED = 130


def run_submit(words: Sequence[str]) -> NoReturn:
    """Run `cyclesep submit` on its words and exit with its status, which is the job's when it was followed."""
    chosen = _parser().parse_intermixed_args(list(words))
    if chosen.help or not chosen.words:
        print(HELP)
        sys.exit(0 if chosen.help else 2)
    sys.exit(run_with_error_handling("submit", lambda: _run(chosen), debug=chosen.debug))


def _run(chosen: argparse.Namespace) -> int:
    verb, *rest = chosen.words
    action = {"list": _list, "logs": _logs, "stop": _stop}.get(verb)
    return action(chosen, rest) if action else _submit(chosen, verb, rest)


def _parser() -> Parser:
    parser = Parser(prog="cyclesep submit", add_help=False, allow_abbrev=False)
    parser.add_argument("-h", "--help", action="store_true")
    parser.add_argument("--debug", action="store_true")
    parser.add_argument("--no-wait", action="store_true")
    parser.add_argument("--address")
    parser.add_argument("--name", default="")
    parser.add_argument("--num-cpus", type=float, default=0.0)
    parser.add_argument("--num-gpus", type=float, default=0.0)
    parser.add_argument("--env", action="append", default=[])
    parser.add_argument("--pip", type=Path)
    parser.add_argument("words", nargs="*")
    return parser


def _submit(chosen: argparse.Namespace, job: str, words: Sequence[str]) -> int:
    _refuse_unknown(job)
    _refuse_settings(job, words)
    if chosen.pip and not chosen.pip.is_file():
        raise ConfigError(f"--pip {chosen.pip}: there is no such file; give a file of requirements")
    for option, number in (("--num-cpus", chosen.num_cpus), ("--num-gpus", chosen.num_gpus)):
        if not 0 <= number < math.inf:
            raise ConfigError(f"{option} {number:g}: is no number of processors; give 0 or more")
    submission = Submission(
        job=job,
        words=tuple(words),
        name=chosen.name,
        commit=run_metadata.commit(),
        variables=variables(chosen.env),
        pip=chosen.pip,
        num_cpus=chosen.num_cpus,
        num_gpus=chosen.num_gpus,
    )
    client = connect(chosen.address)
    sent = send(submission, client, root=ROOT)
    code = f"commit {submission.commit}" if submission.commit else "no commit"
    _tell(f"{sent.job_id}: sent to {client.url}, {code}, {sent.num_files} files, {sent.num_bytes / 2**20:.1f} MiB")
    if chosen.no_wait:
        _tell(f"follow it: cyclesep submit logs {sent.job_id}; stop it: cyclesep submit stop {sent.job_id}")
        print(sent.job_id)
        return 0
    return _followed(client, sent.job_id)


def _list(chosen: argparse.Namespace, words: Sequence[str]) -> int:
    _refuse_words("list", words, expected=0)
    client = connect(chosen.address)
    with explained(client.url):
        found = [job for job in client.list_jobs() if job.submission_id]
    if not found:
        print(f"{client.url}: no jobs so far")
    for job in sorted(found, key=lambda job: job.start_time or 0):
        print(_row(job))
    return 0


def _row(job: JobDetails) -> str:
    told = job.metadata or {}
    commit = told.get("commit", "") + ("+" if told.get("dirty") == "true" else "")
    began, ended = (job.start_time or 0) / 1000, (job.end_time or 1000 * time.time()) / 1000
    started = time.strftime("%Y-%m-%d %H:%M", time.localtime(began))
    return f"{job.submission_id:<48} {job.status!s:<9} {started} {(ended - began) / 60:7.1f} min  {commit}".rstrip()


def _logs(chosen: argparse.Namespace, words: Sequence[str]) -> int:
    _refuse_words("logs", words, expected=1)
    client = connect(chosen.address)
    if chosen.no_wait:
        with explained(client.url, words[0]):
            log = client.get_job_logs(words[0])
        _write(log)
        return 0
    return _followed(client, words[0])


def _stop(chosen: argparse.Namespace, words: Sequence[str]) -> int:
    _refuse_words("stop", words, expected=1)
    client = connect(chosen.address)
    with explained(client.url, words[0]):
        was_running = client.stop_job(words[0])
        status = client.get_job_status(words[0])
    _tell(f"{words[0]}: {'asked to stop' if was_running else f'had ended before, {status}'}")
    return 0


def _followed(client: Client, job_id: str) -> int:
    """Show a job's log until it ends; its exit status."""
    try:
        details = follow(client, job_id, _write)
    except KeyboardInterrupt:
        return _interrupted(client, job_id)
    return _status(details)


def _interrupted(client: Client, job_id: str) -> int:
    answer = ""
    if sys.stdin.isatty():
        print(f"\n{job_id} goes on; stop it? [y/N] ", end="", file=sys.stderr, flush=True)
        try:
            answer = sys.stdin.readline().strip().lower()
        except KeyboardInterrupt:
            print(file=sys.stderr)
    if answer in ("y", "yes"):
        with explained(client.url, job_id):
            client.stop_job(job_id)
        _tell(f"{job_id}: asked to stop")
    else:
        _tell(f"{job_id} goes on; follow it: cyclesep submit logs {job_id}; stop it: cyclesep submit stop {job_id}")
    return _INTERRUPTED


def _status(details: JobDetails) -> int:
    if details.status == JobStatus.SUCCEEDED:
        return 0
    if details.status == JobStatus.STOPPED:
        _tell(f"{details.submission_id}: was stopped")
        return _STOPPED
    if details.driver_exit_code:
        # The job's own last line has told why.
        return int(details.driver_exit_code)
    message = " ".join((details.message or "no reason given").split())
    _tell(f"error: {details.submission_id}: did not run to its end ({message[:600]})")
    return 1


def _refuse_unknown(job: str) -> None:
    known = sorted(path.stem for path in (ROOT / "jobs").glob("*.py"))
    if not known:
        raise ConfigError(f"{ROOT}: is no checkout of cyclesep, which is what travels; run `submit` from one")
    if job not in known:
        near = difflib.get_close_matches(job, [*known, "list", "logs", "stop"], n=1)
        fail(
            "cyclesep submit",
            f"there is no job {job!r}; {f'did you mean {near[0]}?' if near else 'known: ' + ', '.join(known)}",
        )


def _refuse_settings(job: str, words: Sequence[str]) -> None:
    """Raise ConfigError for settings that the job would refuse, before anything travels."""
    if job not in JOBS or any(word.startswith("-") for word in words):
        return
    values = [word for word in words if is_setting(word)]
    files = [word for word in words if word not in values and Path(word).suffix in (".yaml", ".yml")]
    others = [word for word in words if word not in files and word not in values]
    filled = JOBS[job].words_fill or JOBS[job].checkpoint_fills
    if others and not filled:
        raise ConfigError(f"{others[0]!r} is neither a YAML file nor a setting; write settings as name=value")
    if others and JOBS[job].words_fill:
        values.insert(0, f"{filled}={others}")
    module, _, name = JOBS[job].config.partition(":")
    _refuse_lost_output(settings.load(getattr(importlib.import_module(module), name), files, values))


def _refuse_lost_output(config: object) -> None:
    """Raise ConfigError for a place below the folder that a job runs in: Ray deletes that, code and results."""
    for field in ("output_dir", "output"):
        place = getattr(config, field, None)
        if isinstance(place, str) and place and not place.startswith(("/", "~", "s3://")):
            raise ConfigError(
                f"{field}={place}: lies in the job's own folder on the cluster, which Ray deletes; set it to a folder "
                "there (/shared/...) or to s3://bucket/prefix"
            )


def _refuse_words(verb: str, words: Sequence[str], *, expected: int) -> None:
    if len(words) != expected:
        takes = "one job's ID, as `cyclesep submit list` shows it" if expected else "no words"
        raise ConfigError(f"{verb}: takes {takes}, and got {len(words)}")


def _write(text: str) -> None:
    print(text, end="", flush=True)


def _tell(line: str) -> None:
    print(f"cyclesep submit: {line}", file=sys.stderr, flush=True)
