"""A job on its way to a Ray head with a token: what travels, what is seen of it, how it ends, what is refused."""

import hashlib
import http.server
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow.parquet as pq
import pytest
from ray.job_submission import JobStatus

from cyclesep.cli.submission import client as client_module
from cyclesep.cli.submission import command, following, package
from cyclesep.cli.submission.client import Client, connect, explained
from cyclesep.cli.submission.command import run_submit
from cyclesep.cli.submission.environment import refuse_secrets, variables
from cyclesep.cli.submission.following import follow
from cyclesep.cli.submission.jobs import Submission, send
from cyclesep.cli.submission.package import collect
from cyclesep.errors import ClusterError, ConfigError
from tests.support.paths import CHECKOUT
from tests.support.ray_head import RayHead

pytestmark = pytest.mark.xdist_group("ray")

CLUSTERS_SECRET = "never-to-be-seen-7351"

TOY = """
import json, os, sys, time
from pathlib import Path
print("words", *sys.argv[1:], flush=True)
values = dict(word.split("=", 1) for word in sys.argv[1:] if "=" in word)
for word in sys.argv[1:]:
    if word.endswith(".yaml"):
        print("config", Path(word).read_text().strip())
if "show" in values:
    for name in values["show"].split(","):
        print(name, os.environ.get(name))
if "secret_is" in values:
    import hashlib
    print("digest", hashlib.sha256(os.environ["S3_KEY"].encode()).hexdigest())
if "provenance" in values:
    from cyclesep.cluster.run_metadata import commit
    print("commit of a checkpoint", commit())
if "workers" in values:
    from cyclesep.cluster.connect import connect, ray
    with connect():
        told = ray.remote(lambda: (os.environ["RAY_ADDRESS"], os.environ["CYCLESEP_COMMIT"]))
        print("worker", *ray.get(told.remote()), ray.get_runtime_context().gcs_address)
if "wait_for" in values:
    while not Path(values["wait_for"]).exists():
        time.sleep(0.05)
    print("went on")
sys.exit(int(values.get("status", 0)))
"""


@pytest.fixture(scope="module")
def head() -> Iterator[RayHead]:
    with RayHead({"HEADS_OWN_KEY": CLUSTERS_SECRET, "AWS_SECRET_ACCESS_KEY": CLUSTERS_SECRET}) as running:
        yield running


@pytest.fixture
def cluster(head: RayHead, monkeypatch: pytest.MonkeyPatch) -> Client:
    for name, value in head.environment.items():
        monkeypatch.setenv(name, value)
    return connect(None)


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    """A checkout with one job, in a git repository without a commit."""
    root = tmp_path / "checkout"
    (root / "jobs").mkdir(parents=True)
    (root / "jobs" / "toy.py").write_text(TOY)
    (root / ".gitignore").write_text("/ignored/\n")
    subprocess.run(["git", "init", "-q", str(root)], check=True)
    return root


