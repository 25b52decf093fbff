"""Joining a Ray cluster, or being one: the same jobs run on a laptop and behind `ray job submit`."""

import json
import logging
import os
import re
import shutil
import socket
import sys
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

# Read by Ray when it is imported: Train V2 only, no usage report, no reminder lines that a user cannot act on; nor a
# complaint every few seconds where a disk is 95 % full, as a person's often is.
_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_TRAIN_V2_ENABLED": "1",
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_local_fs_capacity_threshold": "0.99",
}
# For the processes of a private cluster: Ray's (see _on_loopback), and gloo's for the workers' gradients.
_LOOPBACK = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"} | (
    {"GLOO_SOCKET_IFNAME": "lo"} if sys.platform == "linux" else {}
)
# Its one node does not go before this process does: nobody has to look out for that.
_UNWATCHED = {"RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0"}
_SHORT = "/tmp"
_PREFIX, _OWNER = "cyclesep-ray-", "owner.lock"

for _name, _value in _ENVIRONMENT.items():
    os.environ.setdefault(_name, _value)

# In a notebook Ray and its tqdm ask for widgets, with which nothing here is drawn.
logging.getLogger("ray.widgets.util").setLevel(logging.WARNING)
warnings.filterwarnings("ignore", message="IProgress not found")

import ray  # noqa: E402
from ray._private import ray_constants  # noqa: E402
from ray._private import worker as ray_worker  # noqa: E402
from ray._private.authentication import authentication_token_setup  # noqa: E402
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy  # noqa: E402

from cyclesep import files  # noqa: E402
from cyclesep.errors import ClusterError  # noqa: E402

# Says at every start that the cluster's ports are protected by a token, which needs no action.
logging.getLogger("ray._private.authentication").setLevel(logging.ERROR)

# What Ray's own processes say to the driver and no user can act on: a job has helper actors beside the workers that it
# asked for; a worker that is slow to start is started anew; Train's helpers look at other people's clusters on the way
# to their own (see _note_address), ask again where a busy machine does not answer, and may not start again elsewhere;
# a node that has died has log lines, and places reserved on it.
_IDLE_TALK = re.compile(
    "worker processes have been started on node|have not registered within the timeout|"
    "Found multiple active Ray instances|Failed to query Ray Train Controller actor state|"
    "Actor with class name: 'PreemptionWatcher'|^Raylet is terminated|Failed to remove .* for placement group"
)
_LOST_NODE = re.compile(r"(?s)^The node with node id: \w+ and address: (\S+) .* has been marked dead .*")


def _leave_out_idle_talk() -> None:
    """Let Ray print of what its processes say only what is no idle talk."""
    print_all = ray_worker.print_to_stdstream

    def print_the_rest(data: dict[str, Any], ignore_prefix: bool) -> None:
        lines = [
            _LOST_NODE.sub(r"node \1 is lost: it has died, or nothing was heard from it for too long", line)
            for line in data["lines"]
            if not _IDLE_TALK.search(line)
        ]
        if lines:
            print_all({**data, "lines": lines}, ignore_prefix)

    ray_worker.print_to_stdstream = print_the_rest


_leave_out_idle_talk()


@contextmanager
def connect(*, num_cpus: int | None = None, log_to_driver: bool = True) -> Iterator[None]:
    """Join the cluster that RAY_ADDRESS names, or start a private one on this machine for the length of the block.

    The private one keeps its files in a folder of its own, so that two of them, or another Ray on the same host, do not
    meet, and listens on loopback only. Where Ray is already running in this process nothing is done. Without
    `log_to_driver` what its processes print stays in Ray's own files. Raises ClusterError where no cluster
    answers, Ray does not start, or it ends processes that the block needs because their machine is out of memory.
    """
    with _joined(num_cpus, log_to_driver):
        try:
            yield
        except ray.exceptions.OutOfMemoryError as problem:
            raise lack_of_memory(problem) from problem


def lack_of_memory(problem: ray.exceptions.OutOfMemoryError) -> ClusterError:
    """What Ray's page about processes that it ended comes to."""
    seen = re.search(r"Memory on the node \(IP: ([^,)]+).*?was (\S+) used / (\S+) limit", str(problem))
    machine = f"{seen[1]} ({seen[2]} of {seen[3]} used)" if seen else "a machine of the cluster"
    return ClusterError(
        f"{machine}: ran out of memory, so Ray ended processes of this job; end other programs there, let less run at "
        "a time, or take a machine with more"
    )


