"""Jobs sent to a real Ray head, with and without tokens, by Ray's own command and by cluster/submit."""

import json
import os
import secrets
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from ray.job_submission import JobStatus, JobSubmissionClient

from cluster.local.ray_nodes import RayHead
from cyclesep.cluster.job_folder import check_output_outlives_job
from cyclesep.errors import ConfigError
from tests.support.paths import CHECKOUT

pytestmark = pytest.mark.xdist_group("ray")

RAY = str(Path(sys.executable).parent / "ray")
SUBMIT = str(CHECKOUT / "cluster" / "submit")
# Random, because the uploaded checkout contains this file.
CLUSTERS_SECRET = secrets.token_hex(16)

TINY_TRAINING = (
    "steps=2", "validate_every=2", "num_validation_crops=2", "num_dataloader_workers=0", "use_gpu=false",
    "crops.crop_seconds=0.5", "crops.batch_size=4", "method.separator.channels=8", "method.separator.depth=1",
    "method.discriminator.channels=4",
)  # fmt: skip


@pytest.fixture(scope="module")
def head() -> Iterator[RayHead]:
    with RayHead({"AWS_SECRET_ACCESS_KEY": CLUSTERS_SECRET}) as running:
        yield running


def submit(head: RayHead, *command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command in the checkout with the head's address and token in its environment."""
    return subprocess.run(
        command, env={**os.environ, **head.environment, **environment}, cwd=CHECKOUT, capture_output=True, text=True,
        check=False, timeout=280,
    )  # fmt: skip


def client(head: RayHead) -> JobSubmissionClient:
    return JobSubmissionClient(head.url, headers={"Authorization": f"Bearer {head.token}"})


def read_metadata(checkpoint: Path) -> dict[str, object]:
    metadata: dict[str, object] = json.loads((checkpoint / "metadata.json").read_text())
    return metadata


def test_ray_job_submit_trains_and_ends_with_status_0(head: RayHead, tiny_shards: Path, tmp_path: Path) -> None:
    done = submit(
        head, RAY, "job", "submit", "--working-dir", ".", "--",
        "python", "jobs/train.py", f"shards={tiny_shards}", f"output_dir={tmp_path}", "name=plain", *TINY_TRAINING,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{tmp_path}/plain: 2 steps" in done.stdout
    assert read_metadata(tmp_path / "plain" / "step-00000002")["step"] == 2


@pytest.mark.slow
def test_a_head_without_tokens_trains_and_evaluates(tiny_shards: Path, tmp_path: Path) -> None:
    without = {"RAY_AUTH_MODE": "disabled"}
    training = (f"output_dir={tmp_path}", "name=plain", *TINY_TRAINING)
    evaluation = (f"checkpoint={tmp_path}/plain", f"output={tmp_path}/test", "heuristic=false", "oracles=[]")
    with RayHead(without) as head:
        for job, words in (("train", training), ("evaluate", evaluation)):
            command = ("python", f"jobs/{job}.py", f"shards={tiny_shards}", *words)
            done = submit(head, RAY, "job", "submit", "--working-dir", ".", "--", *command, **without)
            assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads((tmp_path / "test" / "summary.json").read_text())["tracks"] == 2


def test_cluster_submit_passes_the_commit_to_checkpoints_and_writes_no_secret(
    head: RayHead, tiny_shards: Path, tmp_path: Path
) -> None:
    done = submit(head, SUBMIT, "train", f"shards={tiny_shards}", f"output_dir={tmp_path}", "name=run", *TINY_TRAINING)
    assert done.returncode == 0, done.stdout + done.stderr
    commit = str(read_metadata(tmp_path / "run" / "step-00000002")["commit"])
    assert commit
    (job,) = [job for job in client(head).list_jobs() if job.metadata and job.metadata.get("commit")]
    assert job.metadata == {
        "job": "train",
        "commit": commit.rstrip("+"),
        "dirty": str(commit.endswith("+")).lower(),
    }
    written = [path for folder in (tmp_path, head.folder) for path in folder.rglob("*") if path.is_file()]
    assert len(written) > 20
    for secret in (CLUSTERS_SECRET, head.token):
        assert not [path for path in written if secret.encode() in path.read_bytes()]


@pytest.mark.slow
def test_cluster_submit_passes_the_commit_to_an_evaluation(head: RayHead, tiny_shards: Path, tmp_path: Path) -> None:
    words = (f"shards={tiny_shards}", f"output={tmp_path}", "targets=[vocals]", "heuristic=false", "oracles=[]")
    done = submit(head, SUBMIT, "evaluate", *words)
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads((tmp_path / "summary.json").read_text())["commit"]


def test_a_job_that_fails_and_output_in_its_own_folder_give_a_non_zero_status(head: RayHead, tiny_shards: Path) -> None:
    done = submit(head, SUBMIT, "train", f"shards={tiny_shards}", *TINY_TRAINING)
    assert done.returncode != 0
    assert (
        "output_dir=runs: is in the working directory of this Ray job, which Ray deletes after the job" in done.stdout
    )
    assert "Traceback" not in done.stdout


@pytest.mark.slow
def test_cluster_submit_passes_options_to_ray_and_a_stopped_job_gets_sigterm(
    head: RayHead, tiny_shards: Path, tmp_path: Path
) -> None:
    words = (f"shards={tiny_shards}", f"output_dir={tmp_path}", "name=stopped", *TINY_TRAINING, "steps=1000000")
    done = submit(head, SUBMIT, "--no-wait", "--submission-id", "to-be-stopped", "--", "train", *words)
    assert done.returncode == 0, done.stdout + done.stderr
    until = time.monotonic() + 200
    while not list((tmp_path / "stopped").glob("step-*/metadata.json")):
        assert time.monotonic() < until, client(head).get_job_logs("to-be-stopped")
        time.sleep(0.2)
    assert submit(head, RAY, "job", "stop", "to-be-stopped").returncode == 0
    assert client(head).get_job_status("to-be-stopped") == JobStatus.STOPPED
    # The run saved its state after SIGTERM.
    log = client(head).get_job_logs("to-be-stopped")
    assert "stopped after step" in log, log


@pytest.mark.parametrize("words", [(), ("nothing",), ("--no-wait", "--")])
def test_cluster_submit_without_a_job_prints_its_usage(words: tuple[str, ...]) -> None:
    done = subprocess.run([SUBMIT, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("usage: cluster/submit")


def test_output_in_a_jobs_working_directory_is_an_error_and_any_other_output_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "job").mkdir()
    monkeypatch.chdir(tmp_path / "job")
    submitted = {"runtime_env": {"working_dir": "gcs://_ray_pkg_1234.zip"}}
    # On this machine, or in a job without an uploaded working directory, a relative path is valid.
    for config in ({}, {"runtime_env": {}}, submitted):
        monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", json.dumps(config))
        for location in ("s3://music/runs", str(tmp_path), "../runs", "~/runs"):
            check_output_outlives_job("output_dir", location)
        if config is not submitted:
            check_output_outlives_job("output_dir", "runs")
    for location in ("runs", ".", str(tmp_path / "job" / "runs")):
        with pytest.raises(ConfigError, match=f"output={location}: is in the working directory of this Ray job"):
            check_output_outlives_job("output", location)