@pytest.fixture
def submit(toy: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Run `cyclesep submit` in this process from the toy checkout; gives its exit status."""
    monkeypatch.setattr(command, "ROOT", toy)

    def run(*words: str) -> int:
        with pytest.raises(SystemExit) as ended:
            run_submit(words)
        return int(ended.value.code or 0)

    return run


def write(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)


# What travels.

STAYS = (
    "data/song.wav", "runs/a/step-1/separator.safetensors", "docs/log.md", "tests/test_a.py", ".venv/bin/python",
    "cyclesep/__pycache__/a.pyc", ".env", "deploy/key.pem", ".aws/credentials", "secrets.yaml", "x.egg-info/PKG-INFO",
)  # fmt: skip
TRAVELS = ("cyclesep/a.py", "jobs/configs/new.yaml", "cluster/data/b.py", "notes.txt")


@pytest.mark.parametrize("has_git", [True, False])
def test_code_travels_and_music_checkpoints_caches_and_secrets_stay(toy: Path, tmp_path: Path, has_git: bool) -> None:
    root = toy if has_git else tmp_path / "plain"
    write(root, *STAYS, *TRAVELS, "ignored/by-git.txt")
    names = set(collect(root).files)
    own = {".gitignore", "jobs/toy.py"} if has_git else {"ignored/by-git.txt"}
    assert names == {*TRAVELS, *own}


def test_the_same_files_give_the_same_zip_whenever_they_were_written(toy: Path, tmp_path: Path) -> None:
    collect(toy).write(tmp_path / "a.zip")
    os.utime(toy / "jobs" / "toy.py", (1, 1))
    collect(toy).write(tmp_path / "b.zip")
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()


def test_more_than_a_head_takes_is_refused_with_the_largest_files_named(toy: Path) -> None:
    for name, mib in (("model.bin", 60), ("song.wav", 45), ("small.txt", 0)):
        with (toy / name).open("wb") as file:
            file.truncate(mib * 2**20)
    with pytest.raises(
        ConfigError, match=r"105\.0 MiB would travel.*takes 100\.0 MiB.*model\.bin \(60\.0 MiB\), song"
    ) as told:
        collect(toy)
    assert "small.txt" not in str(told.value)
    assert ".gitignore" in str(told.value)


def test_the_checkout_itself_is_far_below_the_limit() -> None:
    found = collect(CHECKOUT)
    assert found.num_bytes < package.MAX_BYTES / 20
    assert "jobs/train.py" in found.files
    # Generated, but needed where there is no protoc.
    assert "cyclesep/data/shards/segment_pb2.py" in found.files


# What is said and what is not.


@pytest.mark.parametrize(
    "name",
    [
        "AWS_SECRET_ACCESS_KEY",
        "AWS_ACCESS_KEY_ID",
        "AWS_SESSION_TOKEN",
        "RAY_AUTH_TOKEN",
        "WANDB_API_KEY",
        "WANDB_KEY",
        "HF_AUTH",
    ],
)
@pytest.mark.parametrize("form", ["{name}", "{name}={value}"])
def test_a_secret_does_not_travel_and_its_value_is_not_told(
    monkeypatch: pytest.MonkeyPatch, name: str, form: str
) -> None:
    monkeypatch.setenv(name, "hunter2")
    with pytest.raises(ConfigError, match=r"is a secret.*\$\{OTHER_NAME\}") as told:
        variables([form.format(name=name, value="hunter2")])
    assert "hunter2" not in str(told.value)


@pytest.mark.parametrize("value", ["AKIA" + "Z" * 16, "hf_" + "z" * 30, "ghp_" + "z" * 36])
def test_a_value_that_looks_like_a_key_is_a_secret_under_any_name(value: str) -> None:
    with pytest.raises(ConfigError, match="^--env MINE: is a secret") as told:
        variables([f"MINE={value}"])
    assert value not in str(told.value)


def test_a_url_with_a_password_is_a_secret_as_a_variable_and_as_a_setting() -> None:
    url = "http://me:hunter2@s3.example:9000"
    for refused in (lambda: variables([f"AWS_ENDPOINT_URL={url}"]), lambda: refuse_secrets([f"shards={url}"])):
        with pytest.raises(ConfigError, match="dashboard") as told:
            refused()
        assert "hunter2" not in str(told.value)


def test_variables_are_taken_from_the_shell_given_or_the_clusters(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://s3.example:9000")
    words = ["AWS_ENDPOINT_URL", "CYCLESEP_CACHE_GIB=50", "AWS_SECRET_ACCESS_KEY=${S3_KEY}", "AWS_CA_BUNDLE=/ca.pem"]
    assert variables(words) == {
        "AWS_ENDPOINT_URL": "http://s3.example:9000",
        "CYCLESEP_CACHE_GIB": "50",
        "AWS_SECRET_ACCESS_KEY": "${S3_KEY}",
        "AWS_CA_BUNDLE": "/ca.pem",
    }


@pytest.mark.parametrize("word", ["NOT_SET_ANYWHERE", "RAY_ADDRESS=x", "PYTHONPATH=/x", "1A=2", "=x"])
def test_what_is_no_variable_for_a_job_is_refused(word: str) -> None:
    with pytest.raises(ConfigError, match="--env"):
        variables([word])


# Where a cluster cannot be reached, or is none.


def test_no_head_no_address_and_no_ray_are_one_line_each(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with pytest.raises(ConfigError, match="no cluster is named; set RAY_ADDRESS or give --address"):
        connect(None)
    with pytest.raises(ClusterError, match=r"http://127\.0\.0\.1:1: no Ray head answers there"):
        connect("127.0.0.1:1")
    with pytest.raises(ConfigError, match="leads to no Ray head"):
        connect("s3://bucket")
    with pytest.raises(ConfigError, match="user or password") as told:
        connect("http://me:hunter2@host:8265")
    assert "hunter2" not in str(told.value)


def test_another_web_server_is_said_to_be_no_ray_head() -> None:
    server = http.server.HTTPServer(("127.0.0.1", 0), http.server.SimpleHTTPRequestHandler)
    server.RequestHandlerClass.log_message = lambda *_: None  # type: ignore[method-assign]
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        with pytest.raises(ClusterError, match="is no Ray head"):
            connect(f"http://127.0.0.1:{server.server_port}")
    finally:
        server.shutdown()
        server.server_close()


def test_an_address_that_is_given_goes_before_the_environments(cluster: Client) -> None:
    with pytest.raises(ClusterError, match="127.0.0.1:1: no Ray head"):
        connect("http://127.0.0.1:1")
    assert os.environ["RAY_ADDRESS"] == cluster.url
    assert "RAY_API_SERVER_ADDRESS" not in os.environ


@pytest.mark.usefixtures("cluster")
def test_a_wrong_token_is_told_and_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", "hunter2" * 5)
    with pytest.raises(ClusterError, match=r"not that of this cluster \(403\)") as told:
        connect(None)
    assert "hunter2" not in str(told.value)


def test_a_token_is_read_from_the_file_that_is_named(
    cluster: Client, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "token").write_text(os.environ["RAY_AUTH_TOKEN"] + "\n")
    monkeypatch.delenv("RAY_AUTH_TOKEN")
    monkeypatch.delenv("RAY_AUTH_MODE")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "token"))
    assert connect(cluster.url).get_address() == cluster.url
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "nowhere"))
    with pytest.raises(ConfigError, match="RAY_AUTH_TOKEN_PATH=.*cannot be read"):
        connect(cluster.url)


def test_no_token_is_one_line_that_names_the_variable(head: RayHead) -> None:
    done = of_the_shell(head, "list", RAY_AUTH_MODE="disabled")
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "asks for a token (401); set RAY_AUTH_TOKEN" in done.stderr


def test_an_upload_that_the_head_finds_too_large_is_one_line(
    cluster: Client, toy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(package, "MAX_BYTES", 2**30)
    (toy / "noise.bin").write_bytes(os.urandom(101 * 2**20))
    with pytest.raises(ClusterError, match=r"too large for it \(413\)"):
        send(Submission(job="toy"), cluster, root=toy)


@pytest.mark.parametrize("verb", ["logs", "stop"])
@pytest.mark.usefixtures("cluster")
def test_a_job_that_nobody_sent_is_one_line(
    submit: Callable[..., int], capsys: pytest.CaptureFixture[str], verb: str
) -> None:
    assert submit(verb, "train-run-1") == 1
    assert "there is no job 'train-run-1'" in capsys.readouterr().err


# What is refused before anything travels.


@pytest.mark.parametrize(
    ("words", "status", "told"),
    [
        (("tov",), 2, "there is no job 'tov'; did you mean toy?"),
        (("xxxxxx",), 2, "known: toy"),
        (("toy", "missing.yaml"), 1, "missing.yaml: there is no such file here"),
        (("--pip", "missing.txt", "toy"), 1, "--pip missing.txt: there is no such file"),
        (("--name", "../x", "toy"), 1, "--name ../x: is no name"),
        (("--env", "AWS_SECRET_ACCESS_KEY=abc", "toy"), 1, "is a secret"),
        (("--num-cpus", "many", "toy"), 2, "--num-cpus"),
        (("--num-cpus", "-1", "toy"), 1, "--num-cpus -1: is no number of processors; give 0 or more"),
        (("--num-gpus", "nan", "toy"), 1, "--num-gpus nan: is no number of processors"),
        (("--address", "[::1", "toy"), 1, "'[::1' is no address (Invalid IPv6 URL); give http://HOST:8265"),
        (("--address", "head:99999", "toy"), 1, "'head:99999' is no address (Port out of range"),
        (("stop",), 1, "takes one job's ID"),
    ],
)
@pytest.mark.usefixtures("cluster")
def test_words_that_cannot_be_are_one_line(
    submit: Callable[..., int], capsys: pytest.CaptureFixture[str], words: tuple[str, ...], status: int, told: str
) -> None:
    assert submit(*words) == status
    error = capsys.readouterr().err
    assert told in error
    assert error.count("\n") == 1


def test_a_jobs_settings_are_checked_here(
    submit: Callable[..., int], capsys: pytest.CaptureFixture[str], toy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(toy, "jobs/verify.py", "jobs/aggregate.py")
    # No head is asked: there is none.
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert submit("verify", "s3://music/mine", "num_thread=2") == 1
    assert "num_thread: there is no such setting; did you mean num_threads?" in capsys.readouterr().err
    assert submit("verify", "s3://music/mine") == 1
    assert "no cluster is named" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("train", "shards=s3://music/mine"), "output_dir=runs: lies in the job's own folder on the cluster"),
        (("evaluate", "checkpoint=s3://music/runs/vocals", "output=here"), "output=here: lies in the job's own folder"),
    ],
)
def test_results_that_ray_would_delete_are_refused(
    submit: Callable[..., int], capsys: pytest.CaptureFixture[str], toy: Path, words: tuple[str, ...], told: str
) -> None:
    write(toy, f"jobs/{words[0]}.py")
    assert submit(*words) == 1
    assert told in capsys.readouterr().err


def test_help_names_every_option(submit: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    assert submit("--help") == 0
    told = capsys.readouterr().out
    options = {option for action in command._parser()._actions for option in action.option_strings}
    assert {option for option in options if f" {option} " not in told} == {"-h", "--help"}


def test_requirements_and_resources_reach_ray(toy: Path, tmp_path: Path) -> None:
    (tmp_path / "more.txt").write_text("mlflow==3.0\n")
    seen: dict[str, Any] = {}
    recorder: Any = SimpleNamespace(url="http://head", submit_job=lambda **told: seen.update(told))
    submission = Submission(job="toy", pip=tmp_path / "more.txt", num_cpus=2.0, num_gpus=0.5, commit="abc+")
    send(submission, recorder, root=toy)
    assert seen["runtime_env"]["pip"] == str(tmp_path / "more.txt")
    assert (seen["entrypoint_num_cpus"], seen["entrypoint_num_gpus"]) == (2.0, 0.5)
    assert seen["metadata"] == {"job": "toy", "run": "run", "commit": "abc", "dirty": "true"}


# On a real head.


def test_a_job_runs_with_its_config_variables_and_commit_and_ends_with_its_status(
    cluster: Client, submit: Callable[..., int], tmp_path: Path, capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(command.provenance, "commit", lambda: "0123456789ab+")
    (tmp_path / "outside.yaml").write_text("steps: 7\n")
    words = (str(tmp_path / "outside.yaml"), "name=first", "status=3", "provenance=1", "workers=1", "text=two words")
    shown = "show=AWS_ENDPOINT_URL"
    assert submit("--env", "AWS_ENDPOINT_URL=http://s3.example", "toy", *words, shown) == 3
    output = capfd.readouterr()
    assert "config steps: 7" in output.out
    assert "text=two words" in output.out
    assert "AWS_ENDPOINT_URL http://s3.example" in output.out
    assert "commit of a checkpoint 0123456789ab+" in output.out
    address, commit, gcs = output.out.partition("\nworker ")[2].split()[:3]
    assert (address, commit) == (gcs, "0123456789ab+")
    assert "commit 0123456789ab+" in output.err
    job = next(job for job in cluster.list_jobs() if job.metadata["run"] == "first")
    assert job.metadata["job"] == "toy"
    assert (job.metadata["commit"], job.metadata["dirty"]) == ("0123456789ab", "true")
    assert job.submission_id.startswith("toy-first-")


def test_a_secret_of_the_cluster_reaches_the_job_and_is_written_nowhere(
    cluster: Client, head: RayHead, submit: Callable[..., int], capfd: pytest.CaptureFixture[str]
) -> None:
    assert submit("--env", "S3_KEY=${HEADS_OWN_KEY}", "toy", "name=secret", "secret_is=1") == 0
    output = capfd.readouterr()
    assert f"digest {hashlib.sha256(CLUSTERS_SECRET.encode()).hexdigest()}" in output.out
    seen = [output.out, output.err, json.dumps([job.dict() for job in cluster.list_jobs()], default=str)]
    seen += [path.read_text(errors="replace") for path in head.folder.rglob("*") if path.is_file()]
    assert len(seen) > 20
    for secret in (CLUSTERS_SECRET, head.token):
        assert not [text[:80] for text in seen if secret in text]


def test_the_log_is_followed_while_the_job_runs(cluster: Client, toy: Path, tmp_path: Path) -> None:
    sign = tmp_path / "sign"
    pieces: list[str] = []

    def see(text: str) -> None:
        pieces.append(text)
        if "words" in text:
            # The job goes on only when its first line has come through.
            sign.touch()

    sent = send(Submission(job="toy", words=(f"wait_for={sign}",)), cluster, root=toy)
    details = follow(cluster, sent.job_id, see)
    assert details.status == JobStatus.SUCCEEDED
    log = "".join(pieces)
    assert log.endswith("went on\n")
    assert log == cluster.get_job_logs(sent.job_id)


def test_no_wait_list_logs_and_stop(
    cluster: Client, submit: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert submit("--no-wait", "--name", "waiting", "toy", f"wait_for={tmp_path / 'never'}") == 0
    output = capsys.readouterr()
    job_id = output.out.strip()
    assert job_id.startswith("toy-waiting-")
    assert f"stop it: cyclesep submit stop {job_id}" in output.err
    until = time.monotonic() + 60
    while "words" not in cluster.get_job_logs(job_id) and time.monotonic() < until:
        time.sleep(0.2)
    assert submit("list") == 0
    assert any(job_id in line and "RUNNING" in line for line in capsys.readouterr().out.splitlines())
    assert submit("stop", job_id) == 0
    assert "asked to stop" in capsys.readouterr().err
    assert submit("logs", job_id) == 143
    output = capsys.readouterr()
    assert "words wait_for=" in output.out
    assert "was stopped" in output.err
    assert submit("stop", job_id) == 0
    assert "had ended before, STOPPED" in capsys.readouterr().err


def test_an_interrupt_keeps_the_job_and_says_how_to_stop_it(
    cluster: Client, head: RayHead, toy: Path, tmp_path: Path
) -> None:
    sent = send(Submission(job="toy", words=(f"wait_for={tmp_path / 'go on'}",)), cluster, root=toy)
    shell = subprocess.Popen(
        [sys.executable, "-c", SHELL, "logs", sent.job_id], env={**os.environ, **head.environment},
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=CHECKOUT,
    )  # fmt: skip
    assert shell.stdout is not None
    while not (line := shell.stdout.readline()).startswith("words"):
        assert line, "the log ended"
    shell.send_signal(signal.SIGINT)
    _, error = shell.communicate(timeout=60)
    assert shell.returncode == 130
    assert error.count("\n") == 1
    assert f"{sent.job_id} goes on" in error
    assert f"stop it: cyclesep submit stop {sent.job_id}" in error
    assert cluster.get_job_status(sent.job_id) == JobStatus.RUNNING
    (tmp_path / "go on").touch()
    assert follow(cluster, sent.job_id, lambda _: None).status == JobStatus.SUCCEEDED


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_what_is_made_on_a_cluster_knows_its_commit_and_no_secret(head: RayHead, tmp_path: Path) -> None:
    music = ("corpus.synthetic.num_train=1", "corpus.synthetic.num_valid=1", "corpus.synthetic.num_test=1")
    shape = ("corpus.synthetic.seconds=4", "sample_rate=8000", "channels=1")
    shards = tmp_path / "shards"
    assert of_the_shell(head, "ingest", f"output={shards}", *music, *shape).returncode == 0
    run = (
        f"shards={shards}",
        f"output_dir={tmp_path}",
        "name=on-cluster",
        "num_workers=2",
        "steps=2",
        "validate_every=2",
    )
    small = ("crops.crop_seconds=1", "crops.batch_size=8", "method.separator.channels=8", "num_dataloader_workers=0")
    done = of_the_shell(head, "train", *run, *small, "use_gpu=false")
    assert done.returncode == 0, done.stdout + done.stderr
    progress = json.loads((tmp_path / "on-cluster" / "step-00000002" / "metadata.json").read_text())
    assert progress["commit"]
    assert f"commit {progress['commit']}," in done.stderr
    scored = of_the_shell(
        head, "evaluate", f"checkpoint={tmp_path / 'on-cluster'}", f"shards={shards}", f"output={tmp_path / 'scores'}"
    )
    assert scored.returncode == 0, scored.stdout + scored.stderr
    assert json.loads((tmp_path / "scores" / "summary.json").read_text())["commit"] == progress["commit"]
    written = [path for folder in (tmp_path, head.folder) for path in folder.rglob("*") if path.is_file()]
    tables = [path for path in written if path.suffix == ".parquet"]
    assert {"scores.parquet", "tracks.parquet"} <= {path.name for path in tables}
    texts = [path.read_bytes() for path in written] + [str(pq.read_table(path).to_pylist()).encode() for path in tables]
    for secret in (CLUSTERS_SECRET, head.token):
        assert not [text[:80] for text in texts if secret.encode() in text]


# A stream that breaks.


class FlakyStream:
    """A client whose streams break after some pieces, each new one beginning at the beginning."""

    url = "http://head"

    def __init__(self, pieces: list[str], breaks: list[int]) -> None:
        self._pieces, self._breaks = pieces, breaks

    async def tail_job_logs(self, _: str) -> AsyncIterator[str]:
        ends = self._breaks.pop(0)
        for piece in self._pieces[:ends]:
            yield piece
        if ends < len(self._pieces):
            raise RuntimeError("WebSocket connection closed unexpectedly")

    def get_job_info(self, _: str) -> Any:
        return SimpleNamespace(status=JobStatus.RUNNING if self._breaks else JobStatus.SUCCEEDED)

    def get_job_logs(self, _: str) -> str:
        return "".join(self._pieces)


@pytest.mark.parametrize("breaks", [[2, 5], [0, 1, 3], [4, 1, 2], [5]])
def test_a_stream_that_breaks_loses_and_repeats_nothing(breaks: list[int]) -> None:
    pieces = ["one\n", "two\n", "three\nfour\n", "", "five\n"]
    shown: list[str] = []
    flaky: Any = FlakyStream(pieces, breaks)
    follow(flaky, "a-job", shown.append)
    assert "".join(shown) == "one\ntwo\nthree\nfour\nfive\n"


def test_a_head_that_stays_away_ends_the_following(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(following, "_AWAY_SECONDS", 0.0)

    def away(_: str) -> Any:
        raise ConnectionError("Failed to connect")

    gone: Any = SimpleNamespace(url="http://head", get_job_info=away)
    with pytest.raises(ClusterError, match="http://head: no Ray head answers"):
        follow(gone, "a-job", lambda _: None)


def test_a_head_that_is_starting_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module.time, "sleep", lambda _: None)
    answers = iter([RuntimeError("status code 500: No available agent to submit job"), "taken"])

    def ask() -> str:
        answer = next(answers)
        if isinstance(answer, RuntimeError):
            raise answer
        return answer

    assert client_module.once_started(ask) == "taken"


def test_what_ray_says_is_kept_without_a_token() -> None:
    with pytest.raises(ClusterError) as told, explained("http://head"):
        raise RuntimeError("Request failed with status code 500: header Bearer hunter2 was odd")
    assert "hunter2" not in str(told.value)


SHELL = "import sys; from cyclesep.cli.main import main; main(['submit', *sys.argv[1:]])"


def of_the_shell(head: RayHead, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """cluster/submit with words, as a person runs it."""
    return subprocess.run(
        [str(CHECKOUT / "cluster" / "submit"), *words],
        env={**os.environ, **head.environment, **environment},
        capture_output=True, text=True, check=False, timeout=600,
    )  # fmt: skip