def actor_here(kind: type) -> Any:
    """A new actor of `kind` without CPUs, on the node of this process: on another one it would be lost with that."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return ray.remote(num_cpus=0, scheduling_strategy=here)(kind).remote()


def _with_address(address: str) -> dict[str, dict[str, str]]:
    """A runtime environment that tells workers too which cluster they are of, where that is known as HOST:PORT.

    `ray job submit` tells it the driver only. Train's helper actors look there first and, without it, may take another
    cluster that runs on their host for theirs, and give up the run's resources. Everything else in a job's environment
    comes from whoever submitted it: Ray refuses to be told the same variable twice.
    """
    given = json.loads(os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")).get("runtime_env") or {}
    is_known = re.fullmatch(r"[^/]+:\d+", address) and "RAY_ADDRESS" not in (given.get("env_vars") or {})
    return {"env_vars": {"RAY_ADDRESS": address}} if is_known else {}


@contextmanager
def _joined(num_cpus: int | None, log_to_driver: bool) -> Iterator[None]:
    if ray.is_initialized():
        yield
    elif os.environ.get("RAY_ADDRESS"):
        address = os.environ["RAY_ADDRESS"]
        try:
            _try_port(address)
            # As `ray start` does; a driver by itself would come without the token that lies there.
            authentication_token_setup.maybe_enable_token_auth_if_token_available(warn_if_disabled=False)
            with _on_loopback() if _is_on_loopback_only(address) else nullcontext():
                ray.init(logging_level=logging.WARNING, log_to_driver=log_to_driver, runtime_env=_with_address(address))
        except OSError as problem:
            raise ClusterError(
                f"RAY_ADDRESS={address}: no Ray cluster answers there, or it asks for another token; correct it, set "
                "RAY_AUTH_TOKEN to the cluster's, or unset RAY_ADDRESS to run on this machine alone"
            ) from problem
        try:
            yield
        finally:
            ray.shutdown()
    else:
        with _private_cluster(num_cpus, log_to_driver):
            yield


@contextmanager
def _private_cluster(num_cpus: int | None, log_to_driver: bool) -> Iterator[None]:
    # Not below TMPDIR, which may be long: Ray puts Unix sockets here and their paths may have 107 characters.
    parent = Path(_SHORT if os.access(_SHORT, os.W_OK) else tempfile.gettempdir())
    _remove_abandoned(parent)
    folder = tempfile.mkdtemp(prefix=_PREFIX, dir=parent)
    # Held until this process ends, however it does.
    owner = files.locked(Path(folder) / _OWNER, wait=True)
    assert owner is not None
    try:
        with _environment({"RAY_TMPDIR": folder} | _UNWATCHED):
            with _environment(_LOOPBACK), _on_loopback(), _startup_told():
                ray.init(
                    address="local", num_cpus=num_cpus, logging_level=logging.WARNING, log_to_driver=log_to_driver,
                    _temp_dir=folder, _node_ip_address="127.0.0.1",
                )  # fmt: skip
            _note_address(Path(folder))
            yield
    finally:
        ray.shutdown()
        shutil.rmtree(folder, ignore_errors=True)
        owner.close()


def _remove_abandoned(parent: Path) -> None:
    """Remove the folders of private clusters whose processes were killed."""
    for path in parent.glob(f"{_PREFIX}*/{_OWNER}"):
        with suppress(OSError):
            owner = files.locked(path, wait=False)
            if owner is not None:
                shutil.rmtree(path.parent, ignore_errors=True)
                owner.close()


@contextmanager
def _startup_told() -> Iterator[None]:
    """Say in one line what a machine without time or memory for it makes of Ray's start."""
    try:
        yield
    # Ray raises Exception itself here.
    except Exception as problem:
        told = " ".join(str(problem).split())[:200]
        raise ClusterError(
            f"Ray did not start on this machine ({told}); it may be short of memory or too busy: try again when it is "
            "not, or name a running cluster by RAY_ADDRESS"
        ) from problem


@contextmanager
def _environment(variables: dict[str, str]) -> Iterator[None]:
    """Set variables of this process, and so of those that it starts, for the length of the block."""
    before = {name: os.environ[name] for name in variables if name in os.environ}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name in variables:
            os.environ.pop(name, None)
        os.environ.update(before)


@contextmanager
def _on_loopback() -> Iterator[None]:
    """Let a cluster that is started in the block listen on 127.0.0.1 only, as Ray does by itself on macOS, or join one.

    Elsewhere Ray takes the machine's outer address for every loopback one, and then listens on all of them.
    """
    before = ray_constants.ENABLE_RAY_CLUSTER
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before


def _try_port(address: str) -> None:
    """Raise OSError at once if nothing listens at HOST:PORT, which Ray would try for minutes."""
    host, _, port = address.rpartition(":")
    if port.isdigit() and "/" not in host:
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()


def _is_on_loopback_only(address: str) -> bool:
    """Whether a cluster's address is a loopback one and the same port of the outer address is closed."""
    host, _, port = address.rpartition(":")
    if host not in ("127.0.0.1", "localhost") or not port.isdigit():
        return False
    with socket.socket() as probe:
        probe.settimeout(1.0)
        return probe.connect_ex((ray.util.get_node_ip_address(), int(port))) != 0


def _note_address(folder: Path) -> None:
    """Leave the cluster's address where `ray start` would.

    Train's helper actors ask for "the" cluster of this host, which they look up below RAY_TMPDIR; where they find
    nothing they take any other cluster that is running, or none if there are several, and give up the run's resources.
    """
    place = folder / "ray" / "ray_current_cluster"
    place.parent.mkdir(exist_ok=True)
    place.write_text(ray.get_runtime_context().gcs_address)
