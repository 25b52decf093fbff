"""The files in cluster/ are valid for Ray's launcher, KubeRay, Docker and a shell, and wrong fields are rejected."""

import copy
import gzip
import importlib.resources
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from cyclesep.cli.arguments import classify_args
from cyclesep.cli.registry import JOBS
from cyclesep.config import settings
from tests.support.paths import CHECKOUT

CLUSTER = CHECKOUT / "cluster"
SCHEMAS = CHECKOUT / "tests" / "support" / "kuberay"
MANIFESTS = {
    "kuberay-cluster.yaml": "rayclusters.json.gz",
    "kuberay-train-job.yaml": "rayjobs.json.gz",
    "kuberay-evaluate-job.yaml": "rayjobs.json.gz",
}
SCRIPTS = ("submit", "slurm.sh")


def read(name: str) -> Any:
    return yaml.safe_load((CLUSTER / name).read_text())


def tool(name: str, *words: str, text: str | None = None) -> subprocess.CompletedProcess[str]:
    """Run a program that requirements-dev.txt installs."""
    command = [str(Path(sys.executable).parent / name), *words]
    return subprocess.run(command, input=text, capture_output=True, text=True, check=False)


# Ray's launcher.


def launcher_errors(config: dict[str, Any]) -> list[str]:
    """Return violations of the launcher's schema, which Ray's package contains, and of limits outside the schema."""
    schema = json.loads((importlib.resources.files("ray") / "autoscaler" / "ray-schema.json").read_text())
    found = [error.message for error in jsonschema.validators.validator_for(schema)(schema).iter_errors(config)]
    types = config["available_node_types"]
    if config["head_node_type"] not in types:
        found.append(f"unknown head node type {config['head_node_type']}")
    for name, node in types.items():
        if not 0 <= node.get("min_workers", 0) <= node.get("max_workers", 0) <= config["max_workers"]:
            found.append(f"{name}: wrong number of workers")
    return found


def test_rays_launcher_accepts_the_aws_cluster() -> None:
    assert launcher_errors(read("aws.yaml")) == []


@pytest.mark.parametrize(
    "change",
    [
        {"idle_timeout_minuts": 5},
        {"available_node_types": {"gpu_worker": {"min_worker": 1}}},
        {"available_node_types": {"gpu_worker": {"resources": {"GPU": "one"}}}},
        {"docker": {"shm_size": "16g"}},
        {"head_node_type": "haed"},
        {"available_node_types": {"gpu_worker": {"max_workers": 99}}},
        {"auth": {"ssh_usr": "ubuntu"}},
    ],
    ids=str,
)
def test_rays_launcher_rejects_a_wrong_field(change: dict[str, Any]) -> None:
    assert launcher_errors(merged(read("aws.yaml"), change))


def test_the_aws_head_has_no_cpus_for_tasks_and_workers_are_spot_instances() -> None:
    nodes = read("aws.yaml")["available_node_types"]
    head, workers = nodes.pop("head"), nodes
    assert head["resources"] == {"CPU": 0}
    assert "InstanceMarketOptions" not in head["node_config"]
    for worker in workers.values():
        assert worker["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"}
        assert (worker["min_workers"], worker["max_workers"]) == (0, 8)
    assert workers["gpu_worker"]["resources"]["GPU"] == 1


def test_the_aws_cluster_requires_a_token_and_its_dashboard_is_on_loopback() -> None:
    config = read("aws.yaml")
    starts = [
        line for kind in ("head", "worker") for line in config[f"{kind}_start_ray_commands"] if "ray start" in line
    ]
    assert len(starts) == 2
    assert all("RAY_AUTH_MODE=token" in line for line in starts)
    assert "--dashboard-host=127.0.0.1" in starts[0]


# KubeRay.


