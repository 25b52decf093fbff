"""The working directory of a Ray job, a copy of the uploaded folder that Ray deletes after the job."""

from pathlib import Path

from cyclesep.cluster.environment import job_runtime_env
from cyclesep.errors import ConfigError
from cyclesep.storage.uri import is_remote


def check_output_outlives_job(setting: str, location: str) -> None:
    """Raise ConfigError if this process runs as a Ray job and `location` is in the job's own working directory.

    `setting` is the name of the setting that contains the location.
    """
    if not job_runtime_env().get("working_dir") or is_remote(location):
        return
    if Path(location).expanduser().resolve().is_relative_to(Path.cwd()):
        raise ConfigError(
            f"{setting}={location}: is in the working directory of this Ray job, which Ray deletes after the job; set "
            "it to a folder on shared storage (/shared/...) or to s3://bucket/prefix"
        )
