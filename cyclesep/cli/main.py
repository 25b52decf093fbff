"""The `cyclesep` command: `cyclesep JOB [FILE.yaml ...] [name=value ...]`, the same as `python jobs/JOB.py ...`."""

import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from cyclesep import __version__
from cyclesep.cli.arguments import classify_args, parse_options
from cyclesep.cli.completion import run_completion
from cyclesep.cli.error_handling import closed_stdout_allowed, fail, run_with_error_handling
from cyclesep.cli.help import job_help, overview
from cyclesep.cli.job import Job
from cyclesep.cli.print_config import run_config
from cyclesep.cli.registry import JOBS, TOOLS
from cyclesep.cluster.environment import loopback_by_default
from cyclesep.config import settings
from cyclesep.config.suggestions import did_you_mean


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the `cyclesep` command on arguments (default: those of this process) and exit with its status."""
    with closed_stdout_allowed():
        _main(sys.argv[1:] if arguments is None else arguments)


def _main(arguments: Sequence[str]) -> NoReturn:
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(overview())
        sys.exit(0)
    name, *rest = arguments
    if name in ("-V", "--version"):
        print(f"cyclesep {__version__}")
        sys.exit(0)
    if name == "config":
        run_config(rest)
    if name == "completion":
        run_completion(rest)
    if name not in JOBS:
        fail("cyclesep", f"no job named {name!r}; {did_you_mean(name, [*JOBS, *TOOLS])}")
    run_job(name, rest)


def run_job(name: str, arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the job `name` on arguments (default: those of this process) and exit with its status."""
    execute(JOBS[name], sys.argv[1:] if arguments is None else arguments)


def execute(job: Job, arguments: Sequence[str]) -> NoReturn:
    """Run a job on arguments and exit with its status."""
    chosen, as_json = parse_options(job, arguments)

    def action() -> int:
        if chosen.help:
            print(job_help(job))
            return 0
        config: Any = settings.load(job.config, *classify_args(job, chosen.arguments))
        if chosen.print_config:
            print(settings.to_yaml(config), end="")
            return 0
        with loopback_by_default():
            return job.run(config)

    sys.exit(run_with_error_handling(job.command, action, debug=chosen.debug, as_json=as_json))
