"""A command prints only what a user can act on, without status messages of Ray and torch."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest


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
    line = rf"quiet: step [12]/2  .*SDR {number} dB, SI-SDR {number} dB \(SI-SDRi {number}\)  .*crops/s, .*"
    assert [text for text in done.stderr.splitlines() if not re.fullmatch(line, text)] == []
    assert [text.split(" ")[0] for text in done.stdout.splitlines()] == [
        "runs/quiet:",
        "best",
        "report:",
    ]