def strict(schema: dict[str, Any]) -> dict[str, Any]:
    """Convert a CRD's structural schema to a JSON schema that rejects unknown fields, which Kubernetes drops."""
    found = {name: value for name, value in schema.items() if name in KEPT}
    if schema.get("x-kubernetes-int-or-string"):
        return {"type": ["integer", "string"]}
    if "properties" in schema:
        found["properties"] = {name: strict(value) for name, value in schema["properties"].items()}
        found["additionalProperties"] = bool(schema.get("x-kubernetes-preserve-unknown-fields"))
    elif isinstance(schema.get("additionalProperties"), dict):
        found["additionalProperties"] = strict(schema["additionalProperties"])
    if "items" in schema:
        found["items"] = strict(schema["items"])
    if schema.get("nullable") and "type" in found:
        found["type"] = [found["type"], "null"]
    return found


KEPT = {"type", "enum", "required", "minimum", "maximum", "minLength", "maxLength", "minItems", "maxItems", "pattern"}


@pytest.fixture(scope="module")
def kuberay() -> dict[str, jsonschema.Draft202012Validator]:
    """A validator for each manifest."""
    validators = {}
    for name in set(MANIFESTS.values()):
        definition = json.loads(gzip.decompress((SCHEMAS / name).read_bytes()))
        schema = strict(definition["schema"])
        schema["properties"] |= {
            "apiVersion": {"const": definition["apiVersion"]},
            "kind": {"const": definition["kind"]},
            "metadata": METADATA,
        }
        validators[name] = jsonschema.Draft202012Validator(schema)
    return {manifest: validators[name] for manifest, name in MANIFESTS.items()}


METADATA = {
    "type": "object",
    "additionalProperties": False,
    "properties": {
        name: {"type": "string", "pattern": r"^[a-z0-9-]+$"} for name in ("name", "generateName", "namespace")
    },
}


def errors(validator: jsonschema.Draft202012Validator, manifest: Any) -> list[str]:
    return [error.message for error in validator.iter_errors(manifest)]


@pytest.mark.parametrize("name", MANIFESTS)
def test_kuberay_accepts_the_manifest(kuberay: dict[str, jsonschema.Draft202012Validator], name: str) -> None:
    assert errors(kuberay[name], read(name)) == []


def mistakes(name: str) -> Iterator[tuple[str, list[str | int], Any]]:
    """Yield mistakes for a manifest: (description, path of the field, wrong value)."""
    above: list[str | int] = ["spec"] if name == "kuberay-cluster.yaml" else ["spec", "rayClusterSpec"]
    head, group = [*above, "headGroupSpec"], [*above, "workerGroupSpecs", 0]
    pod: list[str | int] = [*group, "template", "spec"]
    yield "unknown field of the cluster", [*above, "enableAutoscaling"], True
    yield "unknown field of the head", [*head, "replicas"], 2
    yield "unknown field of a group", [*group, "maxReplica"], 3
    yield "unknown field of a pod", [*pod, "toleration"], []
    yield "unknown field of a container", [*pod, "containers", 0, "volumeMount"], []
    yield "a number instead of a string", [*head, "rayStartParams", "num-cpus"], 0
    yield "a string instead of a number", [*group, "maxReplicas"], "eight"
    yield "a secret with the wrong key", [*pod, "containers", 0, "envFrom", 0], {"secret": {"name": "cyclesep-s3"}}
    yield "an unknown authentication mode", [*above, "authOptions", "mode"], "password"
    yield "a wrong kind", ["kind"], "RayClustr"
    if name != "kuberay-cluster.yaml":
        yield "unknown field of the job", ["spec", "shutdownAfterJobFinish"], True
        yield "unknown field of the submitter", ["spec", "submitterConfig", "retries"], 2


CASES = [(name, *mistake) for name in MANIFESTS for mistake in mistakes(name)]


