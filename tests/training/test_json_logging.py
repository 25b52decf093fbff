"""A worker's log: lines of JSON with run, rank and step."""

import json
import logging
from pathlib import Path

import pytest

from cyclesep.training.json_logging import log_to_file


def test_each_line_has_run_rank_step_and_message(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    log, steps = logging.getLogger("cyclesep.cyclegan.collapse_monitor"), iter((0, 7))
    monkeypatch.setattr(logging.getLogger(), "handlers", [logging.StreamHandler()])
    with log_to_file(tmp_path, run="night", rank=1, step=lambda: next(steps)):
        log.info("validated", extra={"validation/sdr": 4.5})
        log.warning("collapsed\nto silence")
        log.debug("below INFO")
    log.info("after the run")
    lines = [json.loads(line) for line in (tmp_path / "logs/rank-1.jsonl").read_text().splitlines()]
    assert [(line["run"], line["rank"], line["step"], line["level"]) for line in lines] == [
        ("night", 1, 0, "INFO"),
        ("night", 1, 7, "WARNING"),
    ]
    assert lines[0]["validation/sdr"] == 4.5
    assert lines[1]["message"] == "collapsed\nto silence"
    assert lines[0]["logger"] == "cyclesep.cyclegan.collapse_monitor"
    stderr = capfd.readouterr().err
    assert "collapsed" in stderr
    assert "validated" not in stderr


def test_a_resumed_run_appends_to_its_log(tmp_path: Path) -> None:
    for step in (0, 5):
        with log_to_file(tmp_path, run="night", rank=0, step=lambda step=step: step):
            logging.getLogger("cyclesep").info("started")
    lines = (tmp_path / "logs/rank-0.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [0, 5]
