"""A command prints only what a user can act on, without status messages of Ray and torch."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from ray._private import worker as ray_worker

from cyclesep.cluster import connect

HELPER_ACTORS = (
    "WARNING: 8 PYTHON worker processes have been started on node: 3f with address: 127.0.0.1, which is 4x the maximum "
    "expected startup concurrency (2). This could be a result of using a large number of actors"
)
OTHER_CLUSTERS = (
    "2026-11-22 10:00:00,000 WARNING services.py:443 -- Found multiple active Ray instances: {'127.0.0.1:1', "
    "'127.0.0.1:2'}. Connecting to latest cluster at 127.0.0.1:1."
)

DEAD_NODE = (
    "[2026-11-23 05:50:42,682 E 9 9] (gcs_server) gcs_placement_group_scheduler.cc:273: Failed to remove 1 bundle(s) "
    "for placement group 97 at node f5 because the max retry count is reached.",
    "The node with node id: f5 and address: 10.0.0.7 and node name: 10.0.0.7 has been marked dead because the detector "
    "has missed too many heartbeats from it. This can happen when a \t(1) raylet crashes unexpectedly (OOM, etc.) \n"
    "\t(2) raylet has lagging heartbeats due to slow network or busy workload.\n",
    "Raylet is terminated. Termination is unexpected. Possible reasons include: (1) SIGKILL by the user or system OOM "
    "killer. Last 20 lines of the Raylet logs:\n    [state-dump] DebugString() time ms: 0\n    [state-dump]\n",
)


def test_noise_of_ray_is_dropped_and_everything_else_is_printed(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert connect.connect is not None
    data = {"pid": 7, "ip": "127.0.0.1", "job": "01", "is_err": True, "lines": [OTHER_CLUSTERS, "step 7 is odd"]}
    ray_worker.print_to_stdstream(data, ignore_prefix=True)
    ray_worker.print_to_stdstream({"pid": "raylet", "is_err": False, "lines": [HELPER_ACTORS]}, ignore_prefix=True)
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err == "step 7 is odd\n"


def test_a_node_that_dies_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    for message in DEAD_NODE:
        ray_worker.print_to_stdstream({"pid": "raylet", "is_err": False, "lines": [message]}, ignore_prefix=True)
    assert capsys.readouterr().out == "node 10.0.0.7 is lost: it died or stopped responding\n"


@pytest.mark.xdist_group("ray")
def test_a_training_run_prints_its_own_lines_only(tiny_shards: Path, tmp_path: Path) -> None:
    arguments = (
        f"train shards={tiny_shards} name=quiet steps=2 validate_every=1 num_dataloader_workers=1 "
        "num_validation_crops=2 crops.crop_seconds=0.5 crops.batch_size=4 method.separator.channels=8 "
        "method.separator.depth=1 method.discriminator.channels=4"
    )
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    done = subprocess.run(
        [sys.executable, "-c", "from cyclesep.cli.main import main; main()", *arguments.split(" ")],
        cwd=tmp_path, env=environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    number = r"[-+]?\d+\.\d+"
    line = rf"quiet: step [12]/2  .*SDR {number} dB \(SI-SDR {number}\)  .*crops/s, .*"
    assert [text for text in done.stderr.splitlines() if not re.fullmatch(line, text)] == []
    assert [text.split(" ")[0] for text in done.stdout.splitlines()] == [
        "runs/quiet:",
        "best",
        "report:",
    ]