@pytest.mark.parametrize(("name", "wrong", "where", "value"), CASES, ids=[f"{case[0]}: {case[1]}" for case in CASES])
def test_kuberay_rejects(
    kuberay: dict[str, jsonschema.Draft202012Validator], name: str, wrong: str, where: list[str | int], value: Any
) -> None:
    # Without YAML anchors, through which a change in one place would change others.
    manifest = copy.deepcopy(yaml.safe_load(yaml.dump(read(name), Dumper=WithoutAnchors)))
    parent = manifest
    for key in where[:-1]:
        parent = parent[key]
    parent[where[-1]] = value
    assert errors(kuberay[name], manifest), wrong


class WithoutAnchors(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002
        return True


@pytest.mark.parametrize("name", MANIFESTS)
def test_a_manifest_has_the_required_settings(name: str) -> None:
    manifest = read(name)
    spec = manifest["spec"]
    if manifest["kind"] == "RayJob":
        assert spec["shutdownAfterJobFinishes"] is True
        assert spec["ttlSecondsAfterFinished"] > 0
        job = shlex.split(spec["entrypoint"])
        assert job[0] == "cyclesep"
        assert (CHECKOUT / "jobs" / f"{job[1]}.py").is_file()
        files, values = classify_args(JOBS[job[1]], job[2:])
        settings.load(JOBS[job[1]].config, [CHECKOUT / file for file in files], values)
        spec = spec["rayClusterSpec"]
    assert spec["rayVersion"] == ray_version()
    assert spec["authOptions"] == {"mode": "token"}
    assert spec["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    groups = {group["groupName"]: group for group in spec["workerGroupSpecs"]}
    assert "nvidia.com/gpu" in groups["gpu"]["template"]["spec"]["containers"][0]["resources"]["limits"]
    assert ("cpu" in groups) == (name != "kuberay-train-job.yaml")
    for group in [spec["headGroupSpec"], *groups.values()]:
        pod = group["template"]["spec"]
        container = pod["containers"][0]
        assert pod["imagePullSecrets"]
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert container["envFrom"] == [{"secretRef": {"name": "cyclesep-s3"}}]
        mounted = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        assert volumes[mounted["/dev/shm"]]["emptyDir"]["medium"] == "Memory"
        assert set(mounted.values()) == set(volumes)
        if group is not spec["headGroupSpec"]:
            cache = {variable["name"]: variable["value"] for variable in container["env"]}["CYCLESEP_CACHE"]
            assert cache.startswith(f"{next(path for path, name in mounted.items() if name == 'cache')}/")


def test_prometheus_scrapes_the_pods_of_all_manifests() -> None:
    (endpoint,) = read("podmonitor.yaml")["spec"]["podMetricsEndpoints"]
    for name in MANIFESTS:
        spec = read(name)["spec"]
        spec = spec.get("rayClusterSpec", spec)
        (head,) = spec["headGroupSpec"]["template"]["spec"]["containers"]
        assert {"name": endpoint["port"], "containerPort": 8080} in head["ports"]


@pytest.mark.parametrize("name", [*MANIFESTS, "aws.yaml", "podmonitor.yaml", "Dockerfile", *SCRIPTS])
def test_no_file_contains_a_secret(name: str) -> None:
    text = (CLUSTER / name).read_text()
    assert not re.search(r"AKIA[0-9A-Z]{16}", text)
    assert not re.search(r"(?i)(secret_access_key|auth_token|password)\s*[=:]\s*['\"]?[A-Za-z0-9+/]{16,}", text)


# Docker.


def test_hadolint_accepts_the_dockerfile() -> None:
    done = tool("hadolint", "--no-color", str(CLUSTER / "Dockerfile"))
    assert done.stdout + done.stderr == ""


def test_hadolint_rejects_a_wrong_instruction() -> None:
    text = (CLUSTER / "Dockerfile").read_text().replace("WORKDIR /home", "WORKDIRR /home")
    assert tool("hadolint", "-", text=text).returncode == 1


def test_the_image_uses_existing_files_and_the_pinned_ray_version() -> None:
    text = (CLUSTER / "Dockerfile").read_text()
    ignored = (CLUSTER / "Dockerfile.dockerignore").read_text().split()
    copied = [word for line in re.findall(r"^COPY (.*)$", text, re.M) for word in line.split()[:-1] if word[0] != "-"]
    assert {"requirements.txt", "cyclesep", "jobs"} <= set(copied)
    for name in copied:
        assert (CHECKOUT / name).exists(), name
        assert f"!{name}" in ignored, name
    assert f"FROM rayproject/ray:{ray_version()}-py311-${{VARIANT}}\n" in text
    assert "--requirement requirements.txt" in text
    # The last USER is that of the running container.
    assert re.findall(r"^USER (\S+)$", text, re.M)[-1] == "1000"
    assert not re.search(r"pip install(?! --no-cache-dir (--requirement|--no-deps))", text)


def ray_version() -> str:
    found = re.search(r"^ray\[.*\]==(\S+)$", (CHECKOUT / "requirements.txt").read_text(), re.M)
    assert found
    return found[1]


# Shells.


@pytest.mark.parametrize("name", SCRIPTS)
def test_shellcheck_accepts_a_script(name: str) -> None:
    assert os.access(CLUSTER / name, os.X_OK)
    assert subprocess.run(["bash", "-n", str(CLUSTER / name)], check=False).returncode == 0
    done = tool("shellcheck", str(CLUSTER / name))
    assert done.stdout + done.stderr == ""


def test_shellcheck_accepts_the_initialization_commands_of_aws() -> None:
    commands = read("aws.yaml")["initialization_commands"]
    for command in commands:
        assert tool("shellcheck", "--shell=bash", "-", text=command).stdout == ""


def test_shellcheck_rejects_an_unquoted_variable() -> None:
    assert "SC2086" in tool("shellcheck", "--shell=bash", "-", text="rm -rf $1/shards\n").stdout


FAKE_SRUN = """#!/usr/bin/env bash
# Run a step locally: each node is this machine with its own folder.
while [[ $1 == --* ]]; do
  case $1 in --nodelist=*) node=${1#*=} ;; esac
  shift
done
[ "$1" = hostname ] && { echo "fe80::1 127.0.0.1"; exit; }
export RAY_TMPDIR=$RAY_TMPDIR-$node
exec "$@"
"""


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_slurm_job_runs_on_all_its_nodes_and_leaves_no_processes_or_files(tmp_path: Path) -> None:
    for name, text in {"srun": FAKE_SRUN, "scontrol": "#!/bin/sh\nprintf 'node-a\\nnode-b\\n'\n"}.items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    job = str(os.getpid())
    allocation = {"SLURM_JOB_ID": job, "SLURM_JOB_NODELIST": "node-[a-b]", "SLURM_SUBMIT_DIR": str(CHECKOUT)}
    shape = ("corpus.synthetic.seconds=4", "sample_rate=8000", "channels=1", "corpus.synthetic.num_valid=0")
    counts = ("corpus.synthetic.num_train=1", "corpus.synthetic.num_test=0")
    done = subprocess.run(
        [str(CLUSTER / "slurm.sh"), "ingest", f"output={tmp_path / 'shards'}", *shape, *counts],
        env={**os.environ, **allocation, "PATH": f"{tmp_path}:{os.environ['PATH']}"},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False, timeout=500,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:]
    assert (tmp_path / "shards" / "manifest.json").is_file()
    assert not list(Path("/tmp").glob(f"ray-{job}-*"))
    processes = [entry / "cmdline" for entry in Path("/proc").iterdir() if entry.name.isdigit()]
    assert not [path for path in processes if path.exists() and f"ray-{job}-node" in path.read_text(errors="replace")]


def merged(config: dict[str, Any], change: dict[str, Any]) -> dict[str, Any]:
    result = copy.deepcopy(config)
    for name, value in change.items():
        result[name] = merged(result[name], value) if isinstance(value, dict) and name in result else value
    return result
