"""Run four jobs on a local cluster: a Ray head, two nodes and an S3 server on loopback.

The jobs ingest synthetic songs, train, search for settings and evaluate, with all data in S3; one node is killed during
training. `make cluster-demo` runs this script.
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console

from cluster.local.multi_node_cluster import MultiNodeCluster
from cluster.local.s3_server import LocalS3, SwiftServer
from cyclesep.checkpoints.metadata import METADATA_FILE
from cyclesep.storage import s3_objects

ROOT = Path(__file__).resolve().parent.parent
CONFIGS = Path("jobs/configs/cluster-demo")
RUN = "s3://demo/runs/vocals"

console = Console(highlight=False, soft_wrap=True)


def main() -> int:
    """Run all steps and return the status of the first one that fails, or 0."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="cyclesep-demo-") as folder, SwiftServer() as server:
        status = _run(Path(folder), LocalS3(server, Path(folder)))
    if status == 0:
        console.rule(f"done in {(time.monotonic() - began) / 60:.1f} minutes", align="left")
    return status


def _run(folder: Path, s3: LocalS3) -> int:
    # All processes of the cluster read the S3 settings from these files, like a secret of a real cluster.
    files = {"AWS_CONFIG_FILE": "config", "AWS_SHARED_CREDENTIALS_FILE": "credentials"}
    os.environ |= {name: str(folder / file) for name, file in files.items()}
    s3.configure()
    s3.client().create_bucket(Bucket="demo")
    with MultiNodeCluster(folder, dashboard=True) as cluster:
        cluster.ensure_nodes(2)
        console.print(f"Ray head {cluster.head.address} without CPUs, two nodes of one CPU, S3 on port {s3.port}")
        for number, job in enumerate(("ingest", "train", "tune", "evaluate"), start=1):
            console.rule(f"{number}/4  cluster/submit {job} {CONFIGS}/{job}.yaml", align="left")
            status = _submit(cluster, job)
            if status != 0:
                return status
        caches = ", ".join(f"{name} {size / 1e6:.1f} MB" for name, size in cluster.cached_bytes().items())
        console.print(f"\nshards cached by each node: {caches}")
    return 0


def _submit(cluster: MultiNodeCluster, job: str) -> int:
    """Submit a job, show its log and return its exit status."""
    command = [str(ROOT / "cluster" / "submit"), job, str(CONFIGS / f"{job}.yaml")]
    with subprocess.Popen(command, cwd=ROOT, env={**os.environ, **cluster.head.environment}) as submit:
        if job == "train":
            _kill_a_node(cluster, submit)
        return submit.wait()


def _kill_a_node(cluster: MultiNodeCluster, submit: subprocess.Popen[bytes]) -> None:
    """After the first checkpoint of the run, kill one of its two nodes and start another one."""
    while not (found := [key for key in s3_objects.list_objects(RUN) if key.endswith(f"/{METADATA_FILE}")]):
        if submit.poll() is not None:
            return
        time.sleep(0.2)
    console.print(f"[bold]{found[0].split('/')[0]} is in S3: one of two nodes is killed, another one started[/bold]")
    cluster.nodes[0].kill()
    cluster.ensure_nodes(2)


if __name__ == "__main__":
    sys.exit(main())
