"""All sub-commands of `cyclesep`: the jobs, and the tools that print a config or a completion script."""

from cyclesep.cli.job import Job
from cyclesep.cli.jobs import aggregate, compare, evaluate, export, info, ingest, report, separate, train, tune, verify

_MODULES = (ingest, verify, train, tune, separate, evaluate, report, compare, aggregate, info, export)

JOBS: dict[str, Job] = {module.JOB.name: module.JOB for module in _MODULES}

TOOLS = {
    "config": "Print all settings of a job with their descriptions, as YAML or as a Markdown table.",
    "completion": "Print a completion script for bash, zsh or fish.",
}


def descriptions() -> dict[str, str]:
    """Return the description of each job and tool by name."""
    return {job.name: job.description for job in JOBS.values()} | TOOLS
