"""The road to a cluster on one machine: a Ray head, two nodes and an S3 server on loopback, jobs by cluster/submit.

Synthetic songs are ingested, trained on, searched over and scored, all of it in S3; one node is killed while it trains.
The nodes and the S3 server are those of the tests, which are on the path: `make cluster-demo`.
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console

from cyclesep.checkpoints.metadata import METADATA_FILE
from tests.support.fault_proxy import FaultProxy
from tests.support.ray_site import Site
from tests.support.s3_server import S3, SwiftServer

ROOT = Path(__file__).resolve().parent.parent
CONFIGS = Path("jobs/configs/cluster-demo")
RUN = "s3://demo/runs/vocals"

console = Console(highlight=False, soft_wrap=True)


def main() -> int:
    """Run all steps; the status is that of the first one that fails."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="cyclesep-demo-") as folder, SwiftServer() as server:
        proxy = FaultProxy(server.port)
        try:
            status = _run(Path(folder), S3(server, proxy, Path(folder)))
        finally:
            proxy.stop()
    if status == 0:
        console.rule(f"done in {(time.monotonic() - began) / 60:.1f} minutes", align="left")
    return status


def _run(folder: Path, s3: S3) -> int:
    # From where every process of the cluster learns of the S3 server, as from a secret of the cluster.
    files = {"AWS_CONFIG_FILE": "config", "AWS_SHARED_CREDENTIALS_FILE": "credentials"}
    os.environ |= {name: str(folder / file) for name, file in files.items()}
    s3.configure()
    s3.client().create_bucket(Bucket="demo")
    with Site(s3, folder, dashboard=True) as site:
        site.has(2)
        console.print(f"Ray head {site.head.address} without CPUs, two nodes of one CPU, S3 on port {s3.server.port}")
        for number, job in enumerate(("ingest", "train", "tune", "evaluate"), start=1):
            console.rule(f"{number}/4  cluster/submit {job} {CONFIGS}/{job}.yaml", align="left")
            status = _submitted(site, job)
            if status != 0:
                return status
        caches = ", ".join(f"{name} {size / 1e6:.1f} MB" for name, size in site.cached_bytes().items())
        console.print(f"\nshards kept by each node: {caches}")
    return 0


def _submitted(site: Site, job: str) -> int:
    """Send a job and follow it, as a person does; the exit status is the job's."""
    words = [str(ROOT / "cluster" / "submit"), job, str(CONFIGS / f"{job}.yaml")]
    with subprocess.Popen(words, cwd=ROOT, env={**os.environ, **site.head.environment}) as submit:
        if job == "train":
            _kill_a_node(site, submit)
        return submit.wait()


def _kill_a_node(site: Site, submit: subprocess.Popen[bytes]) -> None:
    """When the run has its first checkpoint, kill one of its two nodes, and start another one."""
    while not (found := [key for key in site.listed(RUN) if key.endswith(f"/{METADATA_FILE}")]):
        if submit.poll() is not None:
            return
        time.sleep(0.2)
    console.print(f"[bold]{found[0].split('/')[0]} is in S3: one of two nodes is killed, another one started[/bold]")
    site.nodes[0].kill()
    site.has(2)


if __name__ == "__main__":
    sys.exit(main())
